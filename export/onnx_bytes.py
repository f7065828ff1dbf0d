"""Every byte of a .onnx file by what it is for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from .expand_onnx import MAX_EXPANSION, Constants
from .onnx_palette import captured_names, is_weight
from .share import Part, Share, gathered

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})


@dataclass(frozen=True, eq=False)
class OnnxPalette:
    """A weight that nodes compute from packed codes.

    codes: its indices, flat. entries: of its table. values: the weight. nodes: what computes it. parts: what its
    initializers are, by name.
    """

    codes: NDArray[Any]
    entries: int
    values: NDArray[Any]
    nodes: tuple[Any, ...]
    parts: dict[str, Part]


def onnx_palettes(model: Any, length: int) -> dict[str, OnnxPalette]:
    """The palettes of an ONNX model whose file has `length` bytes, by the name of the weight.

    Raises FormatError for codes that cannot be unpacked, or not within MAX_EXPANSION times the file's bytes.
    """
    graph = model.graph
    constants = Constants(graph, MAX_EXPANSION * length)
    makers, read = {}, {output.name for output in graph.output}
    for node in graph.node:
        if constants.take(node):
            makers[node.output[0]] = node
        else:
            read |= {*node.input, *captured_names(node)}
    found = {}
    for name in list(makers):
        if name in read and (palette := _palette(name, makers, constants)) is not None:
            found[name] = palette
    return found


def _palette(name: str, makers: dict[str, Any], constants: Constants) -> OnnxPalette | None:
    """What computes `name`; None if it is looked up in no table."""
    nodes: list[Any] = []
    parts: dict[str, Part] = {}
    waiting = [name]
    while waiting:
        node = makers.pop(waiting.pop(), None)
        if node is None:
            continue
        nodes.append(node)
        for place, source in enumerate(node.input):
            if source in makers:
                waiting.append(source)
            elif source in constants.initializers:
                parts.setdefault(source, _part(node.op_type, place))
    tables = [source for source, part in parts.items() if part is Part.TABLES]
    if len(tables) != 1:
        return None
    scaled = nodes[0].op_type == "Mul"
    looked_up = (
        next((n for n in nodes[0].input if n in constants.computed), name) if scaled else name
    )
    _, codes = np.unique(constants.computed[looked_up], return_inverse=True)
    entries = int(np.prod(constants.initializers[tables[0]].dims[:1]))
    return OnnxPalette(codes.reshape(-1), entries, constants.computed[name], tuple(nodes), parts)


def _part(operator: str, place: int) -> Part:
    """What an initializer is to the node that reads it: packed codes are cast before values are gathered by them."""
    if operator == "Gather" and place == 0:
        return Part.TABLES
    return {"Cast": Part.INDICES, "Mul": Part.SCALES}.get(operator, Part.UNPACKING)


def account_onnx(model: Any, length: int, palettes: Mapping[str, OnnxPalette]) -> tuple[Share, ...]:
    """Shares of the `length` bytes of a model's file; what is no node or initializer is the file's structure."""
    graph = model.graph
    owners = {node.output[0]: name for name, palette in palettes.items() for node in palette.nodes}
    parts: dict[str, tuple[Part, str]] = {}
    for name, palette in palettes.items():
        for initializer, part in palette.parts.items():
            parts.setdefault(initializer, (part, name))
    sizes: dict[tuple[Part, str], int] = defaultdict(int)
    for initializer in graph.initializer:
        part, owner = parts.get(initializer.name) or _dense(initializer)
        values = len(initializer.raw_data) or initializer.ByteSize()
        sizes[part, owner] += values
        sizes[Part.TENSORS, owner] += _entry_size(initializer) - values
    for node in graph.node:
        owner = owners.get(node.output[0], "") if node.output else ""
        sizes[Part.UNPACKING if owner else Part.OPERATORS, owner] += _entry_size(node)
    sizes[Part.STRUCTURE, ""] = length - sum(sizes.values())
    return gathered(sizes)


def _dense(initializer: Any) -> tuple[Part, str]:
    if is_weight(initializer):
        return Part.DENSE, initializer.name
    return (Part.BIASES if initializer.data_type in _FLOATS else Part.CONSTANTS), ""


def dense_initializers(model: Any, palettes: Mapping[str, OnnxPalette]) -> Iterator[Any]:
    """Weights that no palette computes."""
    used = {name for palette in palettes.values() for name in palette.parts}
    for initializer in model.graph.initializer:
        if _dense(initializer)[0] is Part.DENSE and initializer.name not in used:
            yield initializer


def _entry_size(entry: Any) -> int:
    """Bytes of a message in a list: a byte of tag, its length (7 bits a byte), itself."""
    size = int(entry.ByteSize())
    return 1 + max(1, -(-size.bit_length() // 7)) + size
