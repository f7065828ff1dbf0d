"""Clustered weights recovered from a model's values."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.plan import ClusterPlan, Override
from edgepalette.export.clustered import clustered_weights
from edgepalette.export.model_gains import model_gains


@pytest.fixture
def model() -> Any:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(8, 3, name="conv", use_bias=False),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(5, name="head"),
        ]
    )


def test_the_weights_of_a_clustered_model_are_found_with_their_centroids(model: Any) -> None:
    cluster_weights(model, ClusterPlan.of(model, 5, [Override("head", None)]))
    (found,) = clustered_weights(model)
    assert found.name == "conv/kernel"
    np.testing.assert_array_equal(found.values, model.get_layer("conv").kernel.numpy())
    np.testing.assert_array_equal(found.centroids, np.unique(found.values))
    assert len(found.centroids) == 5


def test_a_model_clustered_by_any_other_tool_is_found_as_well(model: Any) -> None:
    kernel = model.get_layer("head").kernel
    kernel.assign(np.round(kernel.numpy() * 10) / 10)
    assert [weight.name for weight in clustered_weights(model)] == ["head/kernel"]


@pytest.mark.parametrize(("distinct", "found"), [(256, True), (257, False)])
def test_more_than_256_values_are_no_palette(distinct: int, found: bool) -> None:
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(16)])
    values = np.arange(1024, dtype=np.float32) % distinct
    model.layers[0].kernel.assign(values.reshape(64, 16))
    assert bool(clustered_weights(model)) == found


def test_values_shared_by_fewer_than_two_elements_are_no_palette() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    model.layers[0].kernel.assign(np.repeat(np.arange(8), 2).reshape(4, 4))
    assert len(clustered_weights(model)) == 1
    model.layers[0].kernel.assign(np.minimum(np.arange(16), 8).reshape(4, 4))
    assert clustered_weights(model) == []


def test_channels_clustered_negated_are_found_negated(model: Any) -> None:
    model.get_layer("norm").gamma.assign([1, -1, 2, -2, 3, 1, 1, -1])
    gains = model_gains(model)
    cluster_weights(model, ClusterPlan.of(model, 5, [Override("head", None)], gains=gains))
    assert len(np.unique(model.get_layer("conv").kernel.numpy())) > 5
    (found,) = clustered_weights(model, gains)
    assert len(found.centroids) == 5
    kernel = model.get_layer("conv").kernel.numpy()
    np.testing.assert_array_equal(found.values, np.where(gains["conv/kernel"] < 0, -kernel, kernel))


def test_model_gains_are_batchnorms_factors_in_the_weights_shape(model: Any) -> None:
    norm = model.get_layer("norm")
    gamma, variance = np.linspace(-1, 2, 8), np.linspace(0.5, 3, 8)
    gamma[3] = 0
    norm.gamma.assign(gamma)
    norm.moving_variance.assign(variance)
    gains = model_gains(model)
    expected = gamma / np.sqrt(variance + norm.epsilon)
    # float32 products of three factors
    tolerance = 8 * float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(
        gains["conv/kernel"], np.broadcast_to(expected, (3, 3, 3, 8)), rtol=tolerance
    )
    np.testing.assert_allclose(gains["head/kernel"], np.ones((128, 5)), rtol=tolerance)
