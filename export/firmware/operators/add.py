"""ADD → ep_add; SUB → ep_sub, whose arithmetic differs by a sign; with one number both → ep_lookup."""

from __future__ import annotations

from ..broadcast import broadcast
from ..call import Call, check_int8, constants_of, fused_range, name_of, pointer, struct
from ..graph import Node
from ..quantize import multiplier, requantize
from .lookup import constant_lookup

# bits both inputs are raised by before they are scaled
LEFT_SHIFT = 20


def add(node: Node, budget: int) -> Call:
    """ADD."""
    del budget
    return summed(node, "add")


def summed(node: Node, kernel: str) -> Call:
    """The call of ep_add or ep_sub. Raises ExportError for scales its fixed point cannot hold."""
    a, b, out = node.operand(0), node.operand(1), node.output
    check_int8(node, a, b, out)
    limits = fused_range(node, node.byte(0))
    twice = 2 * max(a.scale, b.scale)
    reals = (a.scale / twice, b.scale / twice, twice / ((1 << LEFT_SHIFT) * out.scale))
    if reals[2] >= 1:
        raise node.refuse(
            f"must have a scale above 2^-{LEFT_SHIFT - 1} of its inputs'", f"{out.scale}"
        )
    pairs = [multiplier(real) for real in reals]
    if any(shift > 0 for _, shift in pairs):
        raise node.refuse("must have a scale near its inputs'", f"{out.scale}")
    shape, sign = broadcast(node, a, b), 1 if kernel == "add" else -1

    def answer(x: int, y: int) -> int:
        first = requantize((x - a.zero_point) << LEFT_SHIFT, *pairs[0])
        second = requantize((y - b.zero_point) << LEFT_SHIFT, *pairs[1])
        total = requantize(first + sign * second, *pairs[2]) + out.zero_point
        return max(limits[0], min(limits[1], total))

    found = constant_lookup(node, answer)
    if found is not None:
        return found
    layer = struct(
        "ep_two_terms",
        node,
        {
            "shape": shape,
            "first_zero": a.zero_point,
            "second_zero": b.zero_point,
            "output_zero": out.zero_point,
            "least": limits[0],
            "most": limits[1],
            "first_shift": -pairs[0][1],
            "second_shift": -pairs[1][1],
            "output_shift": -pairs[2][1],
            "first_multiplier": pairs[0][0],
            "second_multiplier": pairs[1][0],
            "output_multiplier": pairs[2][0],
        },
    )
    text = f"ep_{kernel}(&{name_of(node)}, {pointer(a)}, {pointer(b)}, {pointer(out)});"
    same = tuple(value for value in (a, b) if value.size == out.size and value.data is None)
    return Call(node, kernel, (text,), (*constants_of((a, b)), layer), in_place=same)
