"""The TFLite file as tables: field numbers and defaults of tensorflow/compiler/mlir/lite/schema/schema.fbs, version 3."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from . import flatbuffer as fb

IDENTIFIER = b"TFL3"
# the runtimes ask for weights on 16-byte borders (schema.fbs: force_align of Buffer.data)
BUFFER_ALIGNMENT = 16
# bytes of the constants its tensors name in all, as a multiple of the file: equal layers share their buffers
MAX_SHARED_CONSTANTS = 64
# numpy's limit before version 2
MAX_RANK = 32


class TensorType(IntEnum):
    """Element types by their number in the schema; those with a numpy type are in NUMPY_TYPES."""

    FLOAT32 = 0
    FLOAT16 = 1
    INT32 = 2
    UINT8 = 3
    INT64 = 4
    STRING = 5
    BOOL = 6
    INT16 = 7
    COMPLEX64 = 8
    INT8 = 9
    FLOAT64 = 10
    COMPLEX128 = 11
    UINT64 = 12
    RESOURCE = 13
    VARIANT = 14
    UINT32 = 15
    UINT16 = 16
    INT4 = 17
    BFLOAT16 = 18
    INT2 = 19
    UINT4 = 20


NUMPY_TYPES = {
    TensorType.FLOAT32: "<f4",
    TensorType.FLOAT16: "<f2",
    TensorType.INT32: "<i4",
    TensorType.UINT8: "u1",
    TensorType.INT64: "<i8",
    TensorType.INT16: "<i2",
    TensorType.INT8: "i1",
    TensorType.FLOAT64: "<f8",
    TensorType.UINT64: "<u8",
    TensorType.UINT32: "<u4",
    TensorType.UINT16: "<u2",
}


class Op(IntEnum):
    """Builtin operators edgepalette speaks of, by their number in the schema."""

    ADD = 0
    CONV_2D = 3
    DEPTHWISE_CONV_2D = 4
    FULLY_CONNECTED = 9
    CUSTOM = 32
    TRANSPOSE_CONV = 67


def _option_vectors(options: int) -> dict[int, int]:
    """Element size of every slot of a builtin-options table that is a vector, by the union's type."""
    return {
        3: {
            1: 4,
            2: 4,
        },  # ConcatEmbeddingsOptions: num_columns_per_channel, embedding_dim_per_channel
        8: {5: 1},  # FullyConnectedOptions: quant_spec
        17: {0: 4},  # ReshapeOptions: new_shape
        30: {0: 4},  # SqueezeOptions: squeeze_dims
        111: {0: 1, 1: 1},  # VarHandleOptions: container, shared_name
        115: {0: 4},  # BucketizeOptions: boundaries
    }.get(options, {})


def _index_vector(kind: int) -> dict[int, int]:
    """The same for SparseIndexVector: int32, uint16 or uint8."""
    return {1: {0: 4}, 2: {0: 2}, 3: {0: 1}}.get(kind, {})


@dataclass(frozen=True, eq=False)
class OperatorCode(fb.Table):
    """An operator the file uses; old files set only the deprecated code."""

    deprecated_builtin_code: int = fb.scalar(0, "b")
    custom_code: bytes | None = fb.text(1)
    version: int = fb.scalar(2, "i", 1)
    builtin_code: int = fb.scalar(3, "i")

    @property
    def code(self) -> int:
        """The builtin operator, from whichever field holds it."""
        return max(self.builtin_code, self.deprecated_builtin_code)


@dataclass(frozen=True, eq=False)
class QuantizationParameters(fb.Table):
    """real = scale · (integer - zero_point), per tensor or per channel of `quantized_dimension`."""

    min: NDArray[np.float32] | None = fb.numbers(0, "<f4")
    max: NDArray[np.float32] | None = fb.numbers(1, "<f4")
    scale: NDArray[np.float32] | None = fb.numbers(2, "<f4")
    zero_point: NDArray[np.int64] | None = fb.numbers(3, "<i8")
    details_type: int = fb.scalar(4, "B")
    details: fb.ForeignValue | None = fb.foreign(5, "custom quantization details")
    quantized_dimension: int = fb.scalar(6, "i")


@dataclass(frozen=True, eq=False)
class DimensionMetadata(fb.Table):
    """How one level of a sparse tensor is stored: all of it, or segments and indices in the type that is enough."""

    format: int = fb.scalar(0, "b")
    dense_size: int = fb.scalar(1, "i")
    array_segments_type: int = fb.scalar(2, "B")
    array_segments: fb.OpaqueTable | None = fb.opaque(3, "array_segments_type", _index_vector)
    array_indices_type: int = fb.scalar(4, "B")
    array_indices: fb.OpaqueTable | None = fb.opaque(5, "array_indices_type", _index_vector)


@dataclass(frozen=True, eq=False)
class SparsityParameters(fb.Table):
    """Which elements of a sparse tensor its buffer holds."""

    traversal_order: NDArray[np.int32] | None = fb.numbers(0, "<i4")
    block_map: NDArray[np.int32] | None = fb.numbers(1, "<i4")
    dim_metadata: tuple[DimensionMetadata, ...] = fb.tables(2, lambda: DimensionMetadata)


@dataclass(frozen=True, eq=False)
class Tensor(fb.Table):
    """A tensor; its data is buffer number `buffer` (0: none)."""

    shape: NDArray[np.int32] | None = fb.numbers(0, "<i4")
    type: int = fb.scalar(1, "b")
    buffer: int = fb.scalar(2, "I")
    name: bytes | None = fb.text(3)
    quantization: QuantizationParameters | None = fb.table(4, lambda: QuantizationParameters)
    is_variable: int = fb.scalar(5, "?")
    sparsity: SparsityParameters | None = fb.table(6, lambda: SparsityParameters)
    shape_signature: NDArray[np.int32] | None = fb.numbers(7, "<i4")
    has_rank: int = fb.scalar(8, "?")
    variant_tensors: fb.ForeignValue | None = fb.foreign(9, "variant tensors")
    external_buffer: int = fb.scalar(10, "I")

    @property
    def label(self) -> str:
        """Its name as text, empty if it has none."""
        return (self.name or b"").decode(errors="replace")

    @property
    def dims(self) -> tuple[int, ...]:
        """Shape as a tuple; () for a scalar."""
        return () if self.shape is None else tuple(int(size) for size in self.shape)


@dataclass(frozen=True, eq=False)
class Operator(fb.Table):
    """One operator; inputs and outputs are tensor numbers, -1 for an optional one that is absent."""

    opcode_index: int = fb.scalar(0, "I")
    inputs: NDArray[np.int32] | None = fb.numbers(1, "<i4")
    outputs: NDArray[np.int32] | None = fb.numbers(2, "<i4")
    builtin_options_type: int = fb.scalar(3, "B")
    builtin_options: fb.OpaqueTable | None = fb.opaque(4, "builtin_options_type", _option_vectors)
    custom_options: bytes | None = fb.raw(5)
    custom_options_format: int = fb.scalar(6, "b")
    mutating_variable_inputs: NDArray[np.uint8] | None = fb.numbers(7, "u1")
    intermediates: NDArray[np.int32] | None = fb.numbers(8, "<i4")
    large_custom_options_offset: int = fb.scalar(9, "Q")
    large_custom_options_size: int = fb.scalar(10, "Q")
    builtin_options_2_type: int = fb.scalar(11, "B")
    builtin_options_2: fb.ForeignValue | None = fb.foreign(
        12, "an operator of the StableHLO family"
    )
    debug_metadata_index: int = fb.scalar(13, "i", -1)


@dataclass(frozen=True, eq=False)
class SubGraph(fb.Table):
    """Tensors and the operators between them, in order of execution."""

    tensors: tuple[Tensor, ...] = fb.tables(0, lambda: Tensor)
    inputs: NDArray[np.int32] | None = fb.numbers(1, "<i4")
    outputs: NDArray[np.int32] | None = fb.numbers(2, "<i4")
    operators: tuple[Operator, ...] = fb.tables(3, lambda: Operator)
    name: bytes | None = fb.text(4)
    debug_metadata_index: int = fb.scalar(5, "i", -1)


@dataclass(frozen=True, eq=False)
class Buffer(fb.Table):
    """Constant data; `offset` and `size` place it outside the flatbuffer (files over 2 GB)."""

    data: bytes | None = fb.raw(0, BUFFER_ALIGNMENT)
    offset: int = fb.scalar(1, "Q")
    size: int = fb.scalar(2, "Q")


@dataclass(frozen=True, eq=False)
class Metadata(fb.Table):
    """A named buffer of the tools' own."""

    name: bytes | None = fb.text(0)
    buffer: int = fb.scalar(1, "I")


@dataclass(frozen=True, eq=False)
class TensorMap(fb.Table):
    """A signature's name for a tensor."""

    name: bytes | None = fb.text(0)
    tensor_index: int = fb.scalar(1, "I")


@dataclass(frozen=True, eq=False)
class SignatureDef(fb.Table):
    """A named entry point."""

    inputs: tuple[TensorMap, ...] = fb.tables(0, lambda: TensorMap)
    outputs: tuple[TensorMap, ...] = fb.tables(1, lambda: TensorMap)
    signature_key: bytes | None = fb.text(2)
    deprecated_tag: bytes | None = fb.text(3)
    subgraph_index: int = fb.scalar(4, "I")


@dataclass(frozen=True, eq=False)
class Model(fb.Table):
    """The file's root."""

    version: int = fb.scalar(0, "I")
    operator_codes: tuple[OperatorCode, ...] = fb.tables(1, lambda: OperatorCode)
    subgraphs: tuple[SubGraph, ...] = fb.tables(2, lambda: SubGraph)
    description: bytes | None = fb.text(3)
    buffers: tuple[Buffer, ...] = fb.tables(4, lambda: Buffer)
    metadata_buffer: NDArray[np.int32] | None = fb.numbers(5, "<i4")
    metadata: tuple[Metadata, ...] = fb.tables(6, lambda: Metadata)
    signature_defs: tuple[SignatureDef, ...] = fb.tables(7, lambda: SignatureDef)
    external_buffer_groups: fb.ForeignValue | None = fb.foreign(8, "external buffers")
    external_buffers: fb.ForeignValue | None = fb.foreign(9, "external buffers")


def read_model(data: bytes) -> Model:
    """A .tflite file's tables. Raises FormatError unless it holds a graph and every index in it names something.

    Takes at most 256 times the file's size of memory.
    """
    return read_model_extents(data)[0]


def read_model_extents(data: bytes) -> tuple[Model, list[fb.Extent]]:
    """As `read_model`, and where in the file everything lies."""
    model, extents = fb.read_extents(Model, data, IDENTIFIER)
    if not model.subgraphs:
        raise FormatError("a .tflite file must hold a graph, got none; it is damaged")
    for graph in model.subgraphs:
        _check(graph, model)
    named = sum(
        len(model.buffers[t.buffer].data or b"") for g in model.subgraphs for t in g.tensors
    )
    if named > MAX_SHARED_CONSTANTS * len(data):
        raise FormatError(
            f"the constants of a file's tensors must be at most {MAX_SHARED_CONSTANTS} times its size, "
            f"got {named} bytes in {len(data)}; it is damaged"
        )
    return model, extents


def write_model(model: Model) -> bytes:
    """The .tflite file of a model. Raises ExportError for parts that cannot be kept."""
    return fb.write(model, IDENTIFIER)


def constant(model: Model, tensor: Tensor) -> NDArray[np.generic] | None:
    """A constant tensor's values in its shape; None if it has no data here, is sparse or of no numpy type.

    Raises FormatError if the buffer's length is not the shape's.
    """
    data = model.buffers[tensor.buffer].data
    if not data or tensor.sparsity is not None or tensor.type not in NUMPY_TYPES:
        return None
    dtype = np.dtype(NUMPY_TYPES[TensorType(tensor.type)])
    count = 1
    for size in tensor.dims:
        count *= size
    fits = min(tensor.dims, default=0) >= 0 and len(tensor.dims) <= MAX_RANK
    if not fits or count * dtype.itemsize != len(data):
        raise FormatError(
            f"tensor {tensor.label!r} of shape {tensor.dims} needs {count} values, "
            f"got {len(data)} bytes; the file is damaged"
        )
    return np.frombuffer(data, dtype).reshape(tensor.dims)


def _check(graph: SubGraph, model: Model) -> None:
    count = len(graph.tensors)
    for tensor in graph.tensors:
        if tensor.buffer >= len(model.buffers):
            raise FormatError(
                f"a tensor names buffer {tensor.buffer} of {len(model.buffers)}; the file is damaged"
            )
    for operator in graph.operators:
        if operator.opcode_index >= len(model.operator_codes):
            raise FormatError(
                f"an operator names code {operator.opcode_index} of {len(model.operator_codes)}; the file is damaged"
            )
    lists = [graph.inputs, graph.outputs]
    lists += [part for op in graph.operators for part in (op.inputs, op.outputs)]
    for numbers in lists:
        if (
            numbers is not None
            and numbers.size
            and not -1 <= numbers.min() <= numbers.max() < count
        ):
            raise FormatError(
                f"an operator names a tensor outside [0, {count}); the file is damaged"
            )
