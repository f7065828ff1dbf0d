"""Write int8 weights of few values as palettes: DECODE operators in a lean .tflite file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from ..cluster.palette import index_width
from .gains import channel_rows
from .loader import DECODE_NAME, MAX_BITS, MAX_STRIDE, LutRecord, pack_codes
from .tflite_schema import (
    Buffer,
    Model,
    Op,
    Operator,
    OperatorCode,
    SubGraph,
    Tensor,
    TensorType,
    constant,
    write_model,
)

# what TFLM's DECODE gives and operators take for weights
PALETTE_TYPES = (TensorType.INT8, TensorType.FLOAT32)
# a tensor that saves this much surely pays for its DECODE, whose fixed cost is well below
SURE_SAVING = 512


class Tables(Enum):
    """How value tables are laid out.

    SHARED: one table for all channels (axis 0, stride 0) wherever it is smallest. It rests on a reading of the header
    that TFLM has but does not document. PER_CHANNEL: always one table per channel, the documented form.
    """

    SHARED = "shared"
    PER_CHANNEL = "per-channel"


@dataclass(frozen=True, eq=False)
class Encoding:
    """One tensor as packed indices and a record; `dense` is its size as it was."""

    tensor: int
    record: LutRecord
    packed: bytes
    values: int
    dense: int

    @property
    def payload(self) -> int:
        """Bytes of indices, header and tables."""
        return len(self.packed) + len(self.record.to_bytes())

    @property
    def shared(self) -> bool:
        """Whether all channels read one table."""
        return self.record.stride == 0


@dataclass(frozen=True)
class TensorReport:
    """What became of one weight tensor: `encoding` is shared, per-channel or dense, `reason` why if dense."""

    tensor: int
    shape: tuple[int, ...]
    values: int
    bits: int
    encoding: str
    dense_bytes: int
    stored_bytes: int
    reason: str


@dataclass(frozen=True, eq=False)
class PaletteFile:
    """A palette .tflite and what each of its weight tensors became."""

    data: bytes
    tensors: tuple[TensorReport, ...]


def palettize(model: Model, tables: Tables = Tables.SHARED) -> PaletteFile:
    """The palette file of a lean model: every int8 or float32 weight encoded for which that makes the file smaller."""
    graph = model.subgraphs[0]
    chosen: list[Encoding] = []
    reports: dict[int, TensorReport] = {}
    doubtful: list[Encoding] = []
    for number in weight_tensors(model):
        values = constant(model, graph.tensors[number])
        if values is None or graph.tensors[number].type not in PALETTE_TYPES:
            continue
        encoding = _smallest(number, values, graph.tensors[number], tables)
        if encoding is None:
            reports[number] = _dense(number, values, f"more than {2**MAX_BITS} values")
        elif encoding.payload + SURE_SAVING <= encoding.dense:
            chosen.append(encoding)
        else:
            doubtful.append(encoding)
    for encoding in doubtful:
        saved = len(_write(model, chosen)) - len(_write(model, [*chosen, encoding]))
        if saved > 0:
            chosen.append(encoding)
        else:
            reports[encoding.tensor] = replace(
                _report(encoding, graph),
                bits=8,
                encoding="dense",
                stored_bytes=encoding.dense,
                reason=f"a palette would add {-saved} bytes",
            )
    chosen.sort(key=lambda encoding: encoding.tensor)
    for encoding in chosen:
        reports[encoding.tensor] = _report(encoding, graph)
    return PaletteFile(_write(model, chosen), tuple(reports[n] for n in sorted(reports)))


def weight_tensors(model: Model) -> list[int]:
    """Constant tensors of two dimensions and more that operators of the first subgraph read."""
    graph = model.subgraphs[0]
    read = {int(n) for op in graph.operators if op.inputs is not None for n in op.inputs}
    return [
        number
        for number in sorted(read)
        if number >= 0
        and len(graph.tensors[number].dims) >= 2
        and model.buffers[graph.tensors[number].buffer].data
    ]


def _smallest(
    number: int, values: NDArray[np.generic], tensor: Tensor, tables: Tables
) -> Encoding | None:
    options = [_per_channel(number, values, tensor)]
    if tables is Tables.SHARED:
        options.append(_shared(number, values))
    return min(
        (option for option in options if option), key=lambda option: option.payload, default=None
    )


def _shared(number: int, values: NDArray[np.generic]) -> Encoding | None:
    table, codes = np.unique(values, return_inverse=True)
    bits = index_width(len(table))
    if bits > MAX_BITS:
        return None
    packed = pack_codes(codes.astype(np.uint8), bits)
    # axis 0 with stride 0: every channel's table begins where the first does, under either reading of the axis
    record = LutRecord(bits, axis=0, stride=0, values=table.tobytes())
    return Encoding(number, record, packed, len(table), values.nbytes)


def _per_channel(number: int, values: NDArray[np.generic], tensor: Tensor) -> Encoding | None:
    quantization = tensor.quantization
    per_tensor = quantization is None or quantization.scale is None or len(quantization.scale) == 1
    axis = 0 if per_tensor or quantization is None else quantization.quantized_dimension
    if per_tensor or axis not in (0, values.ndim - 1):
        return None
    rows = channel_rows(values, axis)
    stride = max(len(np.unique(row)) for row in rows)
    bits = index_width(stride)
    if bits > MAX_BITS or stride > MAX_STRIDE:
        return None
    table = np.zeros((len(rows), stride), values.dtype)
    codes = np.zeros(rows.shape, np.uint8)
    for channel, row in enumerate(rows):
        distinct, codes[channel] = np.unique(row, return_inverse=True)
        table[channel, : len(distinct)] = distinct
    shape = np.moveaxis(values, axis, 0).shape
    in_order = np.moveaxis(codes.reshape(shape), 0, axis)
    record = LutRecord(bits, axis, stride, table.tobytes())
    return Encoding(number, record, pack_codes(in_order, bits), stride, values.nbytes)


def _report(encoding: Encoding, graph: SubGraph) -> TensorReport:
    return TensorReport(
        encoding.tensor,
        graph.tensors[encoding.tensor].dims,
        encoding.values,
        encoding.record.bits,
        Tables.SHARED.value if encoding.shared else Tables.PER_CHANNEL.value,
        encoding.dense,
        encoding.payload,
        "",
    )


def _dense(number: int, values: NDArray[np.generic], reason: str) -> TensorReport:
    count = len(np.unique(values))
    return TensorReport(
        number, values.shape, count, 8, "dense", values.nbytes, values.nbytes, reason
    )


def _write(model: Model, encodings: list[Encoding]) -> bytes:
    return write_model(insert_decodes(model, encodings)) if encodings else write_model(model)


def insert_decodes(model: Model, encodings: list[Encoding]) -> Model:
    """The model with a DECODE in front of the first reader of every encoded tensor.

    Encoded and ancillary tensors stand behind all others, so that the loader can drop them.
    """
    graph = model.subgraphs[0]
    tensors, buffers = list(graph.tensors), list(model.buffers)
    decodes: dict[int, Operator] = {}
    shared_data: dict[bytes, int] = {}

    def add(data: bytes) -> int:
        if data not in shared_data:
            shared_data[data] = len(buffers)
            buffers.append(Buffer(data=data))
        shape = np.array([len(data)], np.int32)
        tensors.append(Tensor(shape=shape, type=TensorType.UINT8, buffer=shared_data[data]))
        return len(tensors) - 1

    for encoding in encodings:
        inputs = [add(encoding.packed), add(encoding.record.to_bytes())]
        decodes[encoding.tensor] = Operator(
            opcode_index=len(model.operator_codes),
            inputs=np.array(inputs, np.int32),
            outputs=np.array([encoding.tensor], np.int32),
        )
        tensors[encoding.tensor] = replace(graph.tensors[encoding.tensor], buffer=0)
    code = OperatorCode(
        deprecated_builtin_code=Op.CUSTOM, builtin_code=Op.CUSTOM, custom_code=DECODE_NAME
    )
    encoded = replace(graph, tensors=tuple(tensors), operators=_with_decodes(graph, decodes))
    return _without_unused_buffers(
        replace(
            model,
            operator_codes=(*model.operator_codes, code),
            subgraphs=(encoded, *model.subgraphs[1:]),
            buffers=tuple(buffers),
        )
    )


def _with_decodes(graph: SubGraph, decodes: dict[int, Operator]) -> tuple[Operator, ...]:
    waiting = dict(decodes)
    operators: list[Operator] = []
    for op in graph.operators:
        for number in op.inputs if op.inputs is not None else ():
            if int(number) in waiting:
                operators.append(waiting.pop(int(number)))
        operators.append(op)
    return tuple(operators)


def _without_unused_buffers(model: Model) -> Model:
    """Buffers renumbered to those in use (and 0): dense data that a palette replaced goes."""
    used = sorted({0, *(t.buffer for graph in model.subgraphs for t in graph.tensors)})
    numbers = {old: new for new, old in enumerate(used)}
    graphs = tuple(
        replace(graph, tensors=tuple(replace(t, buffer=numbers[t.buffer]) for t in graph.tensors))
        for graph in model.subgraphs
    )
    return replace(model, subgraphs=graphs, buffers=tuple(model.buffers[n] for n in used))
