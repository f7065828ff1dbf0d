"""MAX_POOL_2D → ep_max_pool_2d."""

from __future__ import annotations

from ..call import Call
from ..graph import Node
from .average_pool_2d import pooled


def max_pool_2d(node: Node, budget: int) -> Call:
    """Largest elements of windows."""
    del budget
    return pooled(node, "max")
