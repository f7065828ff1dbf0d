"""Keras to .tflite by TensorFlow's own converter: once in float, once in int8."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError
from .crash import crash_name

# what parent and child leave each other in their folder
SAVED_MODEL, SAMPLES = "model", "samples.npy"
INT8_FILE, REFUSAL = "int8.tflite", "refusal.txt"


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

    with quiet():
        try:
            return bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
        except Exception as error:  # the converter raises whatever its passes raise
            raise ExportError(_refusal(str(error))) from error


def convert_int8(model: Any, samples: NDArray[np.float32]) -> bytes:
    """The int8 .tflite file, int8 in and out, activations ranged over `samples` (N, …).

    In a process of its own: ranging runs the model natively, and some models take the process down.
    Raises ExportError for a model with an operator that has no int8 form.
    """
    import tensorflow as tf

    with tempfile.TemporaryDirectory(prefix="edgepalette-") as name:
        folder = Path(name)
        with quiet():
            # Keras would free the batch again
            fixed = [tf.TensorSpec(spec.shape, spec.dtype) for spec in model.inputs]
            model.export(folder / SAVED_MODEL, verbose=False, input_signature=fixed)
        np.save(folder / SAMPLES, np.asarray(samples, np.float32), allow_pickle=False)
        command = [sys.executable, "-P", "-m", "edgepalette.export.convert_child", name]
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 # our own module
        if done.returncode < 0:
            crash = crash_name(done.returncode)
            raise ExportError(
                f"TensorFlow's converter crashed ({crash}) while it ranged the int8 activations; "
                "models with loops over time steps do that: make LSTM and GRU layers with unroll=True"
            )
        refused, written = folder / REFUSAL, folder / INT8_FILE
        if refused.exists():
            raise ExportError(_refusal(refused.read_text()))
        if not written.exists():
            raise ExportError(_refusal(done.stderr.decode(errors="replace")[-300:]))
        return written.read_bytes()


def _refusal(said: str) -> str:
    """What the converter said, in words of use: the operators it named, else its first line."""
    operators = list(dict.fromkeys(re.findall(r"'?\b(tf\.[A-Z]\w+)\b", said)))
    if any("TensorList" in name for name in operators):
        return (
            "every operator must have an int8 TFLite form, got a loop over time steps "
            f"({', '.join(operators)}); make LSTM and GRU layers with unroll=True"
        )
    if operators:
        return f"every operator must have an int8 TFLite form, got {', '.join(operators[:10])}"
    line = (said.strip().splitlines() or ["nothing"])[0][:300]
    return f"TensorFlow's converter could not write the model as .tflite; it said: {line}"


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
            # Python's standard output may be another file than descriptor 1, in a notebook say
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
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
