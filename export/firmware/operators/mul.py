"""MUL → ep_mul; by one number → ep_lookup."""

from __future__ import annotations

from ..broadcast import broadcast
from ..call import Call, check_int8, constants_of, fused_range, name_of, pointer, struct
from ..graph import Node
from ..quantize import multiplier, requantize
from .lookup import constant_lookup


def mul(node: Node, budget: int) -> Call:
    """Element by element."""
    del budget
    a, b, out = node.operand(0), node.operand(1), node.output
    check_int8(node, a, b, out)
    limits = fused_range(node, node.byte(0))
    fixed, shift = multiplier(a.scale * b.scale / out.scale)
    if shift > 30:
        raise node.refuse("must have scales whose ratio is below 2^30", "larger ones")
    shape = broadcast(node, a, b)

    def answer(x: int, y: int) -> int:
        product = requantize((x - a.zero_point) * (y - b.zero_point), fixed, shift)
        return max(limits[0], min(limits[1], product + out.zero_point))

    found = constant_lookup(node, answer)
    if found is not None:
        return found
    layer = struct(
        "ep_mul_layer",
        node,
        {
            "shape": shape,
            "first_zero": a.zero_point,
            "second_zero": b.zero_point,
            "output_zero": out.zero_point,
            "least": limits[0],
            "most": limits[1],
            "shift": shift,
            "multiplier": fixed,
        },
    )
    text = f"ep_mul(&{name_of(node)}, {pointer(a)}, {pointer(b)}, {pointer(out)});"
    same = tuple(value for value in (a, b) if value.size == out.size and value.data is None)
    return Call(node, "mul", (text,), (*constants_of((a, b)), layer), in_place=same)
