"""A MobileNet-style model with every gain that real models surprise with, exported without loss."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers
from numpy.typing import NDArray

from edgepalette import ClusterPlan, cluster_weights, recalibrate_batchnorm
from edgepalette.evaluate.child import Request, run_file
from edgepalette.export.clustered import clustered_weights
from edgepalette.export.model_gains import model_gains
from edgepalette.export.onnx_palette import export_onnx
from edgepalette.export.tflite import TfliteFiles, export_tflite
from edgepalette.pipeline.data import Dataset, load_dataset

CLUSTERS = 16
# int8 may decide this share of images otherwise than float: the half a point
MAX_LOSS = 0.005


def mobilenet_style() -> Any:
    inputs = keras.Input((8, 8, 1))
    x = layers.Rescaling(1 / 8, offset=-1)(inputs)
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.ReLU(6.0)(x)
    for filters, stride in ((32, 1), (64, 2)):
        x = layers.DepthwiseConv2D(3, strides=stride, padding="same", use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU(6.0)(x)
        x = layers.Conv2D(filters, 1, use_bias=False)(x)
        x = layers.BatchNormalization(momentum=0.9)(x)
        x = layers.ReLU(6.0)(x)
    # behind a ReLU it cannot be folded: MUL and ADD stay
    x = layers.Conv2D(32, 3, padding="same", activation="relu")(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.Dense(48)(x)
    x = layers.BatchNormalization(momentum=0.9)(x)
    x = layers.ReLU()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def make_difficult(model: Any) -> None:
    """Gains negative, 0 and 1e-6 (with a bias), a channel of zeros, in every layer a BatchNorm follows directly."""
    for layer, norm in zip(model.layers, model.layers[1:], strict=False):
        if not isinstance(norm, layers.BatchNormalization) or not hasattr(layer, "kernel"):
            continue
        if layer.activation is not keras.activations.linear:
            continue
        kernel, gamma, beta = layer.kernel.numpy(), norm.gamma.numpy(), norm.beta.numpy()
        signs = np.where(np.random.default_rng(len(gamma)).random(len(gamma)) < 0.3, -1, 1)
        gamma = np.abs(gamma) * signs
        gamma[0], gamma[1], beta[1] = 0, 1e-6, 5
        channels_last = kernel[..., 0] if isinstance(layer, layers.DepthwiseConv2D) else kernel
        channels_last[..., 2] = 0
        layer.kernel.assign(kernel)
        norm.gamma.assign(gamma)
        norm.beta.assign(beta)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load_dataset("digits")


@pytest.fixture(scope="module")
def trained(digits: Dataset) -> Any:
    keras.utils.set_random_seed(0)
    model = mobilenet_style()
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    make_difficult(model)
    for _ in range(15):
        model.fit(digits.x_train, digits.y_train, batch_size=64, epochs=1, verbose=0)
        make_difficult(model)
    recalibrate_batchnorm(model, [digits.x_train])
    return model


def clustered(trained: Any, digits: Dataset, with_gains: bool) -> Any:
    model = keras.models.clone_model(trained)
    model.set_weights(trained.get_weights())
    gains = model_gains(model) if with_gains else None
    cluster_weights(model, ClusterPlan.of(model, CLUSTERS, gains=gains))
    recalibrate_batchnorm(model, [digits.x_train])
    return model


def decisions(
    file: bytes, inputs: NDArray[np.float32], tmp_path: Path, runtime: str, **options: str
) -> NDArray[np.int64]:
    path, x = tmp_path / "model", tmp_path / "x.npy"
    path.write_bytes(file)
    np.save(x, inputs)
    request = Request(runtime, str(path), str(x), len(inputs), options=options)
    return np.asarray(run_file(request).outputs.argmax(1))


def everything(data: Dataset) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """All 1,797 digits: what is shown is that int8 decides as float does, and more examples show it better."""
    return np.concatenate([data.x_train, data.x_test]), np.concatenate([data.y_train, data.y_test])


def assert_as_good(model: Any, files: TfliteFiles, digits: Dataset, tmp_path: Path) -> None:
    inputs, labels = everything(digits)
    exact = float(np.mean(model.predict(inputs, verbose=0).argmax(1) == labels))
    assert exact > 0.95
    for options in ({}, {"resolver": "BUILTIN_REF"}):
        found = decisions(files.palette, inputs, tmp_path, "tflite", **options)
        assert float(np.mean(found == labels)) >= exact - MAX_LOSS


@pytest.mark.slow
def test_difficult_gains_lose_nothing_when_clustered_with_gains(
    trained: Any, digits: Dataset, tmp_path: Path
) -> None:
    model = clustered(trained, digits, with_gains=True)
    weights = clustered_weights(model, model_gains(model))
    files = export_tflite(model, weights, digits.examples(200, 0))
    assert_as_good(model, files, digits, tmp_path)
    notes = " ".join(note for entry in files.requantized for note in entry.notes)
    assert "negative gain" not in notes
    assert "all zeros" in notes
    assert "scale raised" in notes
    # flipped before clustering: no tensor needs more values than clusters, but those whose scales were raised
    exact = [r for r in files.requantized if not any("raised" in note for note in r.notes)]
    assert exact
    assert all(entry.clusters <= CLUSTERS for entry in exact)


@pytest.mark.slow
def test_difficult_gains_of_a_model_that_comes_clustered_are_named_and_lose_nothing(
    trained: Any, digits: Dataset, tmp_path: Path
) -> None:
    model = clustered(trained, digits, with_gains=False)
    weights = clustered_weights(model)
    files = export_tflite(model, weights, digits.examples(200, 0))
    assert_as_good(model, files, digits, tmp_path)
    assert "negative gain" in str(files.requantized)
    named = {entry.name for entry in files.requantized} | {entry.name for entry in files.fallbacks}
    assert {weight.name for weight in weights} <= named
    assert all(tensor.reason for tensor in files.tensors if tensor.encoding == "dense")


@pytest.mark.slow
def test_difficult_gains_make_no_difference_to_onnx(
    trained: Any, digits: Dataset, tmp_path: Path
) -> None:
    model = clustered(trained, digits, with_gains=True)
    files = export_onnx(model, clustered_weights(model, model_gains(model)))
    inputs, _ = everything(digits)
    expected = model.predict(inputs, verbose=0).argmax(1)
    assert np.array_equal(decisions(files.palette, inputs, tmp_path, "onnx"), expected)
    kernels = [entry for entry in files.initializers if entry.encoding == "palette"]
    assert kernels
    assert all(entry.bits <= 4 for entry in kernels)
