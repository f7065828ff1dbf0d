"""Nearest centroid: the compiled search against its plain definition, and that against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgepalette.cluster.nearest import midpoints, nearest, nearest_reference

# multiples of 1/64: midpoints are exact in float32, so ties happen and are ties
GRID = st.integers(-400, 400).map(lambda n: np.float32(n / 64))
CLUSTERS = (2, 3, 7, 16, 17, 100, 129, 255, 256)


def on_grid(shape: int | tuple[int, ...]) -> st.SearchStrategy[NDArray[np.float32]]:
    return hnp.arrays(np.float32, shape, elements=GRID)


@given(on_grid(50), st.integers(1, 40).flatmap(on_grid))
@settings(deadline=None, max_examples=100)
def test_the_reference_takes_a_centroid_at_the_least_distance_and_on_a_tie_the_smaller(
    weight: NDArray[np.float32], centroids: NDArray[np.float32]
) -> None:
    chosen = centroids[nearest_reference(weight, centroids)]
    distances = np.abs(weight[:, None] - centroids)
    least = distances.min(axis=1)
    np.testing.assert_array_equal(np.abs(weight - chosen), least)
    smallest = np.where(distances == least[:, None], centroids, np.inf).min(axis=1)
    np.testing.assert_array_equal(chosen, smallest)


@given(on_grid((7, 5)), st.sampled_from((2, 3, 6)).flatmap(on_grid))
@settings(deadline=None, max_examples=25)
def test_the_compiled_search_equals_the_reference_on_ties_repeats_and_any_order(
    weight: NDArray[np.float32], centroids: NDArray[np.float32]
) -> None:
    indices, values = nearest(weight, centroids)
    expected = nearest_reference(weight, centroids)
    np.testing.assert_array_equal(indices.numpy(), expected)
    np.testing.assert_array_equal(values.numpy(), centroids[expected])


@pytest.mark.parametrize("clusters", CLUSTERS)
def test_the_compiled_search_equals_the_reference_for_any_number_of_clusters(clusters: int) -> None:
    random = np.random.default_rng(clusters)
    centroids = random.permutation(random.normal(size=clusters)).astype(np.float32)
    weight = (2 * random.normal(size=(3, 3, 20, 15))).astype(np.float32)
    borders = midpoints(np.sort(centroids))
    weight.reshape(-1)[: len(borders)] = borders
    weight.reshape(-1)[300 : 300 + clusters] = centroids
    weight[-1, -1, -1, :4] = [np.inf, -np.inf, np.finfo(np.float32).max, np.finfo(np.float32).min]

    indices, values = nearest(weight, centroids)

    expected = nearest_reference(weight, centroids)
    assert indices.numpy().dtype == np.int32
    np.testing.assert_array_equal(indices.numpy(), expected)
    np.testing.assert_array_equal(values.numpy(), centroids[expected])


@pytest.mark.parametrize("clusters", CLUSTERS)
@pytest.mark.parametrize("together", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("shuffled", [False, True])
def test_centroids_that_crowd_take_longer_ways_to_the_same_end(
    clusters: int, together: int, shuffled: bool
) -> None:
    """Wide tables start from even buckets; `together` centroids lie in one, evenly spaced but for that."""
    random = np.random.default_rng(clusters)
    places = np.arange(clusters) // together * together
    centroids = (places + 1e-4 * np.arange(clusters) / clusters).astype(np.float32)
    if shuffled:
        centroids = random.permutation(centroids)
    borders = midpoints(np.sort(centroids))
    around = np.concatenate([np.nextafter(borders, side) for side in (-np.inf, np.inf)])
    weight = np.concatenate(
        [
            random.uniform(-1, clusters, 5000),
            borders,
            around,
            centroids,
            [np.inf, -np.inf, 3e38, -3e38],
        ]
    ).astype(np.float32)
    indices, values = nearest(weight, centroids)
    expected = nearest_reference(weight, centroids)
    np.testing.assert_array_equal(indices.numpy(), expected)
    np.testing.assert_array_equal(values.numpy(), centroids[expected])


@pytest.mark.parametrize("clusters", [40, 256])
def test_wide_tables_of_one_value_do_no_harm(clusters: int) -> None:
    centroids = np.full(clusters, 0.25, np.float32)
    weight = np.array([-1, 0.25, 7], np.float32)
    indices, values = nearest(weight, centroids)
    np.testing.assert_array_equal(indices.numpy(), nearest_reference(weight, centroids))
    np.testing.assert_array_equal(values.numpy(), centroids[:3])


@pytest.mark.parametrize("clusters", [2, 5, 16, 33, 100])
def test_every_row_is_searched_in_its_own_centroids(clusters: int) -> None:
    random = np.random.default_rng(clusters)
    centroids = random.normal(size=(6, clusters)).astype(np.float32)
    weight = random.normal(size=(6, 70)).astype(np.float32)
    indices, values = nearest(weight, centroids)
    for row in range(6):
        expected = nearest_reference(weight[row], centroids[row])
        np.testing.assert_array_equal(indices.numpy()[row], expected)
        np.testing.assert_array_equal(values.numpy()[row], centroids[row][expected])


def test_a_weight_that_is_a_centroid_stays_what_it_is() -> None:
    centroids = np.array([0.3, -0.1, 7.5, 0.0], np.float32)
    indices, values = nearest(centroids, centroids)
    np.testing.assert_array_equal(indices.numpy(), np.arange(4))
    np.testing.assert_array_equal(values.numpy(), centroids)


def test_a_weight_on_a_border_takes_the_smaller_centroid_wherever_that_is_stored() -> None:
    weight = np.array([1.5, 2.5], np.float32)
    for centroids, expected in [([1.0, 2.0, 3.0], [0, 1]), ([3.0, 2.0, 1.0], [2, 1])]:
        table = np.array(centroids, np.float32)
        np.testing.assert_array_equal(nearest_reference(weight, table), expected)
        np.testing.assert_array_equal(nearest(weight, table)[0].numpy(), expected)
