"""Small fully-connected layers, whose palettes take longer to unpack than they are used: firmware stores their weights as int8."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .call import name_of
from .graph import Graph, Node
from .operators.fully_connected import laid_out
from .weights import encode

# the one width whose table of pairs takes long to make: 256 of them
PAIRED_BITS = 4
# Products up to which int8 weights of fully-connected layers are faster. Counted, of 64→10, 64→12, 256→2 and 128→8: 0.62 to 0.66 of the
# palette's instructions on a Cortex-M4, 0.46 to 0.96 on an M0+, 0.85 to 0.97 on an M55.
MOST_PRODUCTS = 1024
# of the model's weights and tables, what all that is unpacked may add at most
MOST_ADDED = 0.04


@dataclass(frozen=True, eq=False)
class Unpacked:
    """An operator whose weights are stored as int8 though a palette gave them. added: bytes of flash, its table's taken off."""

    node: Node
    added: int

    @property
    def reason(self) -> str:
        """For people."""
        title = f"{name_of(self.node)}: {self.node.operand(1).dimensions} weights"
        cost = f"{self.added} B more than" if self.added > 0 else "no more than"
        return f"{title} are stored as int8, {cost} as a palette: on most cores that is faster for so small a layer"


def unpack_small_layers(graph: Graph) -> tuple[Graph, tuple[Unpacked, ...]]:
    """The graph without palettes that take more time than they save flash, and what they were, in the operators' order."""
    room = MOST_ADDED * sum(map(_stored, graph.nodes))
    chosen: dict[int, Unpacked] = {}
    for one in sorted(filter(None, map(_small, graph.nodes)), key=lambda one: one.added):
        added = max(one.added, 0)
        if added <= room:
            room -= added
            chosen[one.node.place] = one
    nodes = [_dense(node) if node.place in chosen else node for node in graph.nodes]
    return replace(graph, nodes=tuple(nodes)), tuple(chosen[n] for n in sorted(chosen))


def _stored(node: Node) -> int:
    """Bytes of an operator's weights and tables, near enough."""
    weights = node.inputs[1] if node.macs and len(node.inputs) > 1 else None
    if weights is None or weights.record is None:
        return 0 if weights is None else weights.size
    return weights.size * weights.record.bits // 8 + len(weights.record.values)


def _small(node: Node) -> Unpacked | None:
    """What unpacking the operator's weights would be, None where it would gain nothing."""
    if node.op != "FULLY_CONNECTED" or not 0 < node.macs <= MOST_PRODUCTS:
        return None
    weights = node.operand(1)
    data = weights.data
    if weights.record is None or data is None or data.dtype != np.int8 or data.ndim != 2:
        return None
    codes = encode(weights, data, 0)
    if codes.table is None or codes.bits != PAIRED_BITS:
        return None
    # with what fills up outputs and inputs
    int8, packed = laid_out(data).size, laid_out(codes.codes).size * PAIRED_BITS // 8
    return Unpacked(node, int8 - packed - codes.table.size)


def _dense(node: Node) -> Node:
    weights = replace(node.operand(1), record=None)
    return replace(node, inputs=(node.inputs[0], weights, *node.inputs[2:]))
