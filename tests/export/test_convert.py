"""The converter's wrapper: fixed batches, refusals in words, quiet streams, the same bytes every time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgepalette.errors import ExportError
from edgepalette.export.convert import batch_one, convert_float, quiet


def test_a_free_batch_becomes_one() -> None:
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
    fixed = batch_one(model)
    assert [tuple(spec.shape) for spec in fixed.inputs] == [(1, 4, 4, 3)]
    assert tuple(fixed.outputs[0].shape) == (1, 48)


def test_a_fixed_batch_leaves_no_shape_arithmetic_in_the_file() -> None:
    model = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    file = schema.ModelT.InitFromPackedBuf(convert_float(batch_one(model)), 0)
    codes = {code.builtinCode for code in file.operatorCodes}
    operators = schema.BuiltinOperator
    assert not codes & {operators.SHAPE, operators.STRIDED_SLICE, operators.PACK}


def test_several_inputs_are_all_fixed() -> None:
    pair = [keras.Input((3,)), keras.Input((5,))]
    model = keras.Model(pair, keras.layers.Concatenate()(pair))
    assert [tuple(spec.shape) for spec in batch_one(model).inputs] == [(1, 3), (1, 5)]


def test_another_unknown_size_is_refused() -> None:
    inputs = keras.Input((None, 3), name="sequence")
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    with pytest.raises(
        ExportError, match=r"size but the batch must be fixed, got 'sequence' of shape \(None, None"
    ):
        batch_one(model)


def test_an_operator_without_a_form_is_named() -> None:
    inputs = keras.Input((8,))
    outputs = keras.layers.Dense(2)(keras.ops.erf(keras.layers.Dense(8)(inputs)))
    with pytest.raises(ExportError, match=r"TFLite form, got tf\.Erf"):
        convert_float(batch_one(keras.Model(inputs, outputs)))


def test_quiet_keeps_native_output_away_and_gives_the_streams_back(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with quiet():
        os.write(1, b"noise on one\n")
        os.write(2, b"noise on two\n")
    os.write(1, b"heard again\n")
    printed = capfd.readouterr()
    assert printed.out == "heard again\n"
    assert printed.err == ""


# the converter without a process of its own, as in conftest; layers named, for names count up in a process
EXPORT = """
import hashlib, keras, numpy as np, tensorflow as tf
from edgepalette import ClusterPlan, cluster_weights
from edgepalette.export import tflite
from edgepalette.export.clustered import clustered_weights
from edgepalette.export.convert import quiet
from edgepalette.export.onnx_palette import export_onnx

def convert_here(model, samples):
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([samples[n : n + 1]] for n in range(len(samples)))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    with quiet():
        return converter.convert()

tflite.convert_int8 = convert_here
keras.utils.set_random_seed(0)
layers = keras.layers
inputs = keras.Input((8, 8, 3), name="picture")
left = layers.Conv2D(8, 3, padding="same", name="left")(inputs)
right = layers.Conv2D(8, 5, padding="same", name="right")(inputs)
right = layers.BatchNormalization(name="norm")(right)
both = [layers.ReLU(name="relu")(left), layers.Add(name="add")([left, right])]
joined = layers.Flatten(name="flat")(layers.Concatenate(name="both")(both))
model = keras.Model(inputs, layers.Dense(6, name="head")(joined), name="model")
cluster_weights(model, ClusterPlan.of(model, 4))
weights = clustered_weights(model)
samples = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
files, graphs = tflite.export_tflite(model, weights, samples), export_onnx(model, weights)
written = [files.dense, files.palette, graphs.dense, graphs.palette]
digests = [hashlib.sha256(data).hexdigest() for data in written]
"""


@pytest.mark.slow
def test_every_file_has_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    here: dict[str, Any] = {}
    with mock.patch("edgepalette.export.tflite.convert_int8"):
        exec(EXPORT, here)  # noqa: S102 # our own text, run here and in another process
    other_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    there = subprocess.run(
        [sys.executable, "-P", "-c", EXPORT + "print(*digests)"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONHASHSEED": other_seed},
        check=False,
    )
    assert there.returncode == 0, there.stderr
    assert there.stdout.split()[-4:] == here["digests"]
