"""PAD and PADV2 → ep_pad."""

from __future__ import annotations

from ..call import Call, check_int8, check_shape, name_of, pointer, struct
from ..graph import Node


def pad(node: Node, budget: int) -> Call:
    """Up to 4 dimensions."""
    del budget
    data, paddings, out = node.operand(0), node.operand(1), node.output
    check_int8(node, data, out)
    if paddings.data is None or paddings.size != 2 * len(data.shape) or len(data.shape) > 4:
        raise node.refuse("must be constant, of two numbers for each of up to 4 dimensions", f"{paddings.shape}", paddings)  # fmt: skip
    pairs = [(int(a), int(b)) for a, b in paddings.data.reshape(-1, 2)]
    if min(min(pair) for pair in pairs) < 0:
        raise node.refuse("must not be negative", f"{pairs}", paddings)
    check_shape(node, out, tuple(a + n + b for n, (a, b) in zip(data.shape, pairs, strict=True)))
    value = out.zero_point
    if len(node.inputs) > 2:
        given = node.operand(2)
        if given.data is None or given.size != 1:
            raise node.refuse("must be one constant", f"{given.shape}", given)
        value = int(given.data.reshape(-1)[0])
    lead = 4 - len(pairs)
    layer = struct(
        "ep_pad_layer",
        node,
        {
            "input": [1] * lead + list(data.shape),
            "before": [0] * lead + [a for a, _ in pairs],
            "after": [0] * lead + [b for _, b in pairs],
            "value": value,
        },
    )
    text = f"ep_pad(&{name_of(node)}, {pointer(data)}, {pointer(out)});"
    return Call(node, "pad", (text,), (layer,))
