"""The other side of `convert.convert_int8`: python -m edgepalette.export.convert_child FOLDER."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import numpy as np

from .convert import INT8_FILE, REFUSAL, SAMPLES, SAVED_MODEL


def main(folder: Path) -> None:
    """Convert FOLDER's model; leave the file, or what the converter said against it."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    warnings.simplefilter("ignore")
    import tensorflow as tf

    samples = np.load(folder / SAMPLES, allow_pickle=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / SAVED_MODEL))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([samples[n : n + 1]] for n in range(len(samples)))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    try:
        converted = converter.convert()
    except Exception as error:  # the converter raises whatever its passes raise
        (folder / REFUSAL).write_text(str(error))
        return
    (folder / INT8_FILE).write_bytes(converted)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
