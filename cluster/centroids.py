"""Where the shared values start: from a weight to K centroids."""

from __future__ import annotations

from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .kmeans import kmeans, kmeans_plus_plus, optimal
from .sample import Float, Sample


class Initialization(Enum):
    """How the first centroids are placed.

    KMEANS: Lloyd's algorithm from the best intervals on a grid, the default. OPTIMAL: the least squared error there
    is (of weights up to 2^18 elements, nearly so beyond), for O(K N log N). KMEANS_PLUS_PLUS: drawn seeds, then Lloyd.
    LINEAR: evenly spaced values. DENSITY_BASED: evenly spaced quantiles. RANDOM: uniform between the smallest and the
    largest weight.
    """

    KMEANS = "kmeans"
    OPTIMAL = "optimal"
    KMEANS_PLUS_PLUS = "kmeans++"
    LINEAR = "linear"
    DENSITY_BASED = "density"
    RANDOM = "random"


def initialize(
    weight: NDArray[np.float32],
    clusters: int,
    how: Initialization,
    pin_zero: bool = False,
    sensitivity: NDArray[np.float32] | None = None,
    seed: int = 0,
) -> NDArray[np.float32]:
    """`clusters` start values for a weight of any shape, ascending; with `pin_zero` the one nearest 0 is 0.

    sensitivity: in the weight's shape, what an element's squared error counts; None counts all the same.
    seed: of the choices that are drawn.
    """
    sample = Sample.of(weight, sensitivity)
    random = np.random.default_rng([seed, clusters])
    starts = {
        Initialization.KMEANS: lambda: kmeans(sample, clusters),
        Initialization.OPTIMAL: lambda: optimal(sample, clusters),
        Initialization.KMEANS_PLUS_PLUS: lambda: kmeans_plus_plus(sample, clusters, random),
        Initialization.LINEAR: lambda: linear(sample, clusters),
        Initialization.DENSITY_BASED: lambda: density_based(sample, clusters),
        Initialization.RANDOM: lambda: uniform(sample, clusters, random),
    }
    start = np.asarray(starts[how](), np.float32)
    if pin_zero:
        start[np.argmin(np.abs(start))] = 0
    return start


def linear(sample: Sample, clusters: int) -> Float:
    """K values evenly spaced from the smallest to the largest weight, both included."""
    return np.linspace(sample.least, sample.most, clusters, dtype=np.float64)


def uniform(sample: Sample, clusters: int, random: np.random.Generator) -> Float:
    """K values drawn evenly between the smallest and the largest weight."""
    return np.sort(random.uniform(sample.least, sample.most, clusters))


def density_based(sample: Sample, clusters: int) -> Float:
    """The middles of K intervals that hold the same mass, as many different ones as the weight has.

    tfmot's initialisation of this name can give a third of the values asked for.
    """
    quantiles = (np.arange(clusters) + 0.5) / clusters * sample.mass[-1]
    places = np.clip(np.searchsorted(sample.mass, quantiles, side="right") - 1, 0, sample.size - 1)
    return np.asarray(sample.values[_apart(sample, places)], np.float64)


def squared_error(weight: NDArray[Any], centroids: NDArray[Any]) -> float:
    """Sum of squared distances to the nearest centroid."""
    return Sample.of(weight.astype(np.float64)).error(np.sort(centroids.astype(np.float64)))


def _apart(sample: Sample, places: NDArray[np.intp]) -> NDArray[np.intp]:
    """Places of different values, each as near to the one asked for as its neighbours leave it."""
    firsts = np.concatenate([[0], np.flatnonzero(np.diff(sample.values)) + 1])
    if len(firsts) < len(places):  # every value, some of them repeated
        return np.asarray(np.sort(np.resize(firsts, len(places))))
    numbers = np.searchsorted(firsts, places, side="right") - 1
    ranks = np.arange(len(places))
    # strictly rising, and with enough values left above for the rest
    rising = np.maximum.accumulate(numbers - ranks) + ranks
    return np.asarray(firsts[np.minimum(rising, len(firsts) - len(places) + ranks)])
