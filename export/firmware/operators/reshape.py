"""RESHAPE, SQUEEZE, EXPAND_DIMS: the same bytes under another shape; no kernel."""

from __future__ import annotations

from ..call import Call
from ..graph import Node


def reshape(node: Node, budget: int) -> Call:
    """The output takes the input's place in the arena."""
    del budget
    data = node.operand(0)
    if data.data is not None:
        raise node.refuse("must be computed", "a constant", data)
    if data.type != node.output.type or data.size != node.output.size:
        raise node.refuse(f"must have {data.size} elements of type {data.type.name.lower()}", f"{node.output.size} of {node.output.type.name.lower()}")  # fmt: skip
    return Call(node, None, (), view=True)
