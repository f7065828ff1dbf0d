"""Codes and centroids that keep a layer's outputs: against exhaustive search and against the nearest values."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgepalette.cluster.centroids import Initialization, initialize
from edgepalette.cluster.compensation import BLOCK, LinearMap, compensate, following
from edgepalette.cluster.nearest import nearest_reference


def linear_map(seed: int, groups: int, inputs: int, outputs: int) -> LinearMap:
    """Inputs that depend on each other, as a layer's do: only then can one weight make up for another."""
    random = np.random.default_rng(seed)
    mixing = random.normal(size=(groups, inputs, inputs)) * 0.5 ** np.arange(inputs)
    x = np.maximum(random.normal(size=(groups, 300, inputs)) @ mixing, 0)
    gram = np.swapaxes(x, 1, 2) @ x / 300
    weight = random.normal(size=(groups, inputs, outputs))
    return LinearMap(weight, gram, random.random((groups, outputs)) + 0.1)


def nearest_error(linear: LinearMap, clusters: int) -> float:
    weight = linear.weight.astype(np.float32)
    start = initialize(weight, clusters, Initialization.KMEANS)
    return linear.error(start[nearest_reference(weight, start)].astype(np.float64))


@pytest.mark.parametrize("clusters", [2, 4, 8, 16])
@pytest.mark.parametrize(
    ("groups", "inputs", "outputs"), [(1, 40, 30), (12, 9, 2), (1, 2 * BLOCK + 5, 7)]
)
def test_outputs_are_kept_better_than_by_the_nearest_values(
    groups: int, inputs: int, outputs: int, clusters: int
) -> None:
    linear = linear_map(clusters, groups, inputs, outputs)
    centroids, clustered = compensate(linear, clusters)
    assert clustered.shape == linear.weight.shape
    assert np.all(np.diff(centroids) >= 0)
    assert np.isin(clustered, centroids).all()
    assert linear.error(clustered) < nearest_error(linear, clusters)


@given(st.integers(0, 10_000))
@settings(deadline=None, max_examples=30)
def test_two_values_of_four_weights_are_near_the_best_of_all(seed: int) -> None:
    linear = linear_map(seed, 1, 4, 1)
    _, clustered = compensate(linear, 2)
    best = min(error_of_codes(linear, np.array(codes)) for codes in product((0, 1), repeat=4))
    assert best <= linear.error(clustered) * (1 + 1e-9)
    assert linear.error(clustered) <= linear.error(np.zeros_like(linear.weight))


def error_of_codes(linear: LinearMap, codes: NDArray[Any]) -> float:
    """Error of the best two values for given codes."""
    members = np.eye(2)[codes][:, np.unique(codes)]
    gram, weight = linear.gram[0], linear.weight[0, :, 0]
    values = np.linalg.lstsq(members.T @ gram @ members, members.T @ gram @ weight, rcond=None)[0]
    return linear.error((members @ values)[None, :, None])


def test_independent_inputs_of_equal_strength_take_the_nearest_values() -> None:
    weight = np.random.default_rng(0).normal(size=(1, 30, 10))
    linear = LinearMap(weight, np.eye(30)[None], np.ones((1, 10)))
    centroids, clustered = compensate(linear, 8)
    distance = np.abs(weight[..., None] - centroids).min(axis=-1)
    np.testing.assert_allclose(np.abs(weight - clustered), distance, rtol=0, atol=1e-12)


def test_outputs_the_loss_feels_more_are_kept_better() -> None:
    linear = linear_map(1, 1, 30, 20)
    felt = np.where(np.arange(20) < 10, 1.0, 100.0)[None]
    weighted = LinearMap(linear.weight, linear.gram, felt)
    even = LinearMap(linear.weight, linear.gram, np.ones((1, 20)))
    assert weighted.error(compensate(weighted, 4)[1]) < weighted.error(compensate(even, 4)[1])


def test_a_pinned_zero_stays_among_the_values() -> None:
    centroids, clustered = compensate(linear_map(2, 1, 20, 20), 4, pin_zero=True)
    assert np.count_nonzero(centroids == 0) == 1
    assert np.any(clustered == 0)


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    linear = linear_map(3, 2, 12, 5)
    linear.gram[1] = 0
    linear.gram[0, 3, :] = linear.gram[0, :, 3] = 0
    centroids, clustered = compensate(linear, 4)
    assert np.all(np.isfinite(centroids))
    assert np.isin(clustered, centroids).all()


@pytest.mark.parametrize("scale", [0.05, 5.0])
def test_groups_without_inputs_do_not_take_values_from_the_others(scale: float) -> None:
    random = np.random.default_rng(0)
    weight = random.normal(size=(32, 9, 1))
    weight[:8] *= 5
    gram = np.tile(scale**2 * np.eye(9), (32, 1, 1))
    gram[:8] = 0
    linear = LinearMap(weight, gram, np.ones((32, 1)))
    alive = LinearMap(weight[8:], gram[8:], np.ones((24, 1)))
    assert linear.error(compensate(linear, 16)[1]) <= 1.1 * nearest_error(alive, 16)


def test_it_is_deterministic() -> None:
    first, second = (compensate(linear_map(4, 1, 50, 20), 8) for _ in range(2))
    for one, other in zip(first, second, strict=True):
        assert one.tobytes() == other.tobytes()


def test_whole_numbers_asked_are_whole_numbers_given() -> None:
    linear = linear_map(5, 1, 40, 30)
    linear = LinearMap(20 * linear.weight, linear.gram, linear.importance)
    centroids, clustered = compensate(linear, 8, allowed=np.rint)
    assert np.array_equal(centroids, np.rint(centroids))
    assert np.isin(clustered, centroids).all()
    rounded = np.rint(compensate(linear, 8)[0])
    distance = nearest_reference(linear.weight.astype(np.float32), rounded.astype(np.float32))
    assert linear.error(clustered) < linear.error(rounded[distance])


@pytest.mark.parametrize("groups", [1, 3])
def test_a_map_follows_inputs_that_changed(groups: int) -> None:
    """From the changed inputs its outputs are nearer to the original ones than the original weight's."""
    random = np.random.default_rng(0)
    then = random.normal(size=(groups, 500, 12))
    now = then @ (np.eye(12) + 0.2 * random.normal(size=(groups, 12, 12)))
    weight = random.normal(size=(groups, 12, 4))
    gram, cross = (np.swapaxes(now, 1, 2) @ x / 500 for x in (now, then))
    followed = following(LinearMap(weight, gram, np.ones((groups, 4))), cross)
    missed = [np.square(now @ w - then @ weight).mean() for w in (weight, followed.weight)]
    assert missed[1] < 0.2 * missed[0]
    same = following(LinearMap(weight, gram, np.ones((groups, 4))), gram)
    np.testing.assert_array_equal(same.weight, weight)
