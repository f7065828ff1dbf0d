"""A .tflite file as values and nodes: constants decoded, DECODE folded into the weights it gives."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ExportError, FormatError
from ..flatbuffer import OpaqueTable
from ..loader import DECODE_NAME, LutRecord
from ..tflite_schema import Model, Operator, Tensor, TensorType, constant, read_model

# names of the operators firmware runs, by their number in the schema
OPERATOR_NAMES = {
    0: "ADD",
    1: "AVERAGE_POOL_2D",
    2: "CONCATENATION",
    3: "CONV_2D",
    4: "DEPTHWISE_CONV_2D",
    6: "DEQUANTIZE",
    9: "FULLY_CONNECTED",
    14: "LOGISTIC",
    17: "MAX_POOL_2D",
    18: "MUL",
    19: "RELU",
    21: "RELU6",
    22: "RESHAPE",
    25: "SOFTMAX",
    28: "TANH",
    34: "PAD",
    40: "MEAN",
    41: "SUB",
    43: "SQUEEZE",
    60: "PADV2",
    67: "TRANSPOSE_CONV",
    70: "EXPAND_DIMS",
    114: "QUANTIZE",
}
# what a microcontroller could hold, and what keeps sizes within the kernels' whole numbers
MAX_ELEMENTS = 1 << 28


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of the graph. data: its values if it is constant; record: the palette they came from, if any."""

    number: int
    label: str
    shape: tuple[int, ...]
    type: TensorType
    scales: NDArray[np.float32]
    zero_point: int
    axis: int
    data: NDArray[Any] | None
    record: LutRecord | None

    @property
    def size(self) -> int:
        """Elements."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """Bytes in the arena."""
        return self.size * (4 if self.type in (TensorType.FLOAT32, TensorType.INT32) else 1)

    @property
    def scale(self) -> float:
        """The scale of a tensor that has one."""
        return float(self.scales[0])

    @property
    def title(self) -> str:
        """As messages name it."""
        return f"tensor {self.number} ({self.label})" if self.label else f"tensor {self.number}"

    @property
    def dimensions(self) -> str:
        """As comments name its shape."""
        return "×".join(map(str, self.shape)) or "1"


@dataclass(frozen=True, eq=False)
class Node:
    """One operator. `place`: its number in the file, DECODE counted."""

    place: int
    op: str
    inputs: tuple[Value | None, ...]
    output: Value
    options: OpaqueTable | None

    def refuse(self, required: str, got: str, value: Value | None = None) -> ExportError:
        """The error that names this operator and the tensor."""
        named = (value or self.output).title
        return ExportError(f"{self.op} (operator {self.place}): {named} {required}, got {got}")

    def operand(self, place: int) -> Value:
        """An input that must be there."""
        value = self.inputs[place] if place < len(self.inputs) else None
        if value is None:
            raise self.refuse(f"must be made of {place + 1} inputs", f"{len(self.inputs)}")
        return value

    def integer(self, slot: int, default: int = 0) -> int:
        """A number of the options table, signed as in the schema."""
        for number, data in () if self.options is None else self.options.fields:
            if number == slot:
                return int.from_bytes(data[:4], "little", signed=len(data) >= 4)
        return default

    def byte(self, slot: int, default: int = 0) -> int:
        """An enum or a truth value of the options table."""
        for number, data in () if self.options is None else self.options.fields:
            if number == slot:
                return data[0]
        return default

    @property
    def macs(self) -> int:
        """Products of inputs and weights, those with padding counted; 0 for an operator without weights."""
        weights = self.inputs[1].shape if len(self.inputs) > 1 and self.inputs[1] else ()
        if self.op in ("CONV_2D", "FULLY_CONNECTED"):
            return self.output.size * prod(weights[1:])
        if self.op == "DEPTHWISE_CONV_2D":
            return self.output.size * prod(weights[1:3])
        return self.operand(2).size * prod(weights[:3]) if self.op == "TRANSPOSE_CONV" else 0

    def real(self, slot: int) -> float:
        """A float of the options table; 0 if it is not there."""
        return float(struct.unpack("<f", struct.pack("<i", self.integer(slot)))[0])


@dataclass(frozen=True, eq=False)
class Graph:
    """What firmware computes."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    nodes: tuple[Node, ...]


def read_graph(data: bytes) -> Graph:
    """The first subgraph of an int8 .tflite, with palettes or without.

    Raises FormatError for a damaged file, ExportError for one with an operator or a type firmware does not run.
    """
    model = read_model(data)
    graph = model.subgraphs[0]
    decoded = dict(_decoded(model))
    values: dict[int, Value] = {}

    def value(number: int) -> Value | None:
        if number < 0:
            return None
        if number not in values:
            values[number] = _value(model, number, *decoded.get(number, (None, None)))
        return values[number]

    nodes = []
    for place, op in enumerate(graph.operators):
        if not _is_decode(model, op):
            nodes.append(_node(model, place, op, value))

    def ends(numbers: NDArray[np.int32] | None) -> tuple[Value, ...]:
        found = (value(int(n)) for n in (() if numbers is None else numbers))
        return tuple(end for end in found if end is not None)

    result = Graph(ends(graph.inputs), ends(graph.outputs), tuple(nodes))
    _check_order(result)
    return result


def _check_order(graph: Graph) -> None:
    """Everything read must be given before, once."""
    known = {value.number for value in graph.inputs}
    for node in graph.nodes:
        for value in node.inputs:
            if value is not None and value.data is None and value.number not in known:
                raise FormatError(f"{node.op} (operator {node.place}) reads {value.title}, which nothing gives; the file is damaged")  # fmt: skip
        if node.output.number in known or node.output.data is not None:
            raise FormatError(f"{node.output.title} is given twice; the file is damaged")
        known.add(node.output.number)
    missing = [v for v in graph.outputs if v.number not in known]
    if missing or not graph.outputs or not graph.inputs:
        named = missing[0].title if missing else "inputs or outputs"
        raise FormatError(f"the graph must give its outputs from its inputs, got no {named}")


def _node(model: Model, place: int, op: Operator, value: Callable[[int], Value | None]) -> Node:
    code = model.operator_codes[op.opcode_index]
    name = OPERATOR_NAMES.get(code.code)
    inputs, outputs = ([] if n is None else list(map(int, n)) for n in (op.inputs, op.outputs))
    if name is None:
        custom = (code.custom_code or b"").decode(errors="replace")
        said = custom or f"builtin operator {code.code}"
        named = "" if not outputs else f" for {_title(model, outputs[0])}"
        raise ExportError(
            f"firmware runs {', '.join(sorted(OPERATOR_NAMES.values()))}; got {said}{named} (operator {place})"
        )
    output = value(outputs[0]) if len(outputs) == 1 else None
    if output is None:
        raise FormatError(f"{name} (operator {place}) must have one output, got {len(outputs)}")
    return Node(place, name, tuple(value(n) for n in inputs), output, op.builtin_options)


def _title(model: Model, number: int) -> str:
    label = model.subgraphs[0].tensors[number].label
    return f"tensor {number} ({label})" if label else f"tensor {number}"


def _value(model: Model, number: int, data: NDArray[Any] | None, record: LutRecord | None) -> Value:
    tensor = model.subgraphs[0].tensors[number]
    if tensor.type not in TensorType._value2member_map_:
        raise FormatError(f"{_title(model, number)} has the unknown type {tensor.type}")
    if any(size <= 0 for size in tensor.dims) or prod(tensor.dims) > MAX_ELEMENTS:
        raise ExportError(
            f"{_title(model, number)} must have a fixed shape without zeros, got {tensor.dims}"
        )
    quantization = tensor.quantization
    scales, zeros = np.zeros(0, np.float32), np.zeros(0, np.int64)
    if quantization is not None:
        scales = scales if quantization.scale is None else quantization.scale
        zeros = zeros if quantization.zero_point is None else quantization.zero_point
    if scales.size and not (np.isfinite(scales).all() and (scales > 0).all()):
        raise FormatError(f"{_title(model, number)} must have finite positive scales, got others")
    one_zero = not zeros.size or bool((zeros == zeros[0]).all())
    return Value(
        number,
        tensor.label,
        tensor.dims,
        TensorType(tensor.type),
        scales,
        int(zeros[0]) if zeros.size and one_zero else 0 if one_zero else 1 << 20,
        0 if quantization is None else quantization.quantized_dimension,
        constant(model, tensor) if data is None else data,
        record,
    )


def _is_decode(model: Model, op: Operator) -> bool:
    return model.operator_codes[op.opcode_index].custom_code == DECODE_NAME


def _decoded(model: Model) -> Iterator[tuple[int, tuple[NDArray[Any], LutRecord]]]:
    """(tensor, (values, record)) of everything a DECODE gives."""
    graph = model.subgraphs[0]
    for op in graph.operators:
        if not _is_decode(model, op):
            continue
        inputs, outputs = ([] if n is None else list(map(int, n)) for n in (op.inputs, op.outputs))
        if len(inputs) != 2 * len(outputs) or min([*inputs, *outputs], default=0) < 0:
            raise FormatError(
                f"DECODE takes two inputs per output, got {len(inputs)} for {len(outputs)}"
            )
        for packed, ancillary, output in zip(inputs[::2], inputs[1::2], outputs, strict=True):
            indices, header = (
                model.buffers[graph.tensors[n].buffer].data or b"" for n in (packed, ancillary)
            )
            record, tensor = LutRecord.from_bytes(header), graph.tensors[output]
            if tensor.type != TensorType.INT8:
                raise ExportError(
                    f"DECODE: {_title(model, output)} must be int8, got type {tensor.type}; firmware runs int8 models"
                )
            if 8 * len(indices) < prod(tensor.dims) * record.bits or min(tensor.dims, default=1) < 1:  # fmt: skip
                raise FormatError(f"{_title(model, output)} has more elements than its indices")
            values = record.decode(indices, tensor.dims, "i1", _axis(record, tensor))
            yield output, (values, record)


def _axis(record: LutRecord, tensor: Tensor) -> int:
    """The channels' axis as the loader finds it: of the scales where there are several, else the header's."""
    scale = None if tensor.quantization is None else tensor.quantization.scale
    several = tensor.quantization is not None and scale is not None and scale.size > 1
    axis = tensor.quantization.quantized_dimension if several and tensor.quantization else record.axis  # fmt: skip
    if record.stride and record.axis != 15 and not 0 <= axis < len(tensor.dims):
        raise FormatError(f"DECODE names axis {axis} of a tensor of shape {tensor.dims}")
    return axis
