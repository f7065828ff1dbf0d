"""SOFTMAX → ep_softmax."""

from __future__ import annotations

from ..call import Call, check_int8, name_of, pointer, struct
from ..graph import Node
from ..quantize import input_radius, multiplier

# integer bits of differences, as in the reference kernel
SCALED_BITS = 5


def softmax(node: Node, budget: int) -> Call:
    """Along the last dimension."""
    del budget
    data, out = node.operand(0), node.output
    check_int8(node, data, out)
    if (out.scale, out.zero_point) != (1 / 256, -128) or out.shape != data.shape:
        raise node.refuse("must have its input's shape, scale 1/256 and zero point -128", f"{out.shape}, {out.scale} and {out.zero_point}")  # fmt: skip
    real = min(node.real(0) * data.scale * (1 << (31 - SCALED_BITS)), (1 << 31) - 1.0)
    fixed, left = multiplier(real)
    if real <= 1:
        raise node.refuse("must have a scale times beta above 2^-26", f"{data.scale * node.real(0)}", data)  # fmt: skip
    layer = struct(
        "ep_softmax_layer",
        node,
        {
            "rows": data.size // data.shape[-1],
            "depth": data.shape[-1],
            "multiplier": fixed,
            "left": left,
            "least": -input_radius(SCALED_BITS, left),
        },
    )
    text = f"ep_softmax(&{name_of(node)}, {pointer(data)}, {pointer(out)});"
    return Call(node, "softmax", (text,), (layer,), in_place=(data,))
