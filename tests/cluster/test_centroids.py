"""First centroids: k-means in one dimension against scikit-learn and against all partitions, and the other starts."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from edgepalette.cluster.centroids import Initialization, initialize, squared_error
from edgepalette.cluster.nearest import nearest_reference
from edgepalette.cluster.sample import MOST_CELLS, Sample

# float32 centroids of two programs at the same minimum
ROUNDING = 1 + 1e-6


def kmeans(weight: NDArray[np.float32], clusters: int) -> NDArray[np.float32]:
    return initialize(weight, clusters, Initialization.KMEANS)


def linear(weight: NDArray[np.float32], clusters: int) -> NDArray[np.float32]:
    return initialize(weight, clusters, Initialization.LINEAR)


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
    check_against_scikit_learn(weight, clusters)
    ours = kmeans(weight, clusters)
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


@pytest.mark.parametrize("number", range(20))
def test_kmeans_is_as_good_as_scikit_learn_on_random_kernels(number: int) -> None:
    random = np.random.default_rng(number)
    shape = (3, 3, int(random.integers(2, 40)), int(random.integers(2, 40)))
    weight = random.standard_t(random.integers(2, 30), size=shape).astype(np.float32)
    check_against_scikit_learn(weight, int(random.choice([2, 4, 8, 16, 32])))


@pytest.mark.parametrize("number", range(5))
def test_kmeans_is_as_good_as_scikit_learn_on_real_kernels(number: int, shared: Path) -> None:
    import keras

    kernels = [
        layer.kernel
        for layer in load(shared / "models" / "resnet8_cifar10_jpeg.keras").layers
        if hasattr(layer, "kernel")
    ]
    assert isinstance(kernels[0], keras.Variable)
    check_against_scikit_learn(kernels[2 * number].numpy(), 16)


def check_against_scikit_learn(weight: NDArray[np.float32], clusters: int) -> None:
    peer = KMeans(clusters, n_init=10, random_state=0).fit(weight.reshape(-1, 1))
    theirs = squared_error(weight, peer.cluster_centers_.reshape(-1))
    assert squared_error(weight, kmeans(weight, clusters)) <= theirs * ROUNDING


def load(path: Path) -> Any:
    import keras

    return keras.models.load_model(path, compile=False)


@given(
    hnp.arrays(np.int64, st.integers(1, 9), elements=st.integers(-6, 6)),
    st.integers(2, 5),
    st.integers(0, 99),
)
@settings(deadline=None, max_examples=200)
def test_optimal_is_the_best_of_all_partitions(
    values: NDArray[np.int64], clusters: int, seed: int
) -> None:
    weight = np.sort(values).astype(np.float32)
    masses = np.random.default_rng(seed).random(len(weight)) + 0.1
    sample = Sample.of(weight, masses)
    count = len(weight)
    best = min(
        sum(
            float(sample.errors(np.array([start]), np.array([end]))[0])
            for start, end in zip((0, *cuts), (*cuts, count), strict=True)
        )
        for cuts in combinations(range(1, count), min(clusters, count) - 1)
    )
    ours = initialize(weight, clusters, Initialization.OPTIMAL, sensitivity=masses)
    assert sample.error(ours.astype(np.float64)) == pytest.approx(best, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("how", list(Initialization))
@pytest.mark.parametrize("clusters", [2, 4, 16, 64, 256])
@pytest.mark.parametrize("name", ["normal", "heavy tails", "half zero"])
def test_every_start_gives_as_many_values_as_asked(
    name: str, clusters: int, how: Initialization
) -> None:
    weight = np.repeat(kernel(name).reshape(-1), 3)
    distinct = len(np.unique(weight))
    centroids = initialize(weight, clusters, how)
    assert centroids.dtype == np.float32
    assert np.all(np.diff(centroids) >= 0)
    assert len(np.unique(centroids)) >= min(clusters, distinct)
    if distinct >= clusters:  # else spare values lie beside the weight's
        assert weight.min() <= centroids.min()
        assert centroids.max() <= weight.max()
    np.testing.assert_array_equal(centroids, initialize(weight, clusters, how))


@pytest.mark.parametrize("how", list(Initialization))
def test_every_start_copes_with_a_constant_weight(how: Initialization) -> None:
    centroids = initialize(np.full((3, 2), 0.7, np.float32), 4, how)
    assert centroids.shape == (4,)
    assert np.all(np.isfinite(centroids))


@pytest.mark.parametrize("how", list(Initialization))
def test_values_a_rounding_apart_give_no_nan(how: Initialization) -> None:
    grid = np.array([0.1, 0.9], np.float32)
    weight = np.tile(np.concatenate([grid, np.nextafter(grid, np.float32(2))]), 1250)
    centroids = initialize(weight, 4, how)
    assert np.all(np.isfinite(centroids))


def test_density_based_gives_64_of_64_where_values_crowd() -> None:
    random = np.random.default_rng(0)
    crowd = np.concatenate([np.zeros(5000), random.normal(size=200)]).astype(np.float32)
    assert len(np.unique(initialize(crowd, 64, Initialization.DENSITY_BASED))) == 64


def test_density_based_puts_the_same_mass_around_every_value() -> None:
    weight = np.random.default_rng(0).exponential(size=8000).astype(np.float32)
    centroids = initialize(weight, 8, Initialization.DENSITY_BASED)
    np.testing.assert_allclose(
        [np.mean(weight <= value) for value in centroids], (np.arange(8) + 0.5) / 8, atol=1e-3
    )


@pytest.mark.parametrize("extra", [0, 1, 12345])
def test_a_large_weight_is_clustered_as_well_as_a_small_one(extra: int) -> None:
    """Neighbours in rank count as one element beyond 2^18: next to nothing is lost."""
    size = 3 * MOST_CELLS + extra
    weight = np.random.default_rng(extra).standard_t(5, size=size).astype(np.float32)
    sample = Sample.of(weight)
    assert len(sample.values) <= MOST_CELLS
    assert sample.mass[-1] == size
    ascending = np.sort(weight).astype(np.float64)
    for how in (Initialization.KMEANS, Initialization.OPTIMAL):
        centroids = initialize(weight, 4, how)
        exact = np.square(ascending - centroids[nearest_reference(ascending, centroids)]).sum()
        assert sample.error(centroids.astype(np.float64)) == pytest.approx(exact, rel=1e-4)
        lloyd = centroids.astype(np.float64)
        for _ in range(20):
            codes = nearest_reference(ascending, lloyd)
            lloyd = np.bincount(codes, ascending) / np.bincount(codes)
        best = np.square(ascending - lloyd[nearest_reference(ascending, lloyd)]).sum()
        assert exact <= best * (1 + 1e-4)


def test_drawn_starts_follow_their_seed() -> None:
    weight = kernel("normal")
    for how in (Initialization.RANDOM, Initialization.KMEANS_PLUS_PLUS):
        first, again, other = (initialize(weight, 16, how, seed=seed) for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("how", [Initialization.KMEANS, Initialization.OPTIMAL])
def test_sensitivity_moves_values_to_what_the_loss_feels(how: Initialization) -> None:
    weight = np.random.default_rng(0).normal(size=4000).astype(np.float32)
    felt = np.where(weight > 1, 100.0, 1.0)
    plain, weighted = (initialize(weight, 8, how, sensitivity=s) for s in (None, felt))
    assert np.sum(weighted > 1) > np.sum(plain > 1)
    sample = Sample.of(weight, felt)
    assert sample.error(weighted.astype(float)) < sample.error(plain.astype(float))


def test_a_sensitivity_of_zeros_counts_all_the_same() -> None:
    weight = kernel("normal")
    np.testing.assert_array_equal(
        initialize(weight, 8, Initialization.KMEANS, sensitivity=np.zeros_like(weight)),
        kmeans(weight, 8),
    )


@given(
    hnp.arrays(np.float32, 30, elements=st.integers(-99, 99).map(np.float32)),
    hnp.arrays(np.float32, 5, elements=st.integers(-99, 99).map(np.float32)),
)
@settings(deadline=None, max_examples=50)
def test_squared_error_is_the_sum_over_the_nearest(
    weight: NDArray[np.float32], centroids: NDArray[np.float32]
) -> None:
    naive = np.square(weight[:, None] - centroids).min(axis=1).sum()
    assert squared_error(weight, centroids) == pytest.approx(naive, rel=1e-12, abs=1e-6)


def test_evenly_spaced_values_of_large_weights_start_at_the_ends() -> None:
    weight = np.random.default_rng(0).standard_t(2, size=MOST_CELLS * 4).astype(np.float32)
    first = linear(weight, 16)
    assert (first[0], first[-1]) == (weight.min(), weight.max())
