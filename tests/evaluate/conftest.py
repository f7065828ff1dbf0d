"""Files to run: one small clustered model, written in every format."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

CLUSTERS = 4
TRAIN = 400
TEST = 80


@dataclass(frozen=True)
class Exported:
    """Paths of the files, the test inputs beside them, labels and the Keras model's own outputs."""

    folder: Path
    labels: NDArray[np.int64]
    float_outputs: NDArray[np.float32]

    @property
    def inputs(self) -> Path:
        """The test inputs as .npy."""
        return self.folder / "x.npy"

    def file(self, name: str) -> Path:
        """`dense.tflite`, `palette.onnx`, …"""
        return self.folder / name


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    """A small digits classifier with 4 shared values per weight, as dense and palette files."""
    import keras
    from sklearn.datasets import load_digits

    from edgepalette.cluster.model import cluster_weights
    from edgepalette.cluster.plan import ClusterPlan
    from edgepalette.export.clustered import clustered_weights
    from edgepalette.export.onnx_int8 import export_onnx_int8
    from edgepalette.export.onnx_palette import export_onnx
    from edgepalette.export.tflite import export_tflite

    digits = load_digits()
    x = digits.images[..., None].astype(np.float32)
    keras.utils.set_random_seed(0)
    model = small_model()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[:TRAIN], digits.target[:TRAIN], epochs=10, verbose=0)
    plain = type(model).from_config(model.get_config())
    plain.set_weights(model.get_weights())
    cluster_weights(plain, ClusterPlan.of(plain, CLUSTERS))
    weights = clustered_weights(plain)
    with warnings.catch_warnings():
        # TensorFlow's converter says so of every int8 conversion
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
        tflite = export_tflite(plain, weights, x[:100])
    onnx = export_onnx(plain, weights)
    onnx_int8 = export_onnx_int8(plain, weights, x[:100])
    folder = tmp_path_factory.mktemp("exported")
    for form, files in [("tflite", tflite), ("onnx", onnx), ("onnx-int8", onnx_int8)]:
        (folder / f"dense.{form}").write_bytes(files.dense)
        (folder / f"palette.{form}").write_bytes(files.palette)
    tested = slice(TRAIN, TRAIN + TEST)
    np.save(folder / "x.npy", x[tested])
    outputs = np.asarray(plain(x[tested], training=False))
    return Exported(folder, digits.target[tested], outputs)


def small_model() -> Any:
    """A convolution and a dense layer on 8×8 images."""
    import keras
    from keras import layers

    inputs = keras.Input((8, 8, 1))
    y = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(inputs)
    y = layers.BatchNormalization(name="bn")(y)
    y = layers.ReLU(name="relu")(y)
    y = layers.Flatten(name="flatten")(y)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="head")(y), name="small")
