"""SUB → ep_sub."""

from __future__ import annotations

from ..call import Call
from ..graph import Node
from .add import summed


def sub(node: Node, budget: int) -> Call:
    """As ADD, the second input taken away."""
    del budget
    return summed(node, "sub")
