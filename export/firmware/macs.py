"""Multiplications of an operator, what instructions are measured by."""

from __future__ import annotations

from math import prod

from .graph import Node


def macs_of(node: Node) -> int:
    """Products of weights and inputs that are added, those with padding counted; 0 for operators without weights."""
    if node.op == "TRANSPOSE_CONV":
        return node.operand(2).size * prod(node.operand(1).shape[:3])
    if node.op == "DEPTHWISE_CONV_2D":
        return node.output.size * prod(node.operand(1).shape[1:3])
    if node.op in ("CONV_2D", "FULLY_CONNECTED"):
        return node.output.size * prod(node.operand(1).shape[1:])
    return 0
