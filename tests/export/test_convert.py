"""The converter's wrapper: fixed batches, refusals in words, quiet streams, the same bytes every time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
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


# convert_here as in conftest: without a process of its own
EXPORT = """
import hashlib, keras, numpy as np, tensorflow as tf
from edgepalette import ClusterPlan, cluster_weights
from edgepalette.export.clustered import clustered_weights
from edgepalette.export.onnx_palette import export_onnx
from edgepalette.export import tflite
from edgepalette.export.convert import quiet

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
inputs = keras.Input((8, 8, 3))
left = layers.Conv2D(8, 3, padding="same")(inputs)
right = layers.BatchNormalization()(layers.Conv2D(8, 5, padding="same")(inputs))
joined = layers.Flatten()(layers.Concatenate()([layers.ReLU()(left), layers.Add()([left, right])]))
model = keras.Model(inputs, layers.Dense(6)(joined))
cluster_weights(model, ClusterPlan.of(model, 4))
weights = clustered_weights(model)
samples = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
tflite, onnx = tflite.export_tflite(model, weights, samples), export_onnx(model, weights)
for data in (tflite.stock, tflite.dense, tflite.palette, onnx.dense, onnx.palette):
    print(hashlib.sha256(data).hexdigest())
"""


@pytest.mark.slow
def test_every_file_has_the_same_bytes_in_every_process(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", EXPORT],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    answers = [process.communicate() for process in processes]
    first, second = (out.split()[-5:] for out, _ in answers)
    assert len(first) == 5, answers[0][1]
    assert first == second
