"""Write int8 and float32 weights of few values as palettes: DECODE operators in a lean .tflite file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum
from math import prod

import numpy as np
from numpy.typing import NDArray

from ..cluster.palette import index_width
from .gains import channel_rows
from .lean import commonest_codes_first
from .loader import DECODE_NAME, MAX_BITS, MAX_STRIDE, ONE_TABLE, LutRecord, pack_codes
from .tflite_schema import (
    Buffer,
    Model,
    Op,
    Operator,
    OperatorCode,
    QuantizationParameters,
    SubGraph,
    Tensor,
    TensorType,
    constant,
    write_model,
)

# what TFLM's DECODE gives and operators take for weights
PALETTE_TYPES = (TensorType.INT8, TensorType.FLOAT32)
# a channel's scale and zero point
CHANNEL_BYTES = 4 + 8
# a tensor that saves this much surely pays for its DECODE, whose fixed cost is well below
SURE_SAVING = 512
# each writes the file: of more weights, those beyond are tried together
MOST_TRIALS = 128


class Tables(Enum):
    """How value tables are laid out.

    SHARED: one table for all channels unless one per channel is smaller. For tensors with scales per channel (axis 0,
    stride 0) it rests on a reading of the header that TFLM has but does not document. PER_CHANNEL: the documented form,
    always one table per channel where a tensor has channels.
    """

    SHARED = "shared"
    PER_CHANNEL = "per-channel"


@dataclass(frozen=True, eq=False)
class Encoding:
    """One tensor as packed indices and a record; `dense` is its size as it was.

    quantization: what the tensor states instead of its own, where DECODE would misread that; None keeps it.
    """

    tensor: int
    record: LutRecord
    packed: bytes
    values: int
    dense: int
    quantization: QuantizationParameters | None = None

    @property
    def payload(self) -> int:
        """Bytes of indices, header and tables, and of scales that only say how many channels there are."""
        stated = None if self.shared else self.quantization
        scales = 0 if stated is None or stated.scale is None else stated.scale.size
        return len(self.packed) + len(self.record.to_bytes()) + CHANNEL_BYTES * scales

    @property
    def shared(self) -> bool:
        """Whether all channels read one table."""
        return self.record.stride == 0 or self.record.axis == ONE_TABLE


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
    """The palette file of a lean model: every int8 or float32 weight encoded for which that makes the file smaller.

    Weights that only a further subgraph reads stay dense: a loop would decode them in every step.
    """
    graph = model.subgraphs[0]
    candidates: list[Encoding] = []
    reports: dict[int, TensorReport] = {}
    weights = weight_tensors(model)
    for number in weights:
        values = constant(model, graph.tensors[number])
        if values is None or graph.tensors[number].type not in PALETTE_TYPES:
            continue
        encoding = _smallest(model, number, values, tables, len(weights) <= MOST_TRIALS)
        if encoding is None:
            reports[number] = _dense(number, values, _obstacle(values, graph.tensors[number]))
        else:
            candidates.append(encoding)
    data, added = _paying(model, candidates)
    for encoding in candidates:
        report = _report(encoding, graph)
        if encoding.tensor in added:
            reason = f"a palette would add {added[encoding.tensor]} bytes"
            bits, size = 8 * encoding.dense // prod(report.shape), encoding.dense
            report = replace(report, bits=bits, encoding="dense", stored_bytes=size, reason=reason)
        reports[encoding.tensor] = report
    return PaletteFile(data, tuple(reports[n] for n in sorted(reports)))


def _paying(model: Model, candidates: list[Encoding]) -> tuple[bytes, dict[int, int]]:
    """(the file of the encodings that make it smaller, bytes each other tensor's would add)."""
    chosen, added = candidates, dict[int, int]()
    data = _write(model, chosen)
    # those left share the cost of what only the first DECODE brings, so doubt falls on the others one by one
    for group in _doubtful(model, candidates):
        kept = [encoding for encoding in chosen if encoding.tensor not in group]
        without = _write(model, kept)
        if len(without) <= len(data):
            added.update(dict.fromkeys(group, len(data) - len(without)))
            chosen, data = kept, without
    dense = write_model(model)
    if chosen and len(dense) <= len(data):
        added.update({encoding.tensor: len(data) - len(dense) for encoding in chosen})
        data = dense
    return data, added


def _doubtful(model: Model, candidates: list[Encoding]) -> Iterator[set[int]]:
    """Tensors of one buffer each, whose palettes save too little, or leave its dense data in use, to be sure to pay."""
    graph = model.subgraphs[0]
    groups: dict[int, list[Encoding]] = {}
    for encoding in candidates:
        groups.setdefault(graph.tensors[encoding.tensor].buffer, []).append(encoding)
    users = Counter(tensor.buffer for part in model.subgraphs for tensor in part.tensors)
    found = [
        {encoding.tensor for encoding in group}
        for buffer, group in groups.items()
        if sum(encoding.payload + SURE_SAVING for encoding in group) > group[0].dense
        or users[buffer] > len(group)
    ]
    yield from found[:MOST_TRIALS]
    if len(found) > MOST_TRIALS:
        yield set().union(*found[MOST_TRIALS:])


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
    model: Model, number: int, values: NDArray[np.generic], tables: Tables, exact: bool
) -> Encoding | None:
    tensor = model.subgraphs[0].tensors[number]
    along = [per_channel(number, values, tensor, axis) for axis in channel_axes(values, tensor)]
    channels = min(
        (option for option in along if option), key=lambda option: option.payload, default=None
    )
    shared = one_table(number, values, tensor)
    if tables is Tables.PER_CHANNEL:
        return channels or (shared if _scales(tensor) == 1 else None)
    # at equal index widths one table is never longer than those of all channels
    if channels is None or (shared is not None and shared.record.bits <= channels.record.bits):
        return shared
    options = [option for option in (shared, channels) if option is not None]
    if not exact:
        return min(options, key=lambda option: option.payload)
    return min(options, key=lambda option: len(_write(model, [option])))


def one_table(number: int, values: NDArray[np.generic], tensor: Tensor) -> Encoding | None:
    """Tensor `number` with one table for all channels; None if it has too many values or scales along a middle axis."""
    table, codes = np.unique(_exact(values), return_inverse=True)
    bits = index_width(len(table))
    quantization = tensor.quantization
    readable = _scales(tensor) == 1 or _scale_axis(tensor) in (0, values.ndim - 1)
    if bits > MAX_BITS or not readable:
        return None
    packed = pack_codes(codes.astype(np.uint8), bits)
    alone = _scales(tensor) == 1
    # with axis 0 and stride 0 every channel's table begins where the first does, under either reading of the axis
    axis, stride = (ONE_TABLE, len(table)) if alone else (0, 0)
    record = LutRecord(bits, axis, stride, table.tobytes())
    stated = None
    if quantization is not None and alone and _scale_axis(tensor) != 0:
        # the axis of a single scale says nothing, but DECODE refuses any but 0
        stated = replace(quantization, quantized_dimension=0)
    return Encoding(number, record, packed, len(table), values.nbytes, stated)


def channel_axes(values: NDArray[np.generic], tensor: Tensor) -> list[int]:
    """Axes along which DECODE can have a table per channel: it knows the first and the last one.

    It reads the channels from the tensor's scales: an int8 tensor's axis is theirs, and one of a single scale has none.
    A float tensor's is free; it is given scales, which no kernel of floats reads.
    """
    ends = [axis for axis in (0, values.ndim - 1) if values.shape[axis] > 1]
    if tensor.type == TensorType.FLOAT32:
        return ends
    return [axis for axis in ends if _scales(tensor) > 1 and axis == _scale_axis(tensor)]


def per_channel(
    number: int, values: NDArray[np.generic], tensor: Tensor, axis: int
) -> Encoding | None:
    """Tensor `number` with a table for every channel of `axis`; None if a channel has too many values."""
    rows = channel_rows(_exact(values), axis)
    stride = max(len(np.unique(row)) for row in rows)
    bits = index_width(stride)
    if bits > MAX_BITS or stride > MAX_STRIDE:
        return None
    table = np.zeros((len(rows), stride), rows.dtype)
    codes = np.zeros(rows.shape, np.uint8)
    for channel, row in enumerate(rows):
        distinct, codes[channel] = np.unique(row, return_inverse=True)
        table[channel, : len(distinct)] = distinct
    shape = np.moveaxis(values, axis, 0).shape
    in_order = np.moveaxis(codes.reshape(shape), 0, axis)
    record = LutRecord(bits, axis, stride, table.tobytes())
    stated = None
    if tensor.type == TensorType.FLOAT32:
        ones, zeros = np.ones(len(rows), np.float32), np.zeros(len(rows), np.int64)
        stated = QuantizationParameters(scale=ones, zero_point=zeros, quantized_dimension=axis)
    return Encoding(number, record, pack_codes(in_order, bits), stride, values.nbytes, stated)


def _exact(values: NDArray[np.generic]) -> NDArray[np.generic]:
    """Floats as the whole numbers of their bits: a minus before a zero is kept, and every NaN."""
    return values.view(np.uint32) if values.dtype.kind == "f" else values


def _scales(tensor: Tensor) -> int:
    """How many channels DECODE sees: as many as the tensor states scales, 1 without."""
    stated = None if tensor.quantization is None else tensor.quantization.scale
    return 1 if stated is None else max(1, stated.size)


def _scale_axis(tensor: Tensor) -> int:
    return 0 if tensor.quantization is None else tensor.quantization.quantized_dimension


def _obstacle(values: NDArray[np.generic], tensor: Tensor) -> str:
    """Why a weight has no palette."""
    if _scales(tensor) > 1 and _scale_axis(tensor) not in (0, values.ndim - 1):
        return "scales along an axis that is neither first nor last"
    return f"more than {2**MAX_BITS} values"


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
    count = len(np.unique(_exact(values)))
    return TensorReport(
        number,
        values.shape,
        count,
        8 * values.itemsize,
        "dense",
        values.nbytes,
        values.nbytes,
        reason,
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
        tensor = graph.tensors[encoding.tensor]
        quantization = encoding.quantization or tensor.quantization
        tensors[encoding.tensor] = replace(tensor, buffer=0, quantization=quantization)
    code = OperatorCode(
        deprecated_builtin_code=Op.CUSTOM, builtin_code=Op.CUSTOM, custom_code=DECODE_NAME
    )
    encoded = replace(graph, tensors=tuple(tensors), operators=_with_decodes(graph, decodes))
    made = replace(
        model,
        operator_codes=(*model.operator_codes, code),
        subgraphs=(encoded, *model.subgraphs[1:]),
        buffers=tuple(buffers),
    )
    return _without_unused_buffers(commonest_codes_first(made))


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
        replace(graph, tensors=_renumbered(graph.tensors, numbers)) for graph in model.subgraphs
    )
    return replace(model, subgraphs=graphs, buffers=tuple(model.buffers[n] for n in used))


def _renumbered(tensors: tuple[Tensor, ...], numbers: dict[int, int]) -> tuple[Tensor, ...]:
    """With other buffer numbers; a tensor named twice stays one."""
    new = {tensor: replace(tensor, buffer=numbers[tensor.buffer]) for tensor in tensors}
    return tuple(new[tensor] for tensor in tensors)
