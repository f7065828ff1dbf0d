"""A weight as k-means in one dimension wants it: sorted, with prefix sums, so that any interval costs O(1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .nearest import midpoints

Float = NDArray[np.float64]


# elements beyond which neighbours count as one, and how many of these are summed at a time
MOST_CELLS = 1 << 18
BLOCK = 1 << 16
# what an element counts at least, as a part of the mean: estimates from a few batches call many elements worthless
LEAST_MASS = 1e-2


@dataclass(frozen=True, eq=False)
class Sample:
    """The elements of a weight, ascending, each with what its squared error counts.

    values: (N,) ascending. mass, first, second: (N + 1,) sums of m, m·x and m·x² over the elements before each place,
    where x is counted from `center`: squares of large equal offsets would drown the differences.
    Of a weight of more than 2^18 elements, neighbours in rank are one element with the sums of all: a cluster may end
    a few elements away from where it would. Memory beside the cells: one sorted copy, with a sensitivity its order and
    masses as well (24 bytes an element).
    least, most: the smallest and the largest element; a cell lies where its middle one is.
    """

    values: NDArray[Any]
    mass: Float
    first: Float
    second: Float
    center: float
    least: float
    most: float

    @classmethod
    def of(cls, weight: NDArray[Any], sensitivity: NDArray[Any] | None = None) -> Sample:
        """weight: any shape. sensitivity: of the same shape, not negative: what an element's error counts (all 1)."""
        flat = weight.reshape(-1)
        if sensitivity is None:
            values, masses = np.sort(flat), None
        else:
            order = np.argsort(flat, kind="stable")
            values, masses = flat[order], _masses(sensitivity.reshape(-1))[order]
        center = float(values[len(values) // 2])
        together = -(-len(values) // MOST_CELLS)
        sums = _cell_sums(values, masses, center, together)
        mass, first, second = (_prefix(part) for part in sums)
        # a cell is where its middle element is, the last one where its last is
        middles = np.minimum(np.arange(len(mass) - 1) * together + together // 2, len(values) - 1)
        least, most = float(values[0]), float(values[-1])
        return cls(values[middles], mass, first, second, center, least, most)

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


def _cell_sums(
    values: NDArray[Any], masses: Float | None, center: float, together: int
) -> tuple[Float, Float, Float]:
    """Σm, Σmx and Σmx² of every `together` neighbours, a block at a time."""
    cells = -(-len(values) // together)
    sums = np.zeros((3, cells))
    for start in range(0, cells, BLOCK):
        chosen = slice(start * together, (start + BLOCK) * together)
        x = np.subtract(values[chosen], center, dtype=np.float64)
        m = np.ones_like(x) if masses is None else masses[chosen]
        edges = np.arange(0, len(x), together)
        for row, part in enumerate((m, m * x, m * x * x)):
            sums[row, start : start + len(edges)] = np.add.reduceat(part, edges)
    return sums[0], sums[1], sums[2]


def _prefix(values: Float) -> Float:
    sums = np.zeros(len(values) + 1)
    np.cumsum(values, out=sums[1:])
    return sums


def _masses(sensitivity: NDArray[Any]) -> Float:
    """Positive masses: an element the loss does not feel still belongs somewhere."""
    masses = sensitivity.astype(np.float64)
    mean = float(masses.mean())
    return masses / mean + LEAST_MASS if mean > 0 else np.ones_like(masses)
