"""First centroids: k-means in one dimension against scikit-learn, linear, and their corner cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from edgepalette.cluster.centroids import Initialization, initialize, kmeans, linear, squared_error
from edgepalette.cluster.nearest import nearest_reference

# Lloyd's algorithm ends in a local minimum: ours may be this much above the best of ten restarts
LOCAL_MINIMUM = 1.02


def kernel(name: str) -> NDArray[np.float32]:
    random = np.random.default_rng(0)
    drawn = {
        "normal": random.normal(size=(3, 3, 8, 7)),
        "heavy tails": random.standard_t(2, size=(3, 3, 8, 7)),
        "two humps": random.normal(size=(22, 22)) + np.repeat([-4, 4], 11)[:, None],
        "half zero": random.normal(size=(22, 22)) * (random.random((22, 22)) < 0.5),
    }
    return np.asarray(drawn[name], np.float32)


@pytest.mark.parametrize("clusters", [2, 5, 16, 50])
@pytest.mark.parametrize("name", ["normal", "heavy tails", "two humps", "half zero"])
def test_kmeans_is_as_good_as_ten_restarts_of_scikit_learn(name: str, clusters: int) -> None:
    weight = kernel(name)
    peer = KMeans(clusters, n_init=10, random_state=0).fit(weight.reshape(-1, 1))
    ours = kmeans(weight, clusters)
    assert squared_error(weight, ours) <= LOCAL_MINIMUM * peer.inertia_
    assert len(np.unique(ours)) == clusters
    assert np.all(np.diff(ours) > 0)


@given(
    st.integers(2, 12).flatmap(
        lambda k: st.tuples(
            st.just(k),
            hnp.arrays(np.int64, st.integers(k, 80), elements=st.integers(-9, 9)).filter(
                lambda values: len(np.unique(values)) >= k
            ),
        )
    )
)
@settings(deadline=None, max_examples=80)
def test_kmeans_gives_as_many_values_as_asked_when_the_weight_has_them(
    case: tuple[int, NDArray[np.int64]],
) -> None:
    clusters, values = case
    weight = values.astype(np.float32) / 8
    centroids = kmeans(weight, clusters)
    assert len(np.unique(centroids)) == clusters
    assert len(np.unique(nearest_reference(weight, centroids))) == clusters


@pytest.mark.parametrize(
    ("distinct", "clusters"), [(1, 2), (2, 2), (1, 16), (3, 16), (15, 16), (16, 16), (2, 256)]
)
def test_a_weight_that_shares_few_values_already_keeps_them_bit_for_bit(
    distinct: int, clusters: int
) -> None:
    random = np.random.default_rng(distinct)
    values = random.normal(size=distinct).astype(np.float32)
    weight = values[random.integers(0, distinct, size=(50, 70))]
    centroids = kmeans(weight, clusters)
    assert centroids.shape == (clusters,)
    np.testing.assert_array_equal(centroids[nearest_reference(weight, centroids)], weight)


def test_kmeans_puts_spare_centroids_of_zeros_and_of_one_element_somewhere_finite() -> None:
    for weight in (np.zeros((4, 4), np.float32), np.full((1,), -3e8, np.float32)):
        centroids = kmeans(weight, 7)
        assert centroids.shape == (7,)
        assert np.all(np.isfinite(centroids))


def test_kmeans_is_deterministic() -> None:
    weight = kernel("heavy tails")
    assert kmeans(weight, 16).tobytes() == kmeans(weight.copy(), 16).tobytes()


def test_kmeans_does_not_depend_on_the_order_of_the_elements() -> None:
    weight = kernel("normal")
    shuffled = np.random.default_rng(1).permutation(weight.reshape(-1))
    np.testing.assert_array_equal(kmeans(weight, 16), kmeans(shuffled, 16))


def test_linear_spaces_values_evenly_from_the_smallest_to_the_largest_weight() -> None:
    weight = np.array([[3.0, -1.0], [0.0, 1.0]], np.float32)
    np.testing.assert_array_equal(linear(weight, 5), np.array([-1, 0, 1, 2, 3], np.float32))
    assert linear(weight, 5).dtype == np.float32


def test_linear_repeats_the_value_of_a_constant_weight() -> None:
    constant = np.full((3, 2), 0.7, np.float32)
    np.testing.assert_array_equal(linear(constant, 4), np.full(4, 0.7, np.float32))


def test_initialize_follows_the_choice() -> None:
    weight = kernel("normal")
    for how, function in [(Initialization.KMEANS, kmeans), (Initialization.LINEAR, linear)]:
        np.testing.assert_array_equal(initialize(weight, 6, how), function(weight, 6))


@given(
    hnp.arrays(np.float32, 30, elements=st.integers(-99, 99).map(np.float32)),
    hnp.arrays(np.float32, 5, elements=st.integers(-99, 99).map(np.float32)),
)
@settings(deadline=None, max_examples=50)
def test_squared_error_is_the_sum_over_the_nearest(
    weight: NDArray[np.float32], centroids: NDArray[np.float32]
) -> None:
    naive = np.square(weight[:, None] - centroids).min(axis=1).sum()
    assert squared_error(weight, centroids) == naive
