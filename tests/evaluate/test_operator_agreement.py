"""TFLM's bytes beside the reference kernels', operator by operator."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgepalette.errors import TargetError
from edgepalette.evaluate.operator_agreement import (
    OperatorAgreement,
    agreement_note,
    operator_agreement,
)
from edgepalette.export.cluster_tflite import cluster_tflite
from edgepalette.export.lean import lean
from edgepalette.export.palette_tflite import palettize
from edgepalette.export.tflite_schema import (
    Buffer,
    Model,
    Operator,
    OperatorCode,
    QuantizationParameters,
    SubGraph,
    Tensor,
    TensorType,
    read_model,
    write_model,
)

LOGISTIC, RESHAPE = 14, 22
# where TFLM's table in fixed point rounds one of 256 inputs otherwise than TFLite's in float
SCALE, ZERO_POINT = 0.041927076095293475, -29


def tensor(name: str, scale: float, zero_point: int) -> Tensor:
    quantization = QuantizationParameters(
        scale=np.array([scale], np.float32), zero_point=np.array([zero_point], np.int64)
    )
    shape = np.array([1, 256], np.int32)
    return Tensor(shape=shape, type=TensorType.INT8, name=name.encode(), quantization=quantization)


def logistic(scale: float, zero_point: int) -> bytes:
    """256 numbers through LOGISTIC, then RESHAPE."""
    tensors = (
        tensor("x", scale, zero_point),
        tensor("logistic", 1 / 256, -128),
        tensor("same", 1 / 256, -128),
        Tensor(shape=np.array([2], np.int32), type=TensorType.INT32, buffer=1),
    )
    first, second, third, shape = (np.array([n], np.int32) for n in range(4))
    operators = (
        Operator(opcode_index=0, inputs=first, outputs=second),
        Operator(opcode_index=1, inputs=np.concatenate([second, shape]), outputs=third),
    )
    codes = tuple(OperatorCode(deprecated_builtin_code=n, builtin_code=n) for n in (LOGISTIC, RESHAPE))  # fmt: skip
    graph = SubGraph(tensors=tensors, operators=operators, inputs=first, outputs=third)
    buffers = (Buffer(), Buffer(data=np.array([1, 256], np.int32).tobytes()))
    return write_model(Model(version=3, operator_codes=codes, subgraphs=(graph,), buffers=buffers))


def test_an_operator_that_rounds_otherwise_is_named(tmp_path: Path) -> None:
    file = tmp_path / "m.tflite"
    file.write_bytes(logistic(SCALE, ZERO_POINT))
    every = (np.arange(-128, 128) - ZERO_POINT) * SCALE
    found = operator_agreement(file, every[None].astype(np.float32))
    assert found == (
        OperatorAgreement("LOGISTIC", "logistic", 256, 1),
        OperatorAgreement("RESHAPE", "same", 256, 1),
    )
    assert agreement_note(found).startswith(
        "0 of 2 operators give the reference kernels' bytes, not LOGISTIC logistic (1 of 256 bytes)"
    )


def test_a_palette_file_agrees_in_every_operator_of_its_plain_form(
    shared: Path, tmp_path: Path
) -> None:
    original = read_model((shared / "models" / "mlperf_tiny_ic_int8.tflite").read_bytes())
    file = tmp_path / "palette.tflite"
    file.write_bytes(palettize(lean(cluster_tflite(original, 16)[0])).data)
    inputs = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype(np.float32)
    found = operator_agreement(file, inputs)
    assert [entry.operator for entry in found[-3:]] == ["RESHAPE", "FULLY_CONNECTED", "SOFTMAX"]
    assert len(found) == len(original.subgraphs[0].operators)
    assert all(entry.bytes and not entry.differing for entry in found)
    assert agreement_note(found) == "16 of 16 operators give the reference kernels' bytes"


def test_models_of_several_inputs_are_refused(tmp_path: Path) -> None:
    model = read_model(logistic(SCALE, ZERO_POINT))
    graph = model.subgraphs[0]
    two = SubGraph(graph.tensors, np.array([0, 1], np.int32), graph.outputs, graph.operators)
    file = tmp_path / "m.tflite"
    file.write_bytes(write_model(Model(3, model.operator_codes, (two,), buffers=model.buffers)))
    with pytest.raises(TargetError, match="models of one input"):
        operator_agreement(file, np.zeros((1, 256), np.float32))
