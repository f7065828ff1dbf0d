"""The clustered weights of any Keras model, recovered from their values."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster.palette import MAX_CLUSTERS
from ..cluster.weights import layer_weights


@dataclass(frozen=True, eq=False)
class ClusteredWeight:
    """A Keras weight that shares its values, by name."""

    name: str
    values: NDArray[np.float32]

    @property
    def centroids(self) -> NDArray[np.float32]:
        """The distinct values, ascending."""
        return np.unique(self.values)


def clustered_weights(model: Any) -> list[ClusteredWeight]:
    """Weights of two dimensions and more whose values are shared by two elements or more on average.

    Values alone tell, up to their sign (a channel with a negative gain is clustered negated): a model clustered by
    another tool is found as well.
    """
    weights = []
    for weight in layer_weights(model):
        if len(weight.shape) < 2 or str(weight.variable.dtype) != "float32":
            continue
        values = weight.variable.numpy()
        distinct = len(np.unique(np.abs(values)))
        if distinct <= MAX_CLUSTERS and 2 * distinct <= values.size:
            weights.append(ClusteredWeight(weight.name, values))
    return weights
