"""The other side of `onnx_int8.export_onnx_int8`: python -m edgepalette.export.quantize_child FOLDER."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from .onnx_int8 import FLOAT_FILE, FUSED_FILE, INT8_FILE, REFUSAL, SAMPLES


def main(folder: Path) -> None:
    """Fuse and quantize FOLDER's model; leave both files, or what ONNX Runtime said against it."""
    # warns of graphs it was not given fused
    logging.getLogger().setLevel(logging.CRITICAL)
    try:
        _fuse(folder / FLOAT_FILE, folder / FUSED_FILE)
        _quantize(folder / FUSED_FILE, folder / INT8_FILE, np.load(folder / SAMPLES))
    except Exception as error:  # its quantizer raises whatever its operators raise
        (folder / REFUSAL).write_text(str(error) or type(error).__name__)


def _fuse(source: Path, target: Path) -> None:
    """BatchNorm goes into convolutions and biases into Gemm: what is left apart would be rounded apart."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def _quantize(source: Path, target: Path, samples: Any) -> None:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    name = onnx.load(source).graph.input[0].name

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            self.left: Iterator[Any] = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self.left, None)
            return None if sample is None else {name: sample[None]}

    quantize_static(
        source,
        target,
        Samples(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        # int8 ones it turns to uint8 on x86, but not where two operators read them: those would run as float
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
