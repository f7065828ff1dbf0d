"""K-means in one dimension. On a sorted weight a cluster is an interval, which is what makes it cheap and exact."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .nearest import midpoints
from .sample import Float, Sample

LLOYD_ITERATIONS = 300
# cuts of each kind the best intervals on a grid may end at
GRID = 512
# intervals compared at a time: few enough to stay in the processor's cache
CANDIDATES = 1 << 14


def kmeans(sample: Sample, clusters: int) -> Float:
    """K ascending centroids by Lloyd's algorithm (Lloyd 1982), deterministic.

    Started from the best intervals on a grid, from evenly spaced quantiles and from evenly spaced values; the smallest
    squared error wins. O(N log N) for the sample, then O(K log N) per iteration.
    Fewer distinct values than clusters: the spare centroids lie between or beside the values.
    """
    values = sample.values
    quantiles = values[((np.arange(clusters) + 0.5) / clusters * sample.size).astype(int)]
    evenly = np.linspace(values[0], values[-1], clusters)
    starts = (_best_on_grid(sample, clusters), quantiles, evenly)
    return min((lloyd(sample, start) for start in starts), key=sample.error)


def kmeans_plus_plus(sample: Sample, clusters: int, random: np.random.Generator) -> Float:
    """K ascending centroids: seeds drawn by squared distance (Arthur and Vassilvitskii 2007), then Lloyd.

    tfmot's initialisation of this name stops at the seeds.
    """
    masses = np.diff(sample.mass)
    distance = np.ones(sample.size)
    seeds: list[float] = []
    for _ in range(clusters):
        chances = np.cumsum(distance * masses)
        if chances[-1] <= 0:  # every distinct value is a seed already
            break
        place = np.searchsorted(chances, random.random() * chances[-1], side="right")
        seeds.append(float(sample.values[min(place, sample.size - 1)]))
        farther = np.square(sample.values - seeds[-1], dtype=np.float64)
        distance = farther if len(seeds) == 1 else np.minimum(distance, farther)
    return lloyd(sample, np.resize(np.asarray(seeds), clusters))


def optimal(sample: Sample, clusters: int) -> Float:
    """K ascending centroids of the least squared error there is; of the sample, where it holds neighbours as one.

    Dynamic programming over the places where clusters may end (Wang and Song 2011), each row by divide and conquer:
    the best start of the last cluster moves right with its end. O(K N log N) time and O(K N) memory over the N
    distinct values, of which a sample has at most 2^18.
    """
    # equal values never part, so clusters end only where the value changes
    cuts = np.concatenate([[0], np.flatnonzero(np.diff(sample.values)) + 1, [sample.size]])
    used = min(clusters, len(cuts) - 1)
    best = sample.errors(np.zeros_like(cuts), cuts)
    choices = []
    for _ in range(used - 1):
        best, choice = _row(sample, cuts, best)
        choices.append(choice)
    means = sample.means(_trace(cuts, choices))
    # values a rounding apart tie, and a tie may leave a cluster empty
    means = np.unique(means[~np.isnan(means)])
    return _refill(sample, means, clusters - len(means))


def lloyd(sample: Sample, start: Float) -> Float:
    """Ascending centroids after Lloyd's iterations from `start`, as many as it has entries."""
    distinct = np.unique(np.asarray(start, np.float64))
    centroids = _refill(sample, distinct, len(start) - len(distinct))
    for _ in range(LLOYD_ITERATIONS):
        # an empty cluster moves to the member farthest from its centroid: K asked is K given
        means = np.sort(sample.means(sample.edges(centroids)))
        empty = int(np.isnan(means).sum())
        updated = _refill(sample, means[: len(means) - empty], empty)
        if np.array_equal(updated, centroids):
            break
        centroids = updated
    return centroids


def _best_on_grid(sample: Sample, clusters: int) -> Float:
    """Means of the best K intervals whose ends lie on a grid, half of its cuts evenly spaced in value, half in rank.

    O(K · GRID²); an empty interval gives a repeated value.
    """
    values = sample.values
    by_value = np.searchsorted(values, np.linspace(values[0], values[-1], GRID))
    by_rank = np.linspace(0, sample.size, GRID).astype(int)
    cuts = np.unique(np.concatenate([[0, sample.size], by_value, by_rank]))
    starts, ends = np.meshgrid(cuts, cuts, indexing="ij")
    error = sample.errors(starts, ends)
    # best[j]: least error of the clusters so far over everything below cut j
    best, choices = error[0], []
    for _ in range(clusters - 1):
        together = best[:, None] + error
        choices.append(together.argmin(axis=0))
        best = np.take_along_axis(together, choices[-1][None], axis=0)[0]
    means = sample.means(_trace(cuts, choices))
    return np.where(np.isnan(means), values[0], means)


def _trace(cuts: NDArray[np.intp], choices: list[NDArray[np.intp]]) -> NDArray[np.intp]:
    """Edges of the best intervals over everything, from the choices of each row."""
    ends = [len(cuts) - 1]
    for choice in reversed(choices):
        ends.append(int(choice[ends[-1]]))
    return cuts[[0, *reversed(ends)]]


def _row(sample: Sample, cuts: NDArray[np.intp], best: Float) -> tuple[Float, NDArray[np.intp]]:
    """(least error with one cluster more below every cut, cut at which that cluster starts)."""
    count = len(cuts)
    least = np.zeros(count)
    choice = np.zeros(count, np.intp)
    step = 1 << (count.bit_length() - 1)
    while step:
        # between each two solved cuts the one in the middle, whose choice lies between theirs
        places = np.arange(step - 1, count, 2 * step)
        solved = choice[2 * step - 1 :: 2 * step]
        low = np.insert(solved, 0, 0)[: len(places)]
        high = np.minimum(np.append(solved, count)[: len(places)], places)
        shares = np.flatnonzero(np.diff(np.cumsum(high - low + 1) // CANDIDATES)) + 1
        for part in np.split(np.arange(len(places)), shares):
            ends = places[part]
            least[ends], choice[ends] = _least(sample, cuts, best, ends, low[part], high[part])
        step //= 2
    return least, choice


def _least(
    sample: Sample,
    cuts: NDArray[np.intp],
    best: Float,
    places: NDArray[np.intp],
    low: NDArray[np.intp],
    high: NDArray[np.intp],
) -> tuple[Float, NDArray[np.intp]]:
    """For each place the least of best[i] + error of [cut i, cut place) over low ≤ i ≤ high, and its first i."""
    lengths = high - low + 1
    firsts = np.cumsum(lengths) - lengths
    owner = np.repeat(np.arange(len(places)), lengths)
    starts = np.arange(len(owner)) - (firsts - low)[owner]
    errors = best[starts] + sample.errors(cuts[starts], cuts[places][owner])
    least = np.minimum.reduceat(errors, firsts)
    hits = np.flatnonzero(errors == least[owner])
    first_hits = hits[np.diff(owner[hits], prepend=-1) > 0]
    return least, starts[first_hits]


def _refill(sample: Sample, centroids: Float, missing: int) -> Float:
    """The ascending centroids and `missing` more, each at the element farthest from those before it."""
    for _ in range(missing):
        ends = sample.edges(centroids)
        # the farthest member of an interval is one of its two ends
        low, high = np.minimum(ends[:-1], sample.size - 1), np.maximum(ends[1:] - 1, 0)
        candidates = sample.values[np.concatenate([low, high])].astype(np.float64)
        position = np.searchsorted(midpoints(centroids), candidates, side="left")
        farthest = candidates[np.argmax(np.abs(candidates - centroids[position]))]
        if farthest in centroids:  # fewer distinct values than clusters: any spare value will do
            farthest = centroids[-1] + max(1.0, abs(centroids[-1])) * 2.0**-20
        centroids = np.sort(np.append(centroids, farthest))
    return centroids
