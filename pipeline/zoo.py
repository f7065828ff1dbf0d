"""Built-in models."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Builder = Callable[[tuple[int, ...], int], Any]


@dataclass(frozen=True)
class Network:
    """A built-in model. build: from (input shape, classes). input_shape: its own, where no data gives one."""

    build: Builder
    input_shape: tuple[int, ...]


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


def ds_cnn_l(input_shape: tuple[int, ...], classes: int) -> Any:
    """The large depthwise-separable network of keyword spotting (Zhang et al. 2017, Hello Edge): 413,000 weights.

    For 49 frames of 10 MFCCs, as data `fsdd-mfcc` has them.
    """
    import keras
    from keras import layers

    def activated(x: Any) -> Any:
        return layers.ReLU()(layers.BatchNormalization()(x))

    filters = 276
    inputs = keras.Input(input_shape)
    x = layers.Conv2D(filters, (10, 4), strides=(2, 1), padding="same", use_bias=False)(inputs)
    x = activated(x)
    for stride in (2, 1, 1, 1, 1):
        x = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(x)
        x = activated(x)
        x = activated(layers.Conv2D(filters, 1, use_bias=False)(x))
    x = layers.AveragePooling2D(pool_size=(x.shape[1], x.shape[2]))(x)
    x = layers.Dropout(0.2)(layers.Flatten()(x))
    outputs = layers.Dense(classes, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="ds_cnn_l")


def autoencoder(input_shape: tuple[int, ...], outputs: int) -> Any:
    """The fully-connected autoencoder of MLPerf Tiny's anomaly detection (mlcommons/tiny): 268,000 weights.

    For 5 frames of 128 mel bands in a row; it learns to give what it takes.
    """
    import keras
    from keras import layers

    x = inputs = keras.Input(input_shape)
    for units in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Dense(units)(x)))
    return keras.Model(inputs, layers.Dense(outputs)(x), name="autoencoder")


def _mobilenet(version: str, alpha: float) -> Builder:
    """MobileNet of keras.applications without pretrained weights, for pictures of 0 to 255."""

    def build(input_shape: tuple[int, ...], classes: int) -> Any:
        import keras
        from keras import layers

        make = {
            "v1": keras.applications.MobileNet,
            "v2": keras.applications.MobileNetV2,
        }[version]
        network = make(
            input_shape=input_shape, alpha=alpha, weights=None, include_top=False, pooling="avg"
        )
        inputs = keras.Input(input_shape)
        x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
        x = layers.Dropout(0.2)(network(x))
        outputs = layers.Dense(classes, activation="softmax")(x)
        return keras.Model(inputs, outputs, name=f"mobilenet_{version}")

    return build


def _mobilenet_network(version: str, alpha: float) -> Network:
    return Network(_mobilenet(version, alpha), (224, 224, 3))


ZOO = {
    "digits-cnn": Network(digits_cnn, (8, 8, 1)),
    "resnet8": Network(resnet8, (32, 32, 3)),
    "ds-cnn-l": Network(ds_cnn_l, (49, 10, 1)),
    "autoencoder": Network(autoencoder, (640,)),
    "mobilenet-v1": _mobilenet_network("v1", 1.0),
    "mobilenet-v2": _mobilenet_network("v2", 1.0),
}


def find_network(name: str) -> Network | None:
    """A built-in network: a name of ZOO, or a MobileNet's with its width, as mobilenet-v1-0.25."""
    if name in ZOO:
        return ZOO[name]
    found = re.fullmatch(r"mobilenet-(v1|v2)-(\d*\.?\d+)", name)
    if found is None or float(found[2]) == 0:
        return None
    return _mobilenet_network(found[1], float(found[2]))
