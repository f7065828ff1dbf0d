"""A weight as k-means in one dimension wants it: sorted, with prefix sums, so that any interval costs O(1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .nearest import midpoints

Float = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sample:
    """The elements of a weight, ascending, each with what its squared error counts.

    values: (N,) ascending. mass, first, second: (N + 1,) sums of m, m·x and m·x² over the elements before each place,
    where x is counted from `center`: squares of large equal offsets would drown the differences.
    """

    values: NDArray[Any]
    mass: Float
    first: Float
    second: Float
    center: float

    @classmethod
    def of(cls, weight: NDArray[Any], sensitivity: NDArray[Any] | None = None) -> Sample:
        """weight: any shape. sensitivity: of the same shape, not negative: what an element's error counts (all 1)."""
        flat = weight.reshape(-1)
        if sensitivity is None:
            values = np.sort(flat)
            mass = np.arange(len(values) + 1, dtype=np.float64)
            masses = None
        else:
            order = np.argsort(flat, kind="stable")
            values, masses = flat[order], _masses(sensitivity.reshape(-1))[order]
            mass = _prefix(masses)
        center = float(values[len(values) // 2])
        centered = np.subtract(values, center, dtype=np.float64)
        moment = centered if masses is None else centered * masses
        return cls(values, mass, _prefix(moment), _prefix(np.multiply(moment, centered)), center)

    @property
    def size(self) -> int:
        """Number of elements."""
        return len(self.values)

    def means(self, edges: NDArray[np.intp]) -> Float:
        """Mean of the elements between each two neighbouring edges; NaN where none lies."""
        masses = np.diff(self.mass[edges])
        filled = np.diff(edges) > 0
        sums = np.diff(self.first[edges])
        return np.divide(sums, masses, out=np.full(len(sums), np.nan), where=filled) + self.center

    def errors(self, starts: NDArray[np.intp], ends: NDArray[np.intp]) -> Float:
        """Squared error of each interval [start, end) about its own mean: Σmx² - (Σmx)² / Σm; inf if end < start."""
        mass = self.mass[ends] - self.mass[starts]
        first = self.first[ends] - self.first[starts]
        second = self.second[ends] - self.second[starts]
        spread = np.divide(first * first, mass, out=np.zeros_like(second), where=mass > 0)
        return np.where(ends < starts, np.inf, np.maximum(second - spread, 0))

    def edges(self, ascending: Float) -> NDArray[np.intp]:
        """Where the members of each of the ascending centroids begin, and N."""
        # in the values' own type, else numpy converts all of them for a few borders
        borders = midpoints(ascending).astype(self.values.dtype)
        inner = np.searchsorted(self.values, borders, side="right")
        return np.concatenate([[0], inner, [self.size]])

    def error(self, ascending: Float) -> float:
        """Weighted sum of squared distances to the nearest of the ascending centroids."""
        edges = self.edges(ascending)
        starts, ends = edges[:-1], edges[1:]
        shift = ascending - self.center
        mass, first, second = (
            sums[ends] - sums[starts] for sums in (self.mass, self.first, self.second)
        )
        return float(np.sum(second - 2 * shift * first + shift * shift * mass))


def _prefix(values: Float) -> Float:
    sums = np.zeros(len(values) + 1)
    np.cumsum(values, out=sums[1:])
    return sums


def _masses(sensitivity: NDArray[Any]) -> Float:
    """Positive masses: an element the loss does not feel still belongs somewhere."""
    masses = sensitivity.astype(np.float64)
    mean = float(masses.mean())
    return masses / mean + LEAST_MASS if mean > 0 else np.ones_like(masses)


# what an element counts at least, as a part of the mean: estimates from a few batches call many elements worthless
LEAST_MASS = 1e-2
