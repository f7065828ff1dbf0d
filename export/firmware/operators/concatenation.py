"""CONCATENATION → one ep_concatenation per input."""

from __future__ import annotations

from math import prod

from ..call import Call, check_int8, constants_of, pointer
from ..graph import Node


def concatenation(node: Node, budget: int) -> Call:
    """Along one axis; all tensors of one scale, as the reference kernel demands."""
    del budget
    parts, out = [node.operand(n) for n in range(len(node.inputs))], node.output
    check_int8(node, *parts, out)
    if node.byte(1):
        raise node.refuse("needs no activation", f"number {node.byte(1)}")
    rank = len(out.shape)
    axis = node.integer(0) + (rank if node.integer(0) < 0 else 0)
    others = [part.shape[:axis] + part.shape[axis + 1 :] for part in (*parts, out)]
    fits = 0 <= axis < rank and len(set(others)) == 1 and {len(p.shape) for p in parts} == {rank}
    if not fits or sum(part.shape[axis] for part in parts) != out.shape[axis]:
        raise node.refuse("must be its inputs one after another", f"{[p.shape for p in parts]} to {out.shape}")  # fmt: skip
    for part in parts:
        if (part.scale, part.zero_point) != (out.scale, out.zero_point):
            raise node.refuse("must have the scale and zero point of the output", f"{part.scale}, {part.zero_point}", part)  # fmt: skip
    rows, apart, text, start = prod(out.shape[:axis]), prod(out.shape[axis:]), [], 0
    for part in parts:
        size = prod(part.shape[axis:])
        place = f"{pointer(out)} + {start}" if start else pointer(out)
        text.append(f"ep_concatenation({rows}, {size}, {apart}, {pointer(part)}, {place});")
        start += size
    return Call(node, "concatenation", tuple(text), constants_of(parts))
