"""Gains known before clustering: negative ones flip signs, zeros pin a centroid, through training and saving."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from edgepalette.cluster.centroids import Initialization, initialize
from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.nearest import nearest_reference
from edgepalette.cluster.plan import ClusterPlan

K = 4
# sums of at most 40 products in float32, in another order
ROUNDING = 64 * float(np.finfo(np.float32).eps)
# of the four outputs of a kernel of (10, 4): one negated, one all zeros
GAINS = np.broadcast_to(np.array([2.0, -0.5, 0.0, 1.0]), (10, 4))


def model_with_zero_channel(**compile_arguments: Any) -> Any:
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(4, name="dense")])
    kernel = model.layers[0].kernel.numpy()
    kernel[:, 2] = 0
    model.layers[0].kernel.assign(kernel)
    if compile_arguments:
        model.compile(**compile_arguments)
    return model


def plan(model: Any, gains: Mapping[str, NDArray[np.float64]] | None = None) -> ClusterPlan:
    return ClusterPlan.of(model, K, gains={"dense/kernel": GAINS} if gains is None else gains)


def values_of_products(kernel: NDArray[np.float32]) -> int:
    """Distinct values of signs · kernel: what the deployed model needs."""
    return len(np.unique(np.where(GAINS < 0, -kernel, kernel)))


def data() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    random = np.random.default_rng(0)
    return random.normal(size=(32, 10)), random.normal(size=(32, 4))


def test_the_plan_takes_signs_and_a_pinned_zero_from_the_gains() -> None:
    (planned,) = plan(model_with_zero_channel()).clustered
    assert planned.signs is not None
    np.testing.assert_array_equal(planned.signs, np.where(GAINS < 0, -1, 1))
    assert planned.signs.dtype == np.int8
    assert planned.pin_zero


def test_gains_above_zero_and_of_other_weights_change_nothing() -> None:
    for gains in ({"dense/kernel": np.abs(GAINS) + 1}, {"other/kernel": GAINS}):
        (planned,) = plan(model_with_zero_channel(), gains).clustered
        assert planned.signs is None
        assert not planned.pin_zero


@pytest.mark.parametrize("how", list(Initialization))
def test_a_pinned_start_has_zero_for_the_value_nearest_to_it(how: Initialization) -> None:
    weight = np.random.default_rng(0).normal(0.3, size=50).astype(np.float32)
    free, pinned = (initialize(weight, 5, how, pin_zero=pin) for pin in (False, True))
    nearest = np.argmin(np.abs(free))
    assert pinned[nearest] == 0
    np.testing.assert_array_equal(np.delete(pinned, nearest), np.delete(free, nearest))


def test_an_uncompiled_model_is_clustered_negated_where_its_gain_is_negative() -> None:
    model = model_with_zero_channel()
    before = model.layers[0].kernel.numpy()
    cluster_weights(model, plan(model))
    kernel = model.layers[0].kernel.numpy()
    assert values_of_products(kernel) <= K
    np.testing.assert_array_equal(kernel[:, 2], 0)
    signs = np.where(GAINS < 0, -1, 1)
    centroids = initialize((signs * before).astype(np.float32), K, Initialization.KMEANS, True)
    nearest = nearest_reference((signs * before).astype(np.float32), centroids)
    np.testing.assert_array_equal(kernel, signs * centroids[nearest])


def test_one_step_splits_the_negated_gradient_and_leaves_the_pinned_centroid() -> None:
    rate = 0.25
    model = model_with_zero_channel(optimizer=keras.optimizers.SGD(rate), loss="mse")
    cluster_weights(model, plan(model))
    (variable,) = model.optimizer.clustered_variables
    original, centroids = variable.original.numpy(), variable.centroids.numpy()
    indices = variable.indices.numpy()
    signs = np.where(GAINS < 0, -1, 1)
    gradient = np.random.default_rng(1).normal(size=(10, 4)).astype(np.float32)

    model.optimizer.apply([tf.constant(gradient), tf.zeros(4)], model.trainable_variables)

    flipped = signs * gradient
    sums = np.bincount(indices.reshape(-1), flipped.reshape(-1), K) * (centroids != 0)
    np.testing.assert_allclose(
        variable.original.numpy(), original - rate * flipped, rtol=0, atol=ROUNDING
    )
    np.testing.assert_allclose(
        variable.centroids.numpy(), centroids - rate * sums, rtol=0, atol=10 * ROUNDING
    )
    assert np.count_nonzero(variable.centroids.numpy() == 0) == 1
    new = nearest_reference(variable.original.numpy(), variable.centroids.numpy())
    np.testing.assert_array_equal(variable.kernel.numpy(), signs * variable.centroids.numpy()[new])


def test_training_keeps_the_products_values_shared_and_zero_among_them() -> None:
    model = model_with_zero_channel(
        optimizer=keras.optimizers.Adam(0.05), loss="mse", run_eagerly=True
    )
    cluster_weights(model, plan(model))
    model.fit(*data(), epochs=3, batch_size=16, verbose=0)
    (variable,) = model.optimizer.clustered_variables
    assert values_of_products(variable.kernel.numpy()) <= K
    assert np.count_nonzero(variable.centroids.numpy() == 0) == 1


def test_signs_and_the_pinned_zero_survive_saving_in_the_middle_of_training(
    tmp_path: Path,
) -> None:
    model = model_with_zero_channel(
        optimizer=keras.optimizers.Adam(0.05), loss="mse", run_eagerly=True
    )
    cluster_weights(model, plan(model))
    options = {"epochs": 2, "batch_size": 16, "verbose": 0, "shuffle": False}
    model.fit(*data(), **options)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    loaded.run_eagerly = True
    for one in (model, loaded):
        one.fit(*data(), **options)
    assert [v.numpy().tobytes() for v in loaded.weights] == [
        v.numpy().tobytes() for v in model.weights
    ]
    assert values_of_products(loaded.layers[0].kernel.numpy()) <= K


def test_a_constraint_acts_on_the_kernel_the_user_constrained() -> None:
    """NonNeg on a kernel with a negated channel: the kernel itself must not go below zero."""
    keras.utils.set_random_seed(2)
    layer = keras.layers.Dense(
        4, name="dense", kernel_constraint="non_neg", kernel_initializer="random_uniform"
    )
    model = keras.Sequential([keras.Input((10,)), layer])
    layer.kernel.assign(np.abs(layer.kernel.numpy()) + 1)
    model.compile(keras.optimizers.SGD(0.01), "mse")
    cluster_weights(model, plan(model, {"dense/kernel": GAINS + 0.1}))
    model.optimizer.apply([tf.zeros((10, 4)), tf.zeros(4)], model.trainable_variables)
    assert layer.kernel.numpy().min() >= 0
    assert layer.kernel.numpy()[:, 1].max() > 0
