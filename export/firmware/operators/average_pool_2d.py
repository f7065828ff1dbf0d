"""AVERAGE_POOL_2D → ep_average_pool_2d; MAX_POOL_2D → ep_max_pool_2d, which has the same fields."""

from __future__ import annotations

from ..call import Call, check_int8, check_shape, check_small, fused_range, name_of, pointer, struct
from ..graph import Node
from ..window import window


def average_pool_2d(node: Node, budget: int) -> Call:
    """Means of windows."""
    del budget
    return pooled(node, "average")


def pooled(node: Node, kind: str) -> Call:
    """The call of ep_average_pool_2d or ep_max_pool_2d."""
    data, out = node.operand(0), node.output
    check_int8(node, data, out)
    if len(data.shape) != 4:
        raise node.refuse("must have 4 dimensions", f"{len(data.shape)}", data)
    if (data.scale, data.zero_point) != (out.scale, out.zero_point):
        raise node.refuse("must have the scale and zero point of its input", f"{out.scale}, {out.zero_point}")  # fmt: skip
    place = window(
        node,
        data.shape[1:3],
        (node.integer(4), node.integer(3)),
        (node.integer(2), node.integer(1)),
        (1, 1),
        node.byte(0),
    )
    check_shape(node, out, (data.shape[0], *place.output, data.shape[3]))
    limits = fused_range(node, node.byte(5))
    check_small(node, size=max(*data.shape, *place.kernel, *place.stride))
    layer = struct(
        f"ep_{kind}_pool",
        node,
        {
            "batches": data.shape[0],
            "input": data.shape[1:],
            "output": place.output,
            "window": place.kernel,
            "stride": place.stride,
            "before": place.before,
            "least": limits[0],
            "most": limits[1],
        },
    )
    kernel = f"{kind}_pool_2d"
    text = f"ep_{kernel}(&{name_of(node)}, {pointer(data)}, {pointer(out)});"
    return Call(node, kernel, (text,), (layer,))
