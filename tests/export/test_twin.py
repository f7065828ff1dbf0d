"""Training's twin computes what the int8 file computes, nearer than the float model does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from numpy.typing import NDArray

from edgepalette.cluster.twin import FakeQuantized, int8_twin
from edgepalette.export.tflite_schema import TensorType, read_model

Run = Callable[..., Any]


@pytest.mark.slow
def test_the_twin_with_a_files_ranges_is_nearer_to_it_than_the_float_model(
    export: Callable[..., Any], prepared: Callable[[Any], None], run: Run
) -> None:
    keras.utils.set_random_seed(2)
    inputs = x = keras.Input((12, 12, 3))
    for _ in range(4):
        x = layers.ReLU(6.0)(layers.Conv2D(16, 3, padding="same")(x))
    model = keras.Model(inputs, layers.Conv2D(5, 12)(x))
    prepared(model)
    for layer in model.layers:
        if isinstance(layer, layers.Conv2D):
            layer.kernel.assign(on_int8_grid(layer.kernel.numpy()))
    examples = np.random.default_rng(1).uniform(-1, 1, (64, 12, 12, 3)).astype(np.float32)
    twin = int8_twin(model).model
    twin(examples, training=True)
    file = export(model, examples).stock
    activations = [
        tensor.quantization
        for tensor in read_model(file).subgraphs[0].tensors
        if tensor.type == TensorType.INT8 and tensor.shape[0] == 1
    ]
    followed = [layer for layer in twin.layers if isinstance(layer, FakeQuantized)]
    for layer, quantization in zip(followed, activations[:-1], strict=True):
        step, zero = float(quantization.scale[0]), int(quantization.zero_point[0])
        # measured in training on the same examples: the same to a part of a step
        assert abs(float(layer.high.value) - step * (127 - zero)) < step
        layer.low.assign(step * (-128 - zero))
        layer.high.assign(step * (127 - zero))
    outputs, step = run(file, examples, "tflite").outputs, float(activations[-1].scale[0])
    rounded, whole = (
        # the outputs' own rounding, of variance 1/12, is not the twin's business
        np.square((m(examples, training=False) - outputs) / step).mean() - 1 / 12
        for m in (twin, model)
    )
    assert rounded < whole / 2


def on_int8_grid(kernel: NDArray[np.float32]) -> NDArray[np.float32]:
    """The kernel in int8 of one scale per output channel, as values: the file holds it exactly."""
    steps = np.abs(kernel).max(axis=tuple(range(kernel.ndim - 1))) / 127
    return np.asarray(np.round(kernel / steps) * steps, np.float32)
