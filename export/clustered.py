"""The clustered weights of any Keras model, recovered from their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster.palette import MAX_CLUSTERS
from ..cluster.weights import layer_weights


@dataclass(frozen=True, eq=False)
class ClusteredWeight:
    """A Keras weight that shares its values, by name; negated where it was clustered negated."""

    name: str
    values: NDArray[np.float32]

    @property
    def centroids(self) -> NDArray[np.float32]:
        """The distinct values, ascending."""
        return np.unique(self.values)


def clustered_weights(
    model: Any, gains: Mapping[str, NDArray[np.float64]] | None = None
) -> list[ClusteredWeight]:
    """Weights of two dimensions and more whose values are shared by two elements or more on average.

    Values alone tell: a model clustered by another tool is found as well.
    gains: as `model_gains` gives them; channels with a negative one were clustered negated if that leaves fewer values.
    """
    weights = []
    for weight in layer_weights(model):
        if len(weight.shape) < 2 or str(weight.variable.dtype) != "float32":
            continue
        values = _fewest(weight.variable.numpy(), (gains or {}).get(weight.name))
        distinct = len(np.unique(values))
        if distinct <= MAX_CLUSTERS and 2 * distinct <= values.size:
            weights.append(ClusteredWeight(weight.name, values))
    return weights


def _fewest(values: NDArray[np.float32], gains: NDArray[np.float64] | None) -> NDArray[np.float32]:
    if gains is None or not np.any(gains < 0):
        return values
    negated = np.where(gains < 0, -values, values)
    return min(values, negated, key=lambda form: len(np.unique(form)))
