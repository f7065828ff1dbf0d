"""Keras to .tflite by TensorFlow's own converter: once in float, once in int8."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError


def batch_one(model: Any) -> Any:
    """A functional model around `model` with every input's batch fixed to 1.

    With a free batch the converter leaves SHAPE, STRIDED_SLICE and PACK for every Flatten.
    Raises ExportError for an input with another unknown size.
    """
    import keras

    inputs = []
    for spec in model.inputs:
        shape = (1, *spec.shape[1:])
        if None in shape:
            raise ExportError(
                f"every input size but the batch must be fixed, got {spec.name!r} of shape {tuple(spec.shape)}; "
                "build the model with an Input of full shape"
            )
        inputs.append(keras.Input(batch_shape=shape, dtype=spec.dtype))
    outputs = model(inputs[0] if len(inputs) == 1 else inputs)
    return keras.Model(inputs, outputs)


def convert_float(model: Any) -> bytes:
    """The float .tflite file of a Keras model whose batch is fixed."""
    import tensorflow as tf

    return _convert(tf.lite.TFLiteConverter.from_keras_model(model))


def convert_int8(model: Any, samples: list[NDArray[np.float32]]) -> bytes:
    """The int8 .tflite file, int8 in and out, activations ranged over `samples`.

    samples: one array (N, …) per model input.
    Raises ExportError for a model with an operator that has no int8 form.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: (
        [part[n : n + 1] for part in samples] for n in range(len(samples[0]))
    )
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return _convert(converter)


def _convert(converter: Any) -> bytes:
    with quiet() as noise:
        try:
            return bytes(converter.convert())
        except Exception as error:  # the converter raises whatever its passes raise
            noise.flush()
            reason = str(error).strip().splitlines()
            raise ExportError(
                "TensorFlow's converter could not write the model as .tflite; it said: "
                + (reason[0][:300] if reason else type(error).__name__)
                + _operators(str(error))
            ) from error


def _operators(message: str) -> str:
    """The lines of the converter's message that name operators without a TFLite form."""
    lines = [line.strip() for line in message.splitlines() if line.strip().startswith("tf.")]
    return ("\noperators without an int8 TFLite form: " + "; ".join(lines[:10])) if lines else ""


@contextlib.contextmanager
def quiet() -> Iterator[Any]:
    """Standard output and error of this process, C++ included, into a file meanwhile; no warnings."""
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as noise:
        saved = [os.dup(1), os.dup(2)]
        try:
            os.dup2(noise.fileno(), 1)
            os.dup2(noise.fileno(), 2)
            with warnings.catch_warnings():
                # the converter warns of statistics it was given another way
                warnings.simplefilter("ignore")
                yield noise
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os.dup2(saved[0], 1)
            os.dup2(saved[1], 2)
            for descriptor in saved:
                os.close(descriptor)
