"""Palette ONNX: standard operators only, packed codes → unpack → Gather(table) → Mul(gain).

ONNX Runtime folds the whole chain into one constant when it loads the file: small file, dense speed.
A code of b bits is stored as pieces of 4, 2 and 1 bits (5 = 4 + 1), because whole pieces fill bytes. What every byte
holds is computed once, by BitShift and Mod, which uint8 has since opset 11; a Gather by the packed bytes then gives all
pieces of a byte at once, or, where one piece is the whole code, all values.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from ..cluster.palette import MAX_CLUSTERS, Palette
from ..errors import ExportError
from .clustered import ClusteredWeight
from .convert import quiet
from .gains import GainMatch, match_gains
from .onnx_file import tensor_values

OPSET = 15
# the least the chain of a palette needs: BitShift
PALETTE_OPSET = 11
# since when Add takes uint8
ADD_BYTES_OPSET = 14
PIECES = (4, 2, 1)
STANDARD = ("", "ai.onnx")
# a value between a palette's nodes
STEP_NAME = re.compile(r"_*w\d+\.\d+")
# what a palette's values may be
TABLE_TYPES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
        TensorProto.INT8,
        TensorProto.UINT8,
    }
)


@dataclass(frozen=True)
class InitializerReport:
    """What became of one weight of the ONNX file: `encoding` is palette or dense, `reason` why if dense."""

    name: str
    shape: tuple[int, ...]
    values: int
    bits: int
    encoding: str
    dense_bytes: int
    stored_bytes: int
    reason: str


@dataclass(frozen=True, eq=False)
class OnnxFiles:
    """The same model dense and with palettes, and what each weight became.

    means: layers whose averages became GlobalAveragePool.
    """

    dense: bytes
    palette: bytes
    initializers: tuple[InitializerReport, ...]
    means: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, dense: onnx.ModelProto, palettes: Mapping[str, Palette], otherwise: str
    ) -> OnnxFiles:
        """Both files of a dense model and the palettes of its initializers. otherwise: why others have none."""
        palette = onnx.ModelProto()
        palette.CopyFrom(dense)
        reports = _insert_palettes(palette, palettes, otherwise)
        return cls(_bytes(dense), _bytes(palette), tuple(reports))


def export_onnx(model: Any, weights: Sequence[ClusteredWeight]) -> OnnxFiles:
    """A Keras model as float ONNX, dense and with its clustered weights as palettes; the batch stays free.

    Raises ExportError for a model tf2onnx cannot convert.
    """
    dense = convert_onnx(model)
    palettes = _find_palettes(dense.graph, weights)
    _take_values(dense.graph, palettes)
    files = OnnxFiles.of(dense, palettes, "it is no clustered weight times a gain per channel")
    check_written(files.palette)
    return files


def palettize_onnx(model: onnx.ModelProto) -> OnnxFiles:
    """Any model of opset 11 or newer, its weights of at most 256 values as palettes where those pay."""
    given = {value.name for value in model.graph.input}
    palettes = {}
    for initializer in model.graph.initializer:
        # an initializer that is an input as well is a default, not a constant
        if is_weight(initializer) and initializer.name not in given:
            values = tensor_values(initializer)
            if len(np.unique(values)) <= MAX_CLUSTERS:
                palettes[initializer.name] = Palette.of(values)
    return OnnxFiles.of(model, palettes, f"it has more than {MAX_CLUSTERS} values")


def check_written(data: bytes) -> None:
    """Raises ExportError for a model onnx's checker refuses: an operator without an ONNX form."""
    try:
        onnx.checker.check_model(data)
    except onnx.checker.ValidationError as error:
        said = str(error).strip().splitlines()[0]
        raise ExportError(
            f"every operator must have an ONNX form (opset {OPSET}), got one tf2onnx left as it is: {said}; "
            "leave onnx out of the formats to go on without"
        ) from error


def pack_piece(codes: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Codes below 2^width in bytes, first code in the highest bits: shape (bytes, 1)."""
    per_byte = 8 // width
    padded = np.pad(codes.reshape(-1), (0, -codes.size % per_byte)).reshape(-1, per_byte)
    shifts = _shifts(width)
    return np.asarray(np.bitwise_or.reduce(padded << shifts, axis=1, keepdims=True), np.uint8)


def unpack_piece(packed: NDArray[np.uint8], width: int, count: int) -> NDArray[np.uint8]:
    """What the file's nodes compute: the oracle of `pack_piece`."""
    return np.asarray((packed >> _shifts(width)) % (1 << width)).reshape(-1)[:count]


def pieces_of(bits: int) -> Iterator[tuple[int, int]]:
    """(width, offset) of the pieces that make up a code of `bits` bits; 8 is one whole byte."""
    offset = bits
    for width in (8, *PIECES):
        if width <= offset:
            offset -= width
            yield width, offset


def _shifts(width: int) -> NDArray[np.uint8]:
    return np.arange(8 - width, -1, -width).astype(np.uint8)


def convert_onnx(model: Any) -> Any:
    """The float model of opset 15 tf2onnx makes of a Keras model, its batch free. Raises ExportError."""
    import tensorflow as tf
    import tf2onnx

    signature = [
        tf.TensorSpec(tuple(spec.shape), spec.dtype, name=f"input_{number}" if number else "input")
        for number, spec in enumerate(model.inputs)
    ]

    @tf.function(input_signature=signature)  # type: ignore[untyped-decorator] # TF has no stubs
    def forward(*inputs: Any) -> Any:
        return model(inputs[0] if len(inputs) == 1 else list(inputs), training=False)

    # what it refuses it logs as well
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    with quiet():
        try:
            proto, _ = tf2onnx.convert.from_function(
                forward, signature, opset=OPSET, custom_op_handlers={"Erfc": (_write_erfc, [])}
            )
        except Exception as error:  # tf2onnx raises whatever its handlers raise
            raise ExportError(
                f"tf2onnx could not write the model as ONNX (opset {OPSET}); it said: "
                f"{(str(error).strip().splitlines() or [type(error).__name__])[0][:300]}; "
                "leave onnx out of the formats to go on without"
            ) from error
    return canonical(proto)


def _write_erfc(graph: Any, node: Any, name: str, _: Any) -> None:
    """1 - erf, for tf2onnx knows no Erfc, and Keras' gelu holds one."""
    dtype = graph.get_dtype(node.output[0])
    one = graph.make_const(f"{name}_one", np.ones((), onnx.helper.tensor_dtype_to_np_dtype(dtype)))
    erf = graph.make_node("Erf", [node.input[0]], dtypes=[dtype])
    node.type = "Sub"
    graph.replace_inputs(node, [one.output[0], erf.output[0]])


def canonical(proto: Any, kept: Collection[str] = ()) -> Any:
    """Nodes in the order the outputs need them, with short names by that order. kept: names that stay.

    tf2onnx iterates over sets of names, so its order and its counters differ from process to process.
    """
    graph = proto.graph
    graph.doc_string = ""  # names TensorFlow's function by a counter of the process
    makers = {output: node for node in graph.node for output in node.output}
    constants = {initializer.name: initializer for initializer in graph.initializer}
    names = {value.name: value.name for value in (*graph.input, *graph.output)} | {"": ""}
    names |= {name: name for name in kept}
    nodes: list[onnx.NodeProto] = []
    initializers: list[TensorProto] = []
    # a stack of its own: a deep network is deeper than Python's
    waiting = [(output.name, False) for output in reversed(graph.output)]
    placed: set[str] = set()
    while waiting:
        name, inputs_done = waiting.pop()
        if name in constants:
            names.setdefault(name, f"c{len(initializers)}")
            initializers.append(constants.pop(name))
        node = makers.get(name)
        if node is None or node.output[0] in placed:
            continue
        if not inputs_done:
            waiting.append((name, True))
            sources = [*node.input, *captured_names(node)]
            waiting.extend((source, False) for source in reversed(sources) if source)
            continue
        placed.add(node.output[0])
        for output in node.output:
            names.setdefault(output, f"t{len(names)}")
        nodes.append(node)
    for initializer in initializers:
        initializer.name = names[initializer.name]
    for node in nodes:
        _rename(node, names)
    replace_entries(graph.node, nodes)
    replace_entries(graph.initializer, initializers)
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = "N"
    return proto


def bodies(node: Any) -> Iterator[Any]:
    """The graphs of a Loop, Scan or If."""
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g


def captured_names(node: Any) -> list[str]:
    """Names its bodies read from outside."""
    found: list[str] = []
    for body in bodies(node):
        own = {value.name for value in (*body.input, *body.initializer)}
        own |= {output for inner in body.node for output in inner.output}
        read = [name for inner in body.node for name in (*inner.input, *captured_names(inner))]
        read += [value.name for value in body.output]
        found += [name for name in dict.fromkeys(read) if name and name not in own]
    return found


def _rename(node: Any, names: Mapping[str, str]) -> None:
    """New names in a node and in its bodies."""
    node.name = ""
    for field in (node.input, node.output):
        renamed = [names.get(name, name) for name in field]
        del field[:]
        field.extend(renamed)
    for body in bodies(node):
        for inner in body.node:
            _rename(inner, names)


def replace_entries(field: Any, entries: Sequence[Any]) -> None:
    """New content for a repeated field; entries of the old content may be among it."""
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
    del field[:]
    field.extend(copies)


def _bytes(proto: onnx.ModelProto) -> bytes:
    return bytes(proto.SerializeToString(deterministic=True))


def _find_palettes(
    graph: onnx.GraphProto, weights: Sequence[ClusteredWeight]
) -> dict[str, Palette]:
    """The palette of every initializer that has one, by the name it gets: its Keras weight's."""
    palettes: dict[str, Palette] = {}
    names: dict[str, str] = {}
    for initializer in graph.initializer:
        if not is_weight(initializer) or initializer.data_type != TensorProto.FLOAT:
            continue
        found = _match(numpy_helper.to_array(initializer), weights)
        if found is not None:
            weight, match = found
            same = sum(name.partition("#")[0] == weight.name for name in palettes)
            name = f"{weight.name}#{same + 1}" if same else weight.name
            names[initializer.name] = name
            palettes[name] = _palette(match)
            initializer.name = name
    for node in graph.node:
        renamed = [names.get(name, name) for name in node.input]
        del node.input[:]
        node.input.extend(renamed)
    return palettes


def _insert_palettes(
    model: onnx.ModelProto, palettes: Mapping[str, Palette], otherwise: str
) -> list[InitializerReport]:
    """Put the palettes that pay in the place of their initializers. otherwise: why weights have no palette."""
    graph = model.graph
    prefix = _free_prefix(graph)
    constants = _Constants(prefix, opset_of(model))
    kept: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    reports: list[InitializerReport] = []
    for initializer in graph.initializer:
        if not is_weight(initializer):
            kept.append(initializer)
            continue
        name, values = initializer.name, tensor_values(initializer)
        dense_bytes = stored = _entry_bytes(initializer)
        reason = otherwise
        palette = palettes.get(name)
        if palette is not None:
            before = constants.size
            chain = _chain(name, f"{prefix}w{len(reports)}", palette, constants)
            stored = sum(map(_entry_bytes, chain)) + constants.size - before
            reason = f"a palette would add {stored - dense_bytes} bytes"
        if palette is not None and stored < dense_bytes:
            constants.keep()
            nodes += chain
            reports.append(_report(name, values, "palette", stored, "", palette))
        else:
            constants.forget()
            kept.append(initializer)
            reports.append(_report(name, values, "dense", dense_bytes, reason))
    replace_entries(graph.node, [*constants.nodes, *nodes, *graph.node])
    replace_entries(graph.initializer, [*kept, *constants.kept])
    return reports


def is_weight(initializer: TensorProto) -> bool:
    """Whether a palette could hold its values."""
    return initializer.data_type in TABLE_TYPES and is_matrix(initializer)


def is_matrix(tensor: TensorProto) -> bool:
    """Whether two sizes exceed 1: no bias or gain, in whatever shape those are broadcast."""
    return bool(sum(size > 1 for size in tensor.dims) >= 2)


def _entry_bytes(message: Any) -> int:
    """What a node or an initializer takes in the file, with the tag and the length before it."""
    size = int(message.ByteSize())
    return size + 1 + -(-size.bit_length() // 7)


def _free_prefix(graph: Any) -> str:
    """What begins no name of the graph that a palette's names could meet: nothing, where nothing could."""
    met = re.compile(r"(_*)(?:p\d+|w\d+\.\d+)")
    found = [match for name in names_of(graph) if (match := met.fullmatch(name))]
    return "_" * (1 + max(len(match[1]) for match in found)) if found else ""


def names_of(graph: Any) -> set[str]:
    """Every name of a value in a graph and its nodes' bodies."""
    names = {value.name for value in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        names.update(node.input, node.output)
        for body in bodies(node):
            names |= names_of(body)
    return names


def _match(
    values: NDArray[np.float32], weights: Sequence[ClusteredWeight]
) -> tuple[ClusteredWeight, GainMatch] | None:
    """The weight an initializer is made of, with one gain per channel of whichever axis fits."""
    # Conv and depthwise: channels first; MatMul: last; ConvTranspose: second
    axes = dict.fromkeys((0, values.ndim - 1, 1))
    for axis in axes:
        fits = [(w, m) for w in weights if (m := match_gains(values, w.values, axis)) is not None]
        if fits:
            return min(fits, key=lambda fit: len(fit[0].centroids))
    return None


def _palette(match: GainMatch) -> Palette:
    shared = Palette.of(match.weight, match.axis)
    table = shared.table.astype(np.float32)
    return Palette(shared.codes, table, match.gains.astype(np.float32), match.axis)


def _take_values(graph: onnx.GraphProto, palettes: Mapping[str, Palette]) -> None:
    """Initializers as the palettes compute them: the converter multiplied in another order, and may be an ulp off."""
    for initializer in graph.initializer:
        if initializer.name in palettes:
            values = palettes[initializer.name].weights()
            initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators a model is written for."""
    return next((entry.version for entry in model.opset_import if entry.domain in STANDARD), 1)


class _Constants:
    """New initializers and nodes that several chains read, equal ones shared; a chain that does not pay takes its own back."""

    def __init__(self, prefix: str, opset: int) -> None:
        self.prefix = prefix
        self.adds_bytes = opset >= ADD_BYTES_OPSET
        self.kept: list[TensorProto] = []
        self.nodes: list[onnx.NodeProto] = []
        self.pending: list[TensorProto] = []
        self.pending_nodes: list[onnx.NodeProto] = []
        self.names: dict[Any, str] = {}

    @property
    def size(self) -> int:
        return sum(map(_entry_bytes, (*self.kept, *self.pending, *self.nodes, *self.pending_nodes)))

    def add(self, array: NDArray[np.generic]) -> str:
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self.names:
            self.names[key] = name = f"{self.prefix}p{len(self.names)}"
            self.pending.append(numpy_helper.from_array(array, name))
        return self.names[key]

    def node(self, op: str, inputs: list[str], **attributes: Any) -> str:
        key = (op, *inputs, *attributes.items())
        if key not in self.names:
            self.names[key] = name = f"{self.prefix}p{len(self.names)}"
            self.pending_nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return self.names[key]

    def lookup(self, width: int, offset: int) -> str:
        """uint8 (256, codes per byte): the pieces of `width` bits every byte holds, moved to `offset`."""
        every_byte = self.add(np.arange(256, dtype=np.uint8).reshape(-1, 1))
        shifted = self.node("BitShift", [every_byte, self.add(_shifts(width))], direction="RIGHT")
        piece = self.node("Mod", [shifted, self.add(np.array([1 << width], np.uint8))])
        if offset == 0:
            return piece
        moved = self.add(np.array([offset], np.uint8))
        return self.node("BitShift", [piece, moved], direction="LEFT")

    def keep(self) -> None:
        self.kept += self.pending
        self.nodes += self.pending_nodes
        self.pending, self.pending_nodes = [], []

    def forget(self) -> None:
        gone = {tensor.name for tensor in self.pending}
        gone |= {node.output[0] for node in self.pending_nodes}
        self.names = {key: name for key, name in self.names.items() if name not in gone}
        self.pending, self.pending_nodes = [], []


def _chain(name: str, prefix: str, palette: Palette, constants: _Constants) -> list[onnx.NodeProto]:
    """Nodes that compute the initializer `name` from packed codes; `prefix` begins the names between.

    A runtime that folds constants copies what every node gives, so few nodes give as much as the weight is long, and
    as few of them as can be give more than a byte an element.
    """
    nodes: list[onnx.NodeProto] = []

    def node(op: str, inputs: list[str], **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [f"{prefix}.{len(nodes)}"], **attributes))
        return str(nodes[-1].output[0])

    def spread(rows: str, width: int, offset: int) -> str:
        """The row of `rows` every packed byte of a piece names, in the weight's shape."""
        bits = (palette.codes >> offset) & ((1 << width) - 1)
        packed = constants.add(pack_piece(bits.astype(np.uint8), width))
        part = node("Gather", [rows, node("Cast", [packed], to=TensorProto.INT32)])
        if palette.codes.size % (8 // width):
            part = node("Reshape", [part, constants.add(np.array([-1], np.int64))])
            ends = [constants.add(np.array([n], np.int64)) for n in (0, palette.codes.size)]
            part = node("Slice", [part, *ends])
        return node("Reshape", [part, constants.add(np.array(palette.codes.shape, np.int64))])

    if palette.bits in PIECES:
        # a byte of whole codes names their values themselves
        table = np.pad(palette.table, (0, (1 << palette.bits) - palette.clusters))
        codes = constants.node("Cast", [constants.lookup(palette.bits, 0)], to=TensorProto.INT32)
        values = spread(node("Gather", [constants.add(table), codes]), palette.bits, 0)
    else:
        whole = ""
        for width, offset in pieces_of(palette.bits):
            if width == 8:
                piece = constants.add(palette.codes)
            else:
                piece = spread(constants.lookup(width, offset), width, offset)
                piece = (
                    piece if constants.adds_bytes else node("Cast", [piece], to=TensorProto.INT32)
                )
            whole = node("Add", [whole, piece]) if whole else piece
        is_wide = palette.bits < 8 and not constants.adds_bytes
        codes = whole if is_wide else node("Cast", [whole], to=TensorProto.INT32)
        values = node("Gather", [constants.add(palette.table), codes])
    if not np.all(palette.scale == 1):
        along = [-1 if axis == palette.axis else 1 for axis in range(palette.codes.ndim)]
        node("Mul", [values, constants.add(palette.scale.reshape(along))])
    nodes[-1].output[0] = name
    return nodes


def _report(
    name: str,
    values: NDArray[Any],
    encoding: str,
    stored: int,
    reason: str,
    palette: Palette | None = None,
) -> InitializerReport:
    count = palette.clusters if palette else len(np.unique(values))
    bits = palette.bits if palette else 8 * values.itemsize
    return InitializerReport(
        name, values.shape, count, bits, encoding, values.nbytes, stored, reason
    )
