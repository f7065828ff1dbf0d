"""BatchNorm statistics measured anew, against numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from edgepalette.cluster.batchnorm import recalibrate_batchnorm
from edgepalette.errors import DataError

Build = Callable[..., Any]
# Keras sums a batch of 32 float32 values for a mean, in another order than numpy does
ROUNDING = 64 * float(np.finfo(np.float32).eps)
EPSILON = 1e-3


@pytest.fixture
def batches() -> list[NDArray[np.float32]]:
    random = np.random.default_rng(0)
    return [random.normal(size=(32, 5)).astype(np.float32) + 3 for _ in range(3)]


def stacked() -> Any:
    """Noise, BatchNorm, Dropout, BatchNorm again, with statistics and momentum far from the data's."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((5,)),
            layers.GaussianNoise(0.9, seed=1, name="noise"),
            layers.BatchNormalization(momentum=0.5, epsilon=EPSILON, name="first"),
            layers.Dropout(0.5, seed=2, name="dropout"),
            layers.Dense(4, use_bias=False, name="dense"),
            layers.AlphaDropout(0.5, seed=3, name="alpha"),
            layers.BatchNormalization(epsilon=EPSILON, name="second"),
        ]
    )


def statistics(layer: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    return layer.moving_mean.numpy(), layer.moving_variance.numpy()


def test_statistics_become_the_mean_over_the_batches_with_noise_silent(
    batches: list[NDArray[np.float32]],
) -> None:
    model = stacked()
    assert recalibrate_batchnorm(model, batches) == 2

    data = [batch.astype(np.float64) for batch in batches]
    kernel = model.get_layer("dense").kernel.numpy().astype(np.float64)
    hidden = [(d - d.mean(axis=0)) / np.sqrt(d.var(axis=0) + EPSILON) @ kernel for d in data]
    for name, inputs in [("first", data), ("second", hidden)]:
        mean, variance = statistics(model.get_layer(name))
        np.testing.assert_allclose(
            mean, np.mean([d.mean(axis=0) for d in inputs], axis=0), rtol=0, atol=10 * ROUNDING
        )
        np.testing.assert_allclose(
            variance, np.mean([d.var(axis=0) for d in inputs], axis=0), rtol=10 * ROUNDING
        )


def test_everything_else_stays_as_it_was(batches: list[NDArray[np.float32]]) -> None:
    model = stacked()
    moving = {id(v) for v in model.non_trainable_variables if "moving" in v.name}
    before = {id(v): v.numpy() for v in model.weights if id(v) not in moving}
    recalibrate_batchnorm(model, batches)
    for variable in model.weights:
        if id(variable) not in moving:
            np.testing.assert_array_equal(variable.numpy(), before[id(variable)])
    assert model.get_layer("first").momentum == 0.5
    assert model.get_layer("second").momentum == 0.99
    assert model.get_layer("dropout").rate == 0.5
    assert model.get_layer("alpha").rate == 0.5
    assert model.get_layer("noise").stddev == 0.9


def test_rates_and_momentum_come_back_after_an_error(batches: list[NDArray[np.float32]]) -> None:
    model = stacked()
    with pytest.raises(ValueError, match="incompatible with the layer"):
        recalibrate_batchnorm(model, [batches[0], batches[0][:, :2]])
    assert model.get_layer("first").momentum == 0.5
    assert model.get_layer("dropout").rate == 0.5


def test_a_frozen_layer_keeps_its_statistics(batches: list[NDArray[np.float32]]) -> None:
    model = stacked()
    frozen = model.get_layer("first")
    frozen.trainable = False
    before = statistics(frozen)
    assert recalibrate_batchnorm(model, batches) == 1
    np.testing.assert_array_equal(statistics(frozen), before)


def test_layers_of_nested_and_subclassed_models_are_found() -> None:
    class Deep(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            norm = keras.layers.BatchNormalization(name="norm")
            self.blocks = [keras.Sequential([keras.Input((5,)), norm])]

        def call(self, inputs: Any, training: bool = False) -> Any:
            return self.blocks[0](inputs, training=training)

    model = Deep()
    batch = np.random.default_rng(0).normal(2.0, size=(32, 5)).astype(np.float32)
    model(batch)
    assert recalibrate_batchnorm(model, [batch]) == 1
    norm = model.blocks[0].get_layer("norm")
    np.testing.assert_allclose(
        norm.moving_mean.numpy(), batch.mean(axis=0), rtol=ROUNDING, atol=ROUNDING
    )


def test_dropout_inside_a_recurrent_layer_is_silent_too() -> None:
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4, 5))
    states = keras.layers.GRU(3, dropout=0.9, seed=1)(inputs)
    model = keras.Model(inputs, keras.layers.BatchNormalization(name="norm")(states))
    batch = np.random.default_rng(0).normal(size=(32, 4, 5)).astype(np.float32)
    calm = keras.Model(inputs, states)(batch, training=False).numpy()
    recalibrate_batchnorm(model, [batch])
    np.testing.assert_allclose(
        model.get_layer("norm").moving_mean.numpy(),
        calm.mean(axis=0),
        rtol=0,
        atol=10 * ROUNDING,
    )


def test_a_model_without_batchnorm_has_none_to_recalibrate(
    build: Build, pictures: NDArray[np.float32]
) -> None:
    model = build("functional")
    before = model.get_weights()
    assert recalibrate_batchnorm(model, [pictures]) == 0
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_no_batch_is_an_error(batches: list[NDArray[np.float32]]) -> None:
    used = iter(batches)
    list(used)
    with pytest.raises(DataError, match="at least one batch of inputs, got none"):
        recalibrate_batchnorm(stacked(), used)
