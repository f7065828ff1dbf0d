"""Small clustered models of every exported layer, their files, and a way to run a file."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from math import prod
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.plan import ClusterPlan, Override
from edgepalette.evaluate.child import Outcome, Request, run_file
from edgepalette.export.clustered import clustered_weights
from edgepalette.export.convert import quiet
from edgepalette.export.loader import HEADER_SIZE
from edgepalette.export.palette_tflite import TensorReport
from edgepalette.export.tflite import TfliteFiles, export_tflite

SAMPLES = 16
# opens a file as README tells users to and says what it became; runs it on batches of 1 and 3
OPEN = """
import json, sys
import numpy as np, onnx, onnxruntime
options = onnxruntime.SessionOptions()
options.add_session_config_entry("session.x64quantprecision", "1")
options.optimized_model_filepath, options.log_severity_level = sys.argv[1] + ".opened", 3
session = onnxruntime.InferenceSession(sys.argv[1], options, providers=["CPUExecutionProvider"])
x = np.load(sys.argv[2])[:3]
name = session.get_inputs()[0].name
three = session.run(None, {name: x})[0]
ones = [session.run(None, {name: one[None]})[0][0] for one in x]
graph = onnx.load(sys.argv[1] + ".opened").graph
print(json.dumps({
    "operators": [node.op_type for node in graph.node],
    "shapes": [three.shape, ones[0].shape],
    "apart": float(np.abs(three - np.stack(ones)).max()),
}))
"""


def randomize(model: Any) -> None:
    """Biases and BatchNorm statistics as training would leave them: every channel another gain."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            size = layer.gamma.shape
            layer.gamma.assign(random.uniform(0.2, 3, size))
            layer.beta.assign(random.normal(size=size))
            layer.moving_mean.assign(random.normal(size=size) / 10)
            layer.moving_variance.assign(random.uniform(0.5, 2, size))
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(random.normal(size=layer.bias.shape) / 10)


def kernels() -> Any:
    """Convolution, depthwise with a multiplier, transposed convolution and dense, each worth a palette."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((12, 12, 4)),
            layers.Conv2D(16, 5, padding="same", name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(9, padding="same", depth_multiplier=2, name="depthwise"),
            layers.BatchNormalization(),
            layers.ReLU(),
            # no ReLU behind it: tflite-runtime 2.14 does not know the fused one
            layers.Conv2DTranspose(8, 5, padding="same", name="transpose"),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(6, name="head"),
        ]
    )


def small() -> Any:
    """Few bytes: for reading and damaging files."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(8, 3, strides=2, padding="same", name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(6.0),
            layers.Flatten(),
            layers.Dense(24, activation="relu", name="hidden"),
            layers.Dense(4, activation="softmax", name="head"),
        ]
    )


def recurrent() -> Any:
    """Conv1D, an unrolled LSTM and a concatenation: operators with vectors among their options."""
    layers = keras.layers
    inputs = keras.Input((5, 4))
    rows = layers.Conv1D(16, 3, padding="same", name="rows")(inputs)
    states = layers.LSTM(4, unroll=True, name="lstm")(rows)
    pooled = layers.GlobalAveragePooling1D()(rows)
    joined = layers.Concatenate()([states, pooled])
    return keras.Model(inputs, layers.Dense(16, name="head")(joined))


def shared_layer() -> Any:
    """One Dense layer read three times, at different input scales."""
    layers = keras.layers
    inputs = keras.Input((48,))
    shared = layers.Dense(48, activation="relu", name="again")
    outputs = layers.Rescaling(7.0)(shared(inputs))
    outputs = layers.Rescaling(0.02)(shared(outputs))
    return keras.Model(inputs, layers.Dense(48, name="head")(shared(outputs)))


BUILDERS: dict[str, Callable[[], Any]] = {
    builder.__name__: builder for builder in (kernels, small, recurrent, shared_layer)
}


@cache
def _inputs(shape: tuple[int, ...]) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(size=(SAMPLES, *shape)).astype(np.float32)


@cache
def _model(name: str, clusters: int) -> Any:
    keras.utils.set_random_seed(0)
    model = BUILDERS[name]()
    randomize(model)
    # as many values everywhere: depthwise kernels would get more of themselves
    everywhere = [Override("*", clusters)]
    return cluster_weights(model, ClusterPlan.of(model, clusters, everywhere))


def convert_here(model: Any, samples: NDArray[np.float32]) -> bytes:
    """convert_int8 without a process of its own, which would take most of the tests' time."""
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([samples[n : n + 1]] for n in range(len(samples)))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with quiet():
        return bytes(converter.convert())


def _export(model: Any, samples: NDArray[np.float32]) -> TfliteFiles:
    with mock.patch("edgepalette.export.tflite.convert_int8", convert_here):
        return export_tflite(model, clustered_weights(model), samples)


@cache
def _files(name: str, clusters: int) -> TfliteFiles:
    model = _model(name, clusters)
    return _export(model, _inputs(model.input_shape[1:]))


@pytest.fixture(scope="session")
def clustered() -> Callable[[str, int], Any]:
    """A model of BUILDERS with so many clusters; do not change it."""
    return _model


@pytest.fixture(scope="session")
def exported() -> Callable[[str, int], TfliteFiles]:
    """Its .tflite files."""
    return _files


@pytest.fixture(scope="session")
def export() -> Callable[[Any, NDArray[np.float32]], TfliteFiles]:
    """The .tflite files of any clustered model: export(model, samples)."""
    return _export


@pytest.fixture(scope="session")
def inputs() -> Callable[[Any], NDArray[np.float32]]:
    """Samples for a model: (16, …)."""
    return lambda model: _inputs(model.input_shape[1:])


@pytest.fixture(scope="session")
def prepared() -> Callable[[Any], None]:
    """Gives a model random biases and BatchNorm statistics."""
    return randomize


# the most a DECODE may add to its packed indices, with a table of 16 bytes in it: header, tensors, operator, borders
DECODE_BYTES = 145
TABLE_IN_IT = 16


def most_bytes(dense: bytes, tensors: tuple[TensorReport, ...]) -> int:
    """The largest a palette file may be: dense - sum of (dense - packed) + 145 per DECODE, and longer tables as they are."""
    total = len(dense)
    for report in tensors:
        if report.encoding != "dense":
            packed = (prod(report.shape) * report.bits + 7) // 8
            table = report.stored_bytes - packed - HEADER_SIZE
            total += packed - report.dense_bytes + DECODE_BYTES + max(0, table - TABLE_IN_IT)
    return total


@pytest.fixture(scope="session")
def most() -> Callable[[bytes, tuple[TensorReport, ...]], int]:
    """The bound on a palette file's size: most(lean dense file, reports)."""
    return most_bytes


Run = Callable[..., Outcome]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a file's bytes in a child process: run(data, inputs, runtime, **options)."""

    def run(data: bytes, examples: NDArray[np.float32], runtime: str, **options: str) -> Outcome:
        path, values = tmp_path / "model", tmp_path / "inputs.npy"
        path.write_bytes(data)
        np.save(values, examples)
        return run_file(Request(runtime, str(path), str(values), len(examples), options=options))

    return run


@pytest.fixture
def open_batches(tmp_path: Path) -> Callable[[Path, NDArray[np.float32]], dict[str, Any]]:
    """Opens an .onnx in ONNX Runtime: its operators once optimized; outputs of a batch of 3 beside three of 1."""

    def open_(path: Path, examples: NDArray[np.float32]) -> dict[str, Any]:
        np.save(tmp_path / "batches.npy", examples)
        command = [sys.executable, "-c", OPEN, str(path), str(tmp_path / "batches.npy")]
        done = subprocess.run(command, capture_output=True, check=True)
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    return open_
