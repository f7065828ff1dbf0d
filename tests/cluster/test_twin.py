"""The twin that trains as int8 runs: what it rounds, what it shares, what it leaves to the model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edgepalette.cluster.model import cluster_weights, strip_clustering
from edgepalette.cluster.plan import ClusterPlan
from edgepalette.cluster.twin import FakeQuantized, int8_twin
from edgepalette.errors import ModelError

Build = Callable[..., Any]


def residual() -> Any:
    """A convolution with BatchNorm and ReLU, one with BatchNorm alone, their sum, pooling, a head."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="conv")(inputs)
    x = layers.ReLU(name="relu")(layers.BatchNormalization(name="norm")(x))
    y = layers.BatchNormalization(name="branch_norm")(
        layers.Conv2D(8, 3, padding="same", name="branch")(x)
    )
    x = layers.ReLU(name="sum_relu")(layers.Add(name="sum")([x, y]))
    x = layers.Dropout(0.2, seed=1)(layers.Flatten()(layers.MaxPooling2D()(x)))
    return keras.Model(inputs, layers.Dense(4, activation="softmax", name="head")(x))


def batch(count: int = 32) -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    return random.normal(size=(count, 8, 8, 3)).astype(np.float32), np.arange(count) % 4


@pytest.mark.parametrize("seed", range(4))
def test_values_are_rounded_to_the_nearest_of_256_even_steps_that_hold_zero(seed: int) -> None:
    layer = FakeQuantized()
    values = np.random.default_rng(seed).normal(seed - 1, 1, (50, 40)).astype(np.float32)
    rounded = layer(values, training=True).numpy()
    low, high = min(values.min(), 0), max(values.max(), 0)
    step = (high - low) / 255
    np.testing.assert_allclose(rounded / step, np.round(rounded / step), atol=1e-3)
    assert len(np.unique(rounded)) <= 256
    # the grid is shifted by less than half a step, so that zero is one of its points
    assert np.abs(rounded - values).max() <= step * 1.001
    assert layer(np.zeros((1, 1), np.float32)).numpy() == 0


def test_the_range_follows_the_batches_of_training_and_no_others() -> None:
    layer = FakeQuantized()
    layer(np.float32([[-1, 3]]), training=True)
    assert (float(layer.low.value), float(layer.high.value)) == (-1, 3)
    layer(np.float32([[-50, 50]]), training=False)
    layer(np.float32([[1, 4]]), training=True)
    assert float(layer.low.value) == pytest.approx(-0.99)
    assert float(layer.high.value) == pytest.approx(3.01)


def test_outputs_are_rounded_where_an_int8_file_has_a_tensor() -> None:
    twin = int8_twin(residual())
    assert twin.rounded == ("branch_norm", "relu", "sum_relu")
    # its softmax lies behind values the twin cannot reach
    assert twin.unrounded == ("head",)


def test_a_twin_that_has_seen_nothing_predicts_as_the_model() -> None:
    model, (x, _) = residual(), batch()
    twin = int8_twin(model).model
    np.testing.assert_array_equal(twin(x, training=False), model(x, training=False))


@pytest.mark.parametrize("jit", [False, True])
def test_training_the_twin_trains_the_model_which_stays_plain_keras(
    tmp_path: Path, jit: bool
) -> None:
    model, (x, y) = residual(), batch()
    plan = ClusterPlan.of(model, 4, int8=True)
    twin = int8_twin(model).model
    assert list(map(id, twin.trainable_variables)) == list(map(id, model.trainable_variables))
    twin.compile("adam", "sparse_categorical_crossentropy", jit_compile=jit)
    cluster_weights(twin, plan)
    before = twin.evaluate(x, y, verbose=0)
    twin.fit(x, y, batch_size=16, epochs=6, verbose=0)
    strip_clustering(twin)
    assert twin.evaluate(x, y, verbose=0) < before
    for planned in plan.clustered:
        assert len(np.unique(planned.weight.variable.numpy())) <= 4
    assert not any("fake_quantized" in v.path for v in model.variables)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert {type(layer).__module__.split(".")[0] for layer in loaded.layers} == {"keras"}
    np.testing.assert_array_equal(loaded(x, training=False), model(x, training=False))
    # rounding changes a little, and only in the twin
    difference = np.abs(twin(x, training=False) - model(x, training=False)).max()
    assert 0 < difference < 0.1


def test_ranges_stay_in_single_precision_under_mixed_precision() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model, (x, y) = residual(), batch()
        twin = int8_twin(model).model
    finally:
        keras.config.set_dtype_policy(before)
    twin.compile("adam", "sparse_categorical_crossentropy", jit_compile=False)
    cluster_weights(twin, ClusterPlan.of(model, 4, int8=True))
    twin.fit(x, y, batch_size=16, verbose=0)
    layer = next(layer for layer in twin.layers if isinstance(layer, FakeQuantized))
    assert str(layer.high.dtype) == "float32"
    assert float(layer.batches.value) == 2
    assert str(layer(x.astype(np.float16)).dtype).endswith("float16'>")


@pytest.mark.parametrize("name", ["sequential", "functional", "nested", "shared_layer"])
def test_every_form_but_a_class_of_ones_own_has_a_twin(build: Build, name: str) -> None:
    model = build(name)
    twin = int8_twin(model)
    assert twin.model.input_shape == model.input_shape
    assert twin.model.output_shape == model.output_shape
    assert {id(v) for v in twin.model.trainable_variables} == {
        id(v) for v in model.trainable_variables
    }
    nested = {layer.name for layer in model.layers if isinstance(layer, keras.Model)}
    assert nested <= set(twin.unrounded)


def test_a_class_of_ones_own_is_refused_with_what_to_do(build: Build) -> None:
    with pytest.raises(ModelError, match=r"functional or Sequential model, got .*wrap it"):
        int8_twin(build("subclassed"))


def test_integer_inputs_stay_integers() -> None:
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(10, 4, name="table")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="head")(layers.Flatten()(x)))
    twin = int8_twin(model)
    assert twin.rounded == ("table",)
    assert twin.model(np.zeros((2, 6), np.int32), training=True).shape == (2, 2)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_activations_that_are_all_zero_stay_numbers(jit_compile: bool) -> None:
    model = keras.Sequential(
        [
            keras.Input((5,)),
            layers.Dense(4, activation="relu", bias_initializer=keras.initializers.Constant(-99.0)),
            layers.Dense(3),
        ]
    )
    twin = int8_twin(model).model
    twin.compile("sgd", "mse", jit_compile=jit_compile)
    x = np.random.default_rng(0).normal(size=(16, 5)).astype(np.float32)
    history = twin.fit(x, np.ones((16, 3), np.float32), epochs=2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
