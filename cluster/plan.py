"""The plan: which weight gets how many clusters, and which are left alone and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, RecipeError
from .aggregation import GradientAggregation
from .centroids import Initialization
from .palette import MAX_CLUSTERS
from .weights import LayerWeight, layer_weights

# kernels whose products are what a palette can stand for, by the Keras class that defines them
CLUSTERED_KERNELS = {
    "Dense": "kernel",
    "Conv1D": "kernel",
    "Conv2D": "kernel",
    "DepthwiseConv2D": "kernel",
    "Conv2DTranspose": "kernel",
}


@dataclass(frozen=True)
class Override:
    """One line of selective clustering: what `pattern` names gets `clusters`, or is skipped if None.

    pattern: a layer's name, its class, or a weight's name, each with shell wildcards (`block_*`, `Dense`, `*/kernel`).
    """

    pattern: str
    clusters: int | None

    def matches(self, weight: LayerWeight) -> bool:
        """Whether this line speaks of `weight`."""
        last_name = weight.layer_name.rsplit("/", 1)[-1]
        names = {weight.name, weight.layer_name, last_name, weight.layer_type}
        return any(fnmatchcase(name, self.pattern) for name in names)


@dataclass(frozen=True, eq=False)
class PlannedWeight:
    """A weight that will share `clusters` values.

    signs: ±1 in the weight's shape where some are -1: what shares the values is signs · weight.
    pin_zero: whether one of the values stays 0.
    """

    weight: LayerWeight
    clusters: int
    initialization: Initialization
    signs: NDArray[np.int8] | None = None
    pin_zero: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return _size(self.weight)


@dataclass(frozen=True, eq=False)
class KeptWeight:
    """A weight left alone, and the reason."""

    weight: LayerWeight
    reason: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return _size(self.weight)


@dataclass(frozen=True, eq=False)
class ClusterPlan:
    """What happens to every weight of one model."""

    clustered: tuple[PlannedWeight, ...]
    kept: tuple[KeptWeight, ...]
    aggregation: GradientAggregation

    @classmethod
    def of(
        cls,
        model: Any,
        clusters: int = 16,
        overrides: Sequence[Override] = (),
        initialization: Initialization = Initialization.KMEANS,
        aggregation: GradientAggregation = GradientAggregation.SUM,
        gains: Mapping[str, NDArray[np.float64]] | None = None,
    ) -> ClusterPlan:
        """The plan for a built Keras model; of several overrides that match, the last one counts.

        gains: by weight name, what each element is multiplied by in the deployed model (BatchNorm's factor, say), in
        the weight's shape. A negative one flips the element's sign before clustering, one that is 0 pins a centroid
        to 0: then the products need no more values than the weight has clusters.

        Raises RecipeError for a number of clusters outside 2–256 or a pattern that names nothing, ModelError for a
        model with nothing to cluster.
        """
        for number in [
            clusters,
            *(line.clusters for line in overrides if line.clusters is not None),
        ]:
            check_clusters(number)
        if not model.built:
            raise ModelError(
                f"the model must have its weights before it is clustered, got {model.name!r} not yet built; "
                "call it once on a batch or give it an Input"
            )
        clustered: list[PlannedWeight] = []
        kept: list[KeptWeight] = []
        unused = list(overrides)
        for weight in layer_weights(model):
            lines = [line for line in overrides if line.matches(weight)]
            unused = [line for line in unused if line not in lines]
            asked = lines[-1].clusters if lines else clusters
            reason = _reason_to_keep(weight, asked)
            if reason is not None or asked is None:
                kept.append(KeptWeight(weight, reason or "skipped by the recipe"))
            else:
                clustered.append(_planned(weight, asked, initialization, gains or {}))
        if unused:
            raise RecipeError(
                f"every layer pattern must name a layer of the model, got {unused[0].pattern!r}; "
                f"its layers: {', '.join(sorted({w.layer_name for w in layer_weights(model)}))}"
            )
        plan = cls(tuple(clustered), tuple(kept), aggregation)
        if not clustered:
            raise ModelError(
                "the model must have a weight to cluster, got none:\n"
                + "\n".join(f"  {k.weight.name}: {k.reason}" for k in kept)
            )
        return plan

    def signs_of(self, variable: Any) -> NDArray[np.int8]:
        """The planned signs of a variable that has some."""
        return next(
            planned.signs
            for planned in self.clustered
            if planned.weight.variable is variable and planned.signs is not None
        )


def check_clusters(clusters: int) -> None:
    """Raises RecipeError unless 2 ≤ clusters ≤ 256."""
    if not 2 <= clusters <= MAX_CLUSTERS:
        raise RecipeError(
            f"the number of clusters must lie between 2 and {MAX_CLUSTERS}, got {clusters}"
        )


def _planned(
    weight: LayerWeight,
    clusters: int,
    initialization: Initialization,
    gains: Mapping[str, NDArray[np.float64]],
) -> PlannedWeight:
    gain = gains.get(weight.name)
    if gain is None:
        return PlannedWeight(weight, clusters, initialization)
    signs = np.where(gain < 0, -1, 1).astype(np.int8) if np.any(gain < 0) else None
    return PlannedWeight(weight, clusters, initialization, signs, bool(np.any(gain == 0)))


def _size(weight: LayerWeight) -> int:
    size = 1
    for extent in weight.shape:
        size *= extent
    return size


def _reason_to_keep(weight: LayerWeight, clusters: int | None) -> str | None:
    """Why a weight stays as it is; None if it can be clustered."""
    if _kernel_name(weight.layer) != weight.variable.name:
        if len(weight.shape) < 2:
            return f"{weight.variable.name} vectors stay as they are"
        return f"{weight.layer_type} weights are not clustered"
    if str(weight.variable.dtype) != "float32":
        return f"its type is {weight.variable.dtype}, float32 is clustered"
    if clusters is not None and _size(weight) <= clusters:
        return f"it has {_size(weight)} elements, no more than its {clusters} clusters"
    return None


def _kernel_name(layer: Any) -> str | None:
    """The kernel variable of a layer of a known Keras class (or of one derived from it)."""
    names = [
        CLUSTERED_KERNELS.get(base.__name__) for base in type(layer).__mro__ if _is_keras(base)
    ]
    return next((name for name in names if name), None)


def _is_keras(cls: type) -> bool:
    return cls.__module__.split(".", 1)[0] == "keras"
