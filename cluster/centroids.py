"""Where the shared values start: pure functions from a weight to K centroids."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .nearest import midpoints

LLOYD_ITERATIONS = 300
# cuts of each kind the best intervals may end at
GRID = 512


class Initialization(Enum):
    """How the first centroids are placed."""

    KMEANS = "kmeans"
    LINEAR = "linear"


def linear(weight: NDArray[np.float32], clusters: int) -> NDArray[np.float32]:
    """K values evenly spaced from the smallest to the largest weight, both included."""
    return np.asarray(np.linspace(weight.min(), weight.max(), clusters), np.float32)


def kmeans(weight: NDArray[np.float32], clusters: int) -> NDArray[np.float32]:
    """K centroids by Lloyd's algorithm in one dimension (Lloyd 1982), ascending, deterministic.

    Started from the best intervals on a grid, from evenly spaced quantiles and from evenly spaced values; the smallest
    squared error wins.
    On a sorted weight a cluster is an interval, so an iteration costs O(K log N) through prefix sums.
    Raises nothing for fewer distinct values than clusters: the spare centroids lie between the values.
    """
    ordered = np.sort(weight.reshape(-1).astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    quantiles = np.quantile(ordered, (np.arange(clusters) + 0.5) / clusters)
    evenly = np.linspace(ordered[0], ordered[-1], clusters)
    starts = (_best_on_grid(ordered, sums, clusters), quantiles, evenly)
    results = [_lloyd(ordered, sums, start) for start in starts]
    best = min(results, key=lambda centroids: squared_error(ordered, centroids))
    return best.astype(np.float32)


def _best_on_grid(
    ordered: NDArray[np.float64], sums: NDArray[np.float64], clusters: int
) -> NDArray[np.float64]:
    """Means of the best K intervals of the sorted weight whose ends lie on a grid.

    Dynamic programming over the grid's cuts, O(K · GRID²) (Wang and Song 2011, Ckmeans.1d.dp), half of the cuts evenly
    spaced in value and half in rank.
    """
    by_value = np.searchsorted(ordered, np.linspace(ordered[0], ordered[-1], GRID))
    by_rank = np.linspace(0, len(ordered), GRID).astype(int)
    cuts = np.unique(np.concatenate([[0, len(ordered)], by_value, by_rank]))
    squares = np.concatenate([[0.0], np.cumsum(np.square(ordered))])
    # squared error of the interval between every two cuts: Σx² - (Σx)² / n
    size, total, square = (np.subtract.outer(p, p).T for p in (cuts, sums[cuts], squares[cuts]))
    error = np.maximum(square - total * total / np.maximum(size, 1), 0)
    error[size < 0] = np.inf
    # best[j]: least error of the clusters so far over everything below cut j
    best, choices = error[0], []
    for _ in range(clusters - 1):
        together = best[:, None] + error
        choices.append(together.argmin(axis=0))
        best = np.take_along_axis(together, choices[-1][None], axis=0)[0]
    ends = [len(cuts) - 1]
    for choice in reversed(choices):
        ends.append(int(choice[ends[-1]]))
    edges = cuts[[0, *reversed(ends)]]
    means = np.diff(sums[edges]) / np.maximum(np.diff(edges), 1)
    # an empty interval has no mean; the start is refilled where the error is largest
    return np.where(np.diff(edges) > 0, means, ordered[0])


def squared_error(weight: NDArray[Any], centroids: NDArray[Any]) -> float:
    """Sum of squared distances to the nearest centroid."""
    ascending = np.sort(centroids)
    values = ascending[np.searchsorted(midpoints(ascending), weight.reshape(-1), side="left")]
    return float(np.square(weight.reshape(-1) - values, dtype=np.float64).sum())


def _lloyd(
    ordered: NDArray[np.float64], sums: NDArray[np.float64], start: NDArray[np.float64]
) -> NDArray[np.float64]:
    centroids = _spread(ordered, start)
    for _ in range(LLOYD_ITERATIONS):
        edges = np.searchsorted(ordered, midpoints(centroids), side="right")
        edges = np.concatenate([[0], edges, [len(ordered)]])
        sizes = np.diff(edges)
        means = np.diff(sums[edges]) / np.maximum(sizes, 1)
        # an empty cluster moves to the member farthest from its centroid: K asked is K given
        updated = np.sort(np.where(sizes > 0, means, np.nan))
        empty = int(np.isnan(updated).sum())
        if empty:
            updated = _refill(ordered, updated[: len(updated) - empty], empty)
        if np.array_equal(updated, centroids):
            break
        centroids = updated
    return centroids


def _spread(ordered: NDArray[np.float64], start: NDArray[np.float64]) -> NDArray[np.float64]:
    """The start without repeated values: repeats are refilled where the error is largest."""
    distinct = np.unique(start)
    return _refill(ordered, distinct, len(start) - len(distinct))


def _refill(
    ordered: NDArray[np.float64], centroids: NDArray[np.float64], missing: int
) -> NDArray[np.float64]:
    for _ in range(missing):
        position = np.searchsorted(midpoints(centroids), ordered, side="left")
        distance = np.abs(ordered - centroids[position])
        farthest = ordered[int(np.argmax(distance))]
        if farthest in centroids:  # fewer distinct values than clusters: any spare value will do
            farthest = centroids[-1] + max(1.0, abs(centroids[-1])) * 2.0**-20
        centroids = np.sort(np.append(centroids, farthest))
    return centroids


def initialize(
    weight: NDArray[np.float32], clusters: int, how: Initialization, pin_zero: bool = False
) -> NDArray[np.float32]:
    """`clusters` start values for a weight of any shape; with `pin_zero` the one nearest 0 is 0."""
    start = {Initialization.KMEANS: kmeans, Initialization.LINEAR: linear}[how](weight, clusters)
    if pin_zero:
        start[np.argmin(np.abs(start))] = 0
    return start
