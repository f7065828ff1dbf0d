"""Moments of what a weight is multiplied by, before and after the weights in front of it were clustered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..cluster.compensation import LinearMap, compensate, following
from .unfold import Unfolding

Float = NDArray[np.float64]
# inputs of one output beyond which their moments do not fit into memory
MOST_INPUTS = 8192


@dataclass(frozen=True, eq=False)
class Products:
    """x: a product's inputs now; x': what they were. (groups, inputs, inputs) and (groups, inputs).

    gram: E[x xᵀ]. cross: E[x x'ᵀ]. now, then: E[x], E[x'].
    """

    gram: Float
    cross: Float
    now: Float
    then: Float

    @classmethod
    def of(
        cls,
        unfolding: Unfolding,
        pairs: Iterable[tuple[NDArray[np.float32], NDArray[np.float32]]],
    ) -> Products | None:
        """pairs: (inputs now, as they were), (N, …) each. None if the kernel is laid on no place."""
        sums: list[Float] | None = None
        count = 0
        for pair in pairs:
            for now, then in zip(*map(unfolding.patches, pair), strict=True):
                turned = np.swapaxes(now, 1, 2)
                part = [turned @ now, turned @ then, now.sum(axis=1), then.sum(axis=1)]
                sums = [
                    (0.0 if sums is None else sums[place]) + moment.astype(np.float64)
                    for place, moment in enumerate(part)
                ]
                count += now.shape[1]
        return cls(*(moment / count for moment in sums)) if sums and count else None

    def centered(self) -> Products:
        """Without what a bias can make up for: moments about the means."""
        return Products(
            self.gram - self.now[:, :, None] * self.now[:, None, :],
            self.cross - self.now[:, :, None] * self.then[:, None, :],
            np.zeros_like(self.now),
            np.zeros_like(self.then),
        )

    def clustered(
        self,
        weight: Float,
        importance: Float,
        clusters: int,
        has_bias: bool,
        allowed: Callable[[Float], Float],
    ) -> Float:
        """The weight (groups, inputs, outputs) of at most `clusters` allowed values whose outputs are nearest to those it gave.

        importance: (groups, outputs), what an output's squared error counts. has_bias: whether means need not be kept.
        """
        moments = self.centered() if has_bias else self
        linear = following(LinearMap(weight, moments.gram, importance), moments.cross)
        return compensate(linear, clusters, allowed=allowed)[1]

    def lost(self, before: Float, after: Float) -> Float:
        """(groups · outputs,) what the mean outputs of `after` lack: what a bias makes up for."""
        means = np.einsum("gi,gio->go", self.then, before)
        return np.asarray(means - np.einsum("gi,gio->go", self.now, after)).reshape(-1)
