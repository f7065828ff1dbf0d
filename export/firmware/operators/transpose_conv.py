"""TRANSPOSE_CONV → ep_transpose_conv."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..call import Call, check_int8, check_small, fused_range, name_of, pointer, scratch_of, struct
from ..graph import Node
from ..weights import check_weights, lay_out, per_channel
from ..window import window


def transpose_conv(node: Node, budget: int) -> Call:
    """One output channel after another."""
    del budget  # one channel's weights are the least
    weights, data = node.operand(1), node.operand(2)
    bias = node.inputs[3] if len(node.inputs) > 3 else None
    check_int8(node, data, node.output)
    values = check_weights(node, weights, bias, 4, 0)
    shapes = data.shape, node.output.shape
    fits = len(shapes[0]) == len(shapes[1]) == 4 and shapes[0][0] == shapes[1][0]
    if not fits or shapes[0][3] != weights.shape[3] or shapes[1][3] != weights.shape[0]:
        raise node.refuse(f"must suit weights of shape {weights.shape}", f"{shapes[0]} to {shapes[1]}", data)  # fmt: skip
    # the window of the convolution whose reverse this is
    place = window(
        node,
        node.output.shape[1:3],
        weights.shape[1:3],
        (node.integer(2), node.integer(1)),
        (1, 1),
        node.byte(0),
    )
    if place.output != shapes[0][1:3]:
        raise node.refuse(f"must have {place.output[0]} rows and {place.output[1]} columns", f"{shapes[0]}", data)  # fmt: skip
    limits = fused_range(node, node.byte(3))
    laid = lay_out(node, weights, values, 0, laid_out)
    numbers = per_channel(node, data, weights, values, 0, bias, zero_taken=False)
    depth = -(-weights.shape[3] // 8) * 8
    check_small(node, size=max(*shapes[0], *shapes[1], *weights.shape), depth=depth)
    layer = struct(
        "ep_transpose",
        node,
        {
            "batches": shapes[0][0],
            "input": shapes[0][1:],
            "output": shapes[1][1:],
            "kernel": place.kernel,
            "stride": place.stride,
            "before": place.before,
            "depth": depth,
            "input_zero": data.zero_point,
            "output_zero": node.output.zero_point,
            "least": limits[0],
            "most": limits[1],
            **laid.fields,
            **numbers.fields,
        },
    )
    text = f"ep_transpose_conv(&{name_of(node)}, {pointer(data)}, {pointer(node.output)}, {scratch_of(node)});"
    scratch = 2 * place.kernel[0] * place.kernel[1] * depth + 4 * laid.pairs
    return Call(node, "transpose_conv", (text,), (*laid.arrays, *numbers.arrays, layer), scratch)


def laid_out(codes: NDArray[Any]) -> NDArray[Any]:
    """(O, H, W, I) with I padded to eights."""
    return np.pad(codes, ((0, 0), (0, 0), (0, 0), (0, -codes.shape[3] % 8)))
