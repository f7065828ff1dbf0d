"""Every byte of a .tflite file by what it is for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .flatbuffer import Extent, Table
from .lean import bias_of
from .loader import DECODE_NAME, HEADER_SIZE, LutRecord
from .share import Part, Share, gathered
from .tflite_schema import (
    Buffer,
    Metadata,
    Model,
    Operator,
    OperatorCode,
    QuantizationParameters,
    SignatureDef,
    SubGraph,
    Tensor,
    TensorMap,
    TensorType,
    read_model_extents,
)

# tables by what they are for; their fields as well, but for those in _FIELDS
_TABLES = {
    Operator: Part.OPERATORS,
    OperatorCode: Part.OPERATORS,
    QuantizationParameters: Part.SCALES,
    Tensor: Part.TENSORS,
    Metadata: Part.NAMES,
    SignatureDef: Part.NAMES,
    TensorMap: Part.NAMES,
}
_FIELDS = {
    (Tensor, "name"): Part.NAMES,
    (SubGraph, "name"): Part.NAMES,
    (Model, "description"): Part.NAMES,
    (Model, "metadata"): Part.NAMES,
    (Model, "metadata_buffer"): Part.NAMES,
    (Model, "signature_defs"): Part.NAMES,
}
# numbers of places, sizes and axes, in constants of several dimensions as well
WHOLE = frozenset({TensorType.INT32, TensorType.INT64, TensorType.BOOL})
_VECTOR_COUNT = 4


@dataclass(frozen=True)
class Decoded:
    """What a DECODE reads: numbers of its packed and ancillary tensor, the record, and the packed bytes."""

    operator: Operator
    packed_tensor: int
    ancillary_tensor: int
    record: LutRecord
    packed: bytes

    @property
    def size(self) -> int:
        """Bytes of indices, header and tables."""
        return len(self.packed) + len(self.record.to_bytes())


def decoded_tensors(model: Model) -> dict[tuple[int, int], Decoded]:
    """The DECODE of every tensor one gives, by (subgraph, tensor). Raises FormatError for another kind of DECODE."""
    found = {}
    for number, graph in enumerate(model.subgraphs):
        for op in graph.operators:
            if model.operator_codes[op.opcode_index].custom_code != DECODE_NAME:
                continue
            inputs, outputs = ([] if n is None else list(map(int, n)) for n in (op.inputs, op.outputs))  # fmt: skip
            for packed, ancillary, output in zip(inputs[::2], inputs[1::2], outputs, strict=False):
                data = [
                    model.buffers[graph.tensors[n].buffer].data or b"" for n in (packed, ancillary)
                ]
                record = LutRecord.from_bytes(data[1])
                found[number, output] = Decoded(op, packed, ancillary, record, data[0])
    return found


def tensor_name(model: Model, graph: int, number: int) -> str:
    """A tensor's name, or its number where it has none."""
    place = f"tensor {number}" if graph == 0 else f"tensor {graph}.{number}"
    return model.subgraphs[graph].tensors[number].label or place


def account_tflite(data: bytes) -> tuple[Share, ...]:
    """Shares of all bytes; what lies between the parts is padding, or unread. Raises FormatError as `read_model` does."""
    model, extents = read_model_extents(data)
    uses = _Uses(model)
    sizes: dict[tuple[Part, str], int] = defaultdict(int)
    for start, stop, extent in _swept(extents, len(data)):
        if extent is None:
            sizes[Part.UNREAD, ""] += stop - start
        else:
            for part, owner, size in uses.shares(extent, stop - start):
                sizes[part, owner] += size
    return gathered(sizes)


def _swept(extents: Iterable[Extent], length: int) -> Iterator[tuple[int, int, Extent | None]]:
    """(start, stop, extent) over the whole file, each byte once; None for those in no extent."""
    reached = 0
    for extent in sorted(extents, key=lambda extent: (extent.start, extent.stop)):
        if extent.start > reached:
            yield reached, extent.start, None
            reached = extent.start
        if extent.stop > reached:
            yield reached, extent.stop, extent
            reached = extent.stop
    if length > reached:
        yield reached, length, None


class _Uses:
    """What buffers and tensor tables are used for; of several uses the first."""

    def __init__(self, model: Model) -> None:
        self.tables: dict[Table, tuple[Part, str]] = {}
        self.data: dict[Buffer, tuple[Part, str]] = {}
        buffers = model.buffers
        for (number, output), decoded in decoded_tensors(model).items():
            tensors, name = model.subgraphs[number].tensors, tensor_name(model, number, output)
            self.tables.setdefault(decoded.operator, (Part.UNPACKING, name))
            self._owns(tensors[output], name)
            stored = {decoded.packed_tensor: Part.INDICES, decoded.ancillary_tensor: Part.TABLES}
            for place, part in stored.items():
                self.tables.setdefault(tensors[place], (Part.UNPACKING, name))
                self.data.setdefault(buffers[tensors[place].buffer], (part, name))
        for graph in model.subgraphs:
            for op in graph.operators:
                if (bias := bias_of(op, model)) is not None:
                    buffer = buffers[graph.tensors[bias].buffer]
                    self.data.setdefault(buffer, (Part.BIASES, ""))
        for number, graph in enumerate(model.subgraphs):
            for index, tensor in enumerate(graph.tensors):
                if tensor.buffer and len(tensor.dims) >= 2 and tensor.type not in WHOLE:
                    name = tensor_name(model, number, index)
                    if self.data.setdefault(buffers[tensor.buffer], (Part.DENSE, name))[1] == name:
                        self._owns(tensor, name)
        for entry in model.metadata:
            if entry.buffer < len(buffers):
                self.data.setdefault(buffers[entry.buffer], (Part.NAMES, ""))

    def _owns(self, tensor: Tensor, name: str) -> None:
        self.tables.setdefault(tensor, (Part.TENSORS, name))
        if tensor.quantization is not None:
            self.tables.setdefault(tensor.quantization, (Part.SCALES, name))

    def shares(self, extent: Extent, size: int) -> Iterator[tuple[Part, str, int]]:
        """(part, owner, bytes) of an extent, of which `size` bytes count."""
        table = extent.table
        if isinstance(table, Buffer):
            if extent.field != "data":
                yield Part.STRUCTURE, "", size
                return
            part, owner = self.data.get(table, (Part.CONSTANTS, ""))
            lead = {Part.INDICES: _VECTOR_COUNT, Part.TABLES: _VECTOR_COUNT + HEADER_SIZE}.get(part, 0)  # fmt: skip
            yield part, owner, max(0, size - lead)
            yield Part.UNPACKING, owner, min(size, lead)
            return
        usual = _TABLES.get(type(table), Part.STRUCTURE)
        part, owner = self.tables.get(table, (usual, ""))
        yield _FIELDS.get((type(table), extent.field), part), owner, size
