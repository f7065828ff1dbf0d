"""Built-in models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def digits_cnn(input_shape: tuple[int, ...], classes: int) -> Any:
    """Two convolutions and a dense layer for 8×8 digits: about 64,000 weights, seconds to train."""
    import keras
    from keras import layers

    inputs = keras.Input(input_shape)
    x = layers.Rescaling(1 / 16)(inputs)
    for filters in (32, 64):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU()(x)
        x = layers.MaxPooling2D()(x)
    x = layers.Flatten()(x)
    x = layers.Dense(128, activation="relu")(x)
    x = layers.Dropout(0.3)(x)
    outputs = layers.Dense(classes, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="digits_cnn")


def resnet8(input_shape: tuple[int, ...], classes: int) -> Any:
    """The residual network of MLPerf Tiny's image classification (mlcommons/tiny): 78,000 weights."""
    import keras
    from keras import layers, regularizers

    def convolution(x: Any, filters: int, size: int, stride: int) -> Any:
        return layers.Conv2D(
            filters,
            size,
            strides=stride,
            padding="same",
            kernel_initializer="he_normal",
            kernel_regularizer=regularizers.l2(1e-4),
        )(x)

    inputs = keras.Input(input_shape)
    x = convolution(inputs, 16, 3, 1)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    for filters, stride in ((16, 1), (32, 2), (64, 2)):
        y = convolution(x, filters, 3, stride)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(convolution(y, filters, 3, 1))
        if stride > 1:
            x = convolution(x, filters, 1, stride)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.AveragePooling2D(pool_size=(x.shape[1], x.shape[2]))(x)
    x = layers.Flatten()(x)
    outputs = layers.Dense(classes, activation="softmax", kernel_initializer="he_normal")(x)
    return keras.Model(inputs, outputs, name="resnet8")


ZOO: dict[str, Callable[[tuple[int, ...], int], Any]] = {
    "digits-cnn": digits_cnn,
    "resnet8": resnet8,
}
