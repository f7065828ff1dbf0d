"""Small Keras models of every kind, and data for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

SIDE, CHANNELS, CLASSES = 6, 3, 4


class Subclassed(keras.Model):
    """A model with sublayers as attributes and in a list."""

    def __init__(self) -> None:
        super().__init__(name="subclassed")
        self.convolution = keras.layers.Conv2D(4, 3, activation="relu", name="convolution")
        self.rest = [keras.layers.Flatten(), keras.layers.Dense(CLASSES, name="head")]

    def call(self, inputs: Any) -> Any:
        outputs = self.convolution(inputs)
        for layer in self.rest:
            outputs = layer(outputs)
        return outputs


def sequential() -> Any:
    """Every clustered Keras class that reads pictures, with BatchNorm and Dropout."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, CHANNELS)),
            layers.Conv2D(4, 3, padding="same", name="conv"),
            layers.BatchNormalization(name="norm"),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, name="depthwise"),
            layers.Conv2DTranspose(5, 2, name="transpose"),
            layers.Dropout(0.3, seed=5, name="dropout"),
            layers.Flatten(),
            layers.Dense(CLASSES, name="head"),
        ],
        name="sequential",
    )


def functional() -> Any:
    """Two branches added, one of them Conv1D over the rows."""
    layers = keras.layers
    inputs = keras.Input((SIDE, SIDE, CHANNELS))
    rows = layers.Reshape((SIDE, SIDE * CHANNELS))(inputs)
    left = layers.Conv1D(4, 3, padding="same", name="rows")(rows)
    right = layers.Dense(4, name="branch")(rows)
    joined = layers.Flatten()(layers.ReLU()(layers.Add()([left, right])))
    return keras.Model(inputs, layers.Dense(CLASSES, name="head")(joined), name="functional")


def nested() -> Any:
    """A model inside a model, whose layers' paths repeat those outside."""
    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input((SIDE, SIDE, CHANNELS)), layers.Conv2D(4, 3, name="conv")], name="inner"
    )
    inputs = keras.Input((SIDE, SIDE, CHANNELS))
    outputs = layers.Flatten()(layers.ReLU()(inner(inputs)))
    return keras.Model(inputs, layers.Dense(CLASSES, name="conv")(outputs), name="nested")


def shared_layer() -> Any:
    """One Dense layer read twice."""
    layers = keras.layers
    inputs = keras.Input((SIDE, SIDE, CHANNELS))
    shared = layers.Dense(CHANNELS, activation="tanh", name="twice")
    outputs = layers.Flatten()(shared(shared(inputs)))
    return keras.Model(inputs, layers.Dense(CLASSES, name="head")(outputs), name="shared")


def subclassed() -> Any:
    """A subclassed model, built."""
    model = Subclassed()
    model(np.zeros((1, SIDE, SIDE, CHANNELS), np.float32))
    return model


BUILDERS: dict[str, Callable[[], Any]] = {
    builder.__name__: builder
    for builder in (sequential, functional, nested, shared_layer, subclassed)
}


@pytest.fixture
def build() -> Callable[..., Any]:
    """Builds one of BUILDERS with weights that do not depend on the tests before; `compile` arguments compile it."""

    def build(name: str, **compile_arguments: Any) -> Any:
        keras.utils.set_random_seed(7)
        model = BUILDERS[name]()
        if compile_arguments:
            model.compile(**compile_arguments)
        return model

    return build


@pytest.fixture(scope="session")
def pictures() -> NDArray[np.float32]:
    """(48, 6, 6, 3)."""
    return np.random.default_rng(0).normal(size=(48, SIDE, SIDE, CHANNELS)).astype(np.float32)


@pytest.fixture(scope="session")
def labels() -> NDArray[np.int32]:
    """(48,), four classes."""
    return np.random.default_rng(1).integers(0, CLASSES, 48).astype(np.int32)
