"""The plan: which weight gets how many clusters, and which are left alone and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError, RecipeError
from .aggregation import GradientAggregation
from .centroids import Initialization, initialize
from .channels import Channels, channel_axes, is_depthwise
from .nearest import nearest_reference
from .palette import MAX_CLUSTERS
from .weights import LayerWeight, layer_weights

# what Keras' layers call the weights they multiply their inputs by, or look up
CLUSTERED_NAMES = frozenset(
    {"kernel", "recurrent_kernel", "depthwise_kernel", "pointwise_kernel", "embeddings"}
)
# a depthwise kernel is a few weights per channel, each channel with its own spread: fewer values for all of them cost
# accuracy and save next to nothing
LEAST_DEPTHWISE_CLUSTERS = 16
# a kernel with this part of exact zeros was pruned, and stays so
SPARSE_PART = 0.3


@dataclass(frozen=True)
class Override:
    """One line of selective clustering: what `pattern` names gets `clusters`, or is skipped if None.

    pattern: a layer's name, its class, or a weight's name, each with shell wildcards (`block_*`, `Dense`, `*/kernel`).
    per_channel: whether each output channel gets values of its own; None as the plan says.
    """

    pattern: str
    clusters: int | None
    per_channel: bool | None = None

    def matches(self, weight: LayerWeight) -> bool:
        """Whether this line speaks of `weight`."""
        last_name = weight.layer_name.rsplit("/", 1)[-1]
        names = {weight.name, weight.layer_name, last_name, weight.layer_type}
        return any(fnmatchcase(name, self.pattern) for name in names)


@dataclass(frozen=True, eq=False)
class PlannedWeight:
    """A weight that will share `clusters` values.

    channels: the output channels, if each has values of its own.
    signs: ±1 in the weight's shape where some are -1: what shares the values is signs · weight.
    pin_zero: whether one of the values stays 0.
    sparse: whether weights that are 0 stay 0.
    int8: whether the values lie on the grid of symmetric int8 weights.
    sensitivity: in the weight's shape, what an element's error counts when the first values are placed.
    raised: whether it got more clusters than were asked for, as a depthwise kernel.
    """

    weight: LayerWeight
    clusters: int
    initialization: Initialization
    channels: Channels | None = None
    signs: NDArray[np.int8] | None = None
    pin_zero: bool = False
    sparse: bool = False
    int8: bool = False
    sensitivity: NDArray[np.float32] | None = None
    seed: int = 0
    raised: bool = False

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.weight.shape)

    @property
    def flips(self) -> Any:
        """The signs, or 1."""
        return 1 if self.signs is None else self.signs

    @property
    def notes(self) -> tuple[str, ...]:
        """What is special about it, for people."""
        said = {
            f"a depthwise kernel gets at least {LEAST_DEPTHWISE_CLUSTERS} clusters": self.raised,
            "every output channel has values of its own": self.channels is not None,
            "channels with a negative gain are clustered negated": self.signs is not None,
            "zeros stay zeros, one of the values among them": self.sparse,
            "one value stays 0 for channels that are all zero": self.pin_zero and not self.sparse,
        }
        return tuple(text for text, holds in said.items() if holds)

    def values(self) -> NDArray[np.float32]:
        """What shares the values now: signs · weight."""
        return np.asarray(self.weight.variable.numpy() * self.flips)

    def start(self) -> NDArray[np.float32]:
        """The first centroids: (clusters,), or (channels, clusters)."""
        values = self.values()

        def placed(part: NDArray[np.float32], felt: NDArray[np.float32] | None) -> Any:
            return initialize(
                part, self.clusters, self.initialization, self.pin_zero, felt, self.seed
            )

        if self.channels is None:
            return np.asarray(placed(values, self.sensitivity))
        felt = None if self.sensitivity is None else self.channels.array_rows(self.sensitivity)
        return np.stack(
            [
                placed(row, None if felt is None else felt[number])
                for number, row in enumerate(self.channels.array_rows(values))
            ]
        )

    def cluster(self) -> NDArray[np.float32]:
        """The weight with its first centroids' values in place of its own."""
        values, start = self.values(), self.start()
        if self.channels is None:
            return np.asarray(self.flips * start[nearest_reference(values, start)])
        rows = self.channels.array_rows(values)
        near = [
            table[nearest_reference(row, table)] for row, table in zip(rows, start, strict=True)
        ]
        return np.asarray(self.flips * self.channels.array_unrows(np.stack(near)))


@dataclass(frozen=True, eq=False)
class KeptWeight:
    """A weight left alone, and the reason."""

    weight: LayerWeight
    reason: str

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.weight.shape)


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
        per_channel: bool = False,
        min_size: int = 0,
        preserve_sparsity: bool = True,
        int8: bool = False,
        sensitivity: Mapping[str, NDArray[np.float32]] | None = None,
        seed: int = 0,
    ) -> ClusterPlan:
        """The plan for a built Keras model; of several overrides that match, the last one counts.

        Depthwise kernels no override speaks of get at least 16 clusters, if not per channel. Weights of layers that are
        not Keras' own are clustered if they have two dimensions or more and are not called bias.

        per_channel: values of its own for every output channel.
        min_size: weights of fewer elements are left alone, unless an override names them.
        preserve_sparsity: in a kernel of which 30 % or more is 0, what is 0 stays 0.
        int8: hold the values on the grid of int8 while training.
        sensitivity: by weight name, as `sensitivities` gives them; others count all elements the same.
        seed: of initialisations that are drawn.
        gains: by weight name, what each element is multiplied by in the deployed model (BatchNorm's factor, say), in
        the weight's shape. A negative one flips the element's sign before clustering, one that is 0 pins a centroid
        to 0: then the products need no more values than the weight has clusters.

        Raises RecipeError for a number of clusters outside 2–256 or a pattern that names nothing, ModelError for a
        model with nothing to cluster, a weight to cluster that is not finite, or sensitivities that are not finite or of
        no weight of the model.
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
            own = next((e.per_channel for e in reversed(lines) if e.per_channel is not None), None)
            apart = per_channel if own is None else own
            default = clusters if apart else _default_clusters(weight, clusters)
            asked = lines[-1].clusters if lines else default
            reason = _reason_to_keep(weight, asked, 0 if lines else min_size, apart)
            if reason is not None or asked is None:
                kept.append(KeptWeight(weight, reason or "skipped by the recipe"))
                continue
            if not np.isfinite(weight.variable.numpy()).all():
                raise ModelError(
                    f"every weight to cluster must be finite, got NaN or infinity in {weight.name}; "
                    "train the model again with a smaller learning rate, or skip the weight"
                )
            channels = _channels(weight) if apart else None
            # a table of its own takes a negative gain as it is
            gain = (gains or {}).get(weight.name) if channels is None else None
            sparse = preserve_sparsity and _is_sparse(weight)
            clustered.append(
                PlannedWeight(
                    weight,
                    asked,
                    initialization,
                    channels=channels,
                    signs=None if gain is None else _signs(gain),
                    pin_zero=sparse or (gain is not None and bool(np.any(gain == 0))),
                    sparse=sparse,
                    int8=int8,
                    sensitivity=(sensitivity or {}).get(weight.name),
                    seed=seed,
                    raised=asked > clusters and not lines,
                )
            )
        if unused:
            raise RecipeError(
                f"every layer pattern must name a layer of the model, got {unused[0].pattern!r}; "
                f"its layers: {', '.join(sorted({w.layer_name for w in layer_weights(model)}))}"
            )
        plan = cls(tuple(clustered), tuple(kept), aggregation)
        _check_sensitivity(sensitivity or {}, plan)
        if not clustered:
            raise ModelError(
                "the model must have a weight to cluster, got none:\n"
                + "\n".join(f"  {k.weight.name}: {k.reason}" for k in kept)
            )
        return plan

    def planned(self, variable: Any) -> PlannedWeight:
        """What is planned for a variable that is clustered."""
        return next(planned for planned in self.clustered if planned.weight.variable is variable)


def check_clusters(clusters: int) -> None:
    """Raises RecipeError unless 2 ≤ clusters ≤ 256."""
    if not 2 <= clusters <= MAX_CLUSTERS:
        raise RecipeError(
            f"the number of clusters must lie between 2 and {MAX_CLUSTERS}, got {clusters}"
        )


def _check_sensitivity(felt: Mapping[str, NDArray[np.float32]], plan: ClusterPlan) -> None:
    # of the weights left alone too: sensitivities measured once serve many plans
    names = [p.weight.name for p in plan.clustered] + [k.weight.name for k in plan.kept]
    for name, values in felt.items():
        if name not in names:
            raise ModelError(f"sensitivity must be of weights of the model, got {name!r}; they are {', '.join(names)}")  # fmt: skip
        if not np.isfinite(values).all():
            raise ModelError(f"sensitivity must be finite, got NaN or infinity for {name}; measure it on other batches")  # fmt: skip


def _signs(gain: NDArray[np.float64]) -> NDArray[np.int8] | None:
    return np.where(gain < 0, -1, 1).astype(np.int8) if np.any(gain < 0) else None


def _default_clusters(weight: LayerWeight, clusters: int) -> int:
    if is_depthwise(weight.layer, weight.variable.name):
        return max(clusters, LEAST_DEPTHWISE_CLUSTERS)
    return clusters


def _channels(weight: LayerWeight) -> Channels:
    axes = channel_axes(weight.layer, weight.variable.name, weight.shape)
    return Channels.of(weight.shape, axes)


def _is_sparse(weight: LayerWeight) -> bool:
    return float(np.mean(weight.variable.numpy() == 0)) >= SPARSE_PART


def _reason_to_keep(weight: LayerWeight, clusters: int | None, min_size: int, per_channel: bool) -> str | None:  # fmt: skip
    """Why a weight stays as it is; None if it can be clustered."""
    if len(weight.shape) < 2:
        return f"{weight.variable.name} vectors stay as they are"
    if not _is_multiplied(weight):
        return f"{weight.variable.name} of {weight.layer_type} is not clustered"
    if str(weight.variable.dtype) != "float32":
        return f"its type is {weight.variable.dtype}, float32 is clustered"
    if getattr(weight.layer, "lora_enabled", False):
        return "its layer adds LoRA matrices to it, which would undo the sharing; merge them first"
    if not weight.variable.numpy().any():
        return "all its elements are 0; train the model before it is clustered"
    size = prod(weight.shape)
    if clusters is not None and size <= clusters:
        return f"it has {size} elements, no more than its {clusters} clusters"
    row = size // _channels(weight).count if per_channel else size
    if clusters is not None and row <= clusters:
        return f"each of its channels has {row} elements, no more than their {clusters} clusters"
    if size < min_size:
        return f"it has {size} elements, fewer than the {min_size} asked for"
    return None


def _is_multiplied(weight: LayerWeight) -> bool:
    """Whether products of a weight are what its layer computes."""
    if weight.variable.name in CLUSTERED_NAMES:
        return True
    own = type(weight.layer).__module__.split(".", 1)[0] != "keras"
    trained = any(weight.variable is variable for variable in weight.layer._trainable_variables)
    return own and trained and weight.variable.name != "bias"
