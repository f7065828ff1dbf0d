"""MEAN → ep_mean."""

from __future__ import annotations

from math import prod

from ..call import Call, check_int8, name_of, pointer, struct
from ..graph import Node
from ..quantize import multiplier


def mean(node: Node, budget: int) -> Call:
    """Over dimensions that lie together."""
    del budget
    data, axes, out = node.operand(0), node.operand(1), node.output
    check_int8(node, data, out)
    if axes.data is None:
        raise node.refuse("must be constant axes", "a computed tensor", axes)
    rank = len(data.shape)
    over = sorted({int(axis) % rank for axis in axes.data.reshape(-1) if -rank <= axis < rank})
    if not over or over != list(range(over[0], over[-1] + 1)):
        raise node.refuse("must be neighbouring axes of the input", f"{axes.data.tolist()}", axes)
    outer, inner = prod(data.shape[: over[0]]), prod(data.shape[over[-1] + 1 :])
    count = data.size // outer // inner
    if out.size != outer * inner:
        raise node.refuse(f"must have {outer * inner} elements", f"{out.size}")
    fixed, shift = multiplier(data.scale / out.scale)
    # the division by `count` goes into the multiplier, as far as its shift reaches
    extra = min(count.bit_length() - 1, 32, 31 + shift)
    fixed, shift = (fixed << extra) // count, shift - extra
    layer = struct(
        "ep_mean_layer",
        node,
        {
            "outer": outer,
            "reduced": count,
            "inner": inner,
            "zeros": count * data.zero_point,
            "output_zero": out.zero_point,
            "shift": shift,
            "multiplier": fixed,
        },
    )
    text = f"ep_mean(&{name_of(node)}, {pointer(data)}, {pointer(out)});"
    return Call(node, "mean", (text,), (layer,))
