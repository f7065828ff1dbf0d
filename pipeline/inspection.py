"""What a file holds: tensors, distinct values, bits and bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..cluster.palette import MAX_CLUSTERS, index_width
from ..errors import FormatError
from ..export.loader import DECODE_NAME, LutRecord, expand
from ..export.tflite_schema import Model, TensorType, constant, read_model


def inspect_file(path: Path) -> dict[str, Any]:
    """Tensors of a .keras, .h5, .tflite or .onnx file, as plain values. Raises FormatError for anything else."""
    readers: dict[str, Callable[[Path], list[dict[str, Any]]]] = {
        ".tflite": _tflite,
        ".onnx": _onnx,
        ".keras": _keras,
        ".h5": _keras,
    }
    reader = readers.get(path.suffix)
    if reader is None or not path.is_file():
        raise FormatError(
            f"inspect reads a {', '.join(readers)} file, got {path}"
            + ("" if path.is_file() else ", which is no file")
        )
    tensors = reader(path)
    return {
        "file": str(path),
        "file_bytes": path.stat().st_size,
        "weight_bytes": sum(row["bytes"] for row in tensors),
        "palettes": sum(row["stored"] == "palette" for row in tensors),
        "tensors": tensors,
    }


def _row(name: str, shape: tuple[int, ...], kind: str, values: int, stored: str, bits: int, size: int) -> dict[str, Any]:  # fmt: skip
    return {
        "name": name,
        "shape": list(shape),
        "type": kind,
        "values": values,
        "stored": stored,
        "bits": bits,
        "bytes": size,
    }


def _tflite(path: Path) -> list[dict[str, Any]]:
    data = path.read_bytes()
    model = read_model(data)
    palettes = _palettes(model)
    plain = read_model(expand(data))
    rows = []
    for number, graph in enumerate(plain.subgraphs):
        for index, tensor in enumerate(graph.tensors):
            values = constant(plain, tensor)
            if values is None or len(tensor.dims) < 2:
                continue
            name = tensor.label or f"tensor {index}"
            kind, distinct = TensorType(tensor.type).name, len(np.unique(values))
            record, size = palettes.get((number, index), (None, values.nbytes))
            bits = record.bits if record else 8 * values.itemsize
            stored = "palette" if record else "dense"
            rows.append(_row(name, tensor.dims, kind, distinct, stored, bits, size))
    return rows


def _palettes(model: Model) -> dict[tuple[int, int], tuple[LutRecord, int]]:
    """(subgraph, tensor) → record and stored bytes of every tensor a DECODE gives."""
    found = {}
    for number, graph in enumerate(model.subgraphs):
        for op in graph.operators:
            if model.operator_codes[op.opcode_index].custom_code != DECODE_NAME:
                continue
            inputs = op.inputs if op.inputs is not None else np.zeros(0, np.int32)
            for packed, ancillary, output in zip(inputs[::2], inputs[1::2], op.outputs if op.outputs is not None else (), strict=False):  # fmt: skip
                stored = [
                    model.buffers[graph.tensors[n].buffer].data or b"" for n in (packed, ancillary)
                ]
                record = LutRecord.from_bytes(stored[1])
                found[number, int(output)] = (record, sum(map(len, stored)))
    return found


def _onnx(path: Path) -> list[dict[str, Any]]:
    import onnx
    from onnx import numpy_helper

    from ..export.onnx_file import read_onnx

    graph = read_onnx(path.read_bytes(), path).graph
    rows = []
    for initializer in graph.initializer:
        if len(initializer.dims) < 2:
            continue
        values = numpy_helper.to_array(initializer)
        kind = onnx.TensorProto.DataType.Name(initializer.data_type)
        packed = kind == "UINT8"
        row = _row(
            initializer.name, values.shape, kind, len(np.unique(values)),
            "palette" if packed else "dense", 8 * values.itemsize, values.nbytes,
        )  # fmt: skip
        rows.append(row)
    return rows


def _keras(path: Path) -> list[dict[str, Any]]:
    from ..cluster.weights import layer_weights
    from .models import load_model

    rows = []
    for weight in layer_weights(load_model(str(path))):
        if len(weight.shape) < 2:
            continue
        values = weight.variable.numpy()
        distinct = len(np.unique(values))
        shared = distinct <= MAX_CLUSTERS and 2 * distinct <= values.size
        bits = index_width(distinct) if shared else 8 * values.itemsize
        stored = "shared values" if shared else "dense"
        kind = str(values.dtype).upper()
        rows.append(_row(weight.name, values.shape, kind, distinct, stored, bits, values.nbytes))
    return rows
