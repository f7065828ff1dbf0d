"""DEPTHWISE_CONV_2D → ep_depthwise_conv_2d."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..call import (
    INT8,
    Call,
    check_int8,
    check_shape,
    check_small,
    fused_range,
    name_of,
    pointer,
    scratch_of,
    struct,
)
from ..graph import Node
from ..weights import check_weights, lay_out, per_channel
from ..window import fits_in_place, window

# EP_DEPTHWISE_CHANNELS: those that share a pass over the input
CHANNELS = 8


def depthwise_conv_2d(node: Node, budget: int) -> Call:
    """As many output rows at a time as `budget` bytes of scratch allow."""
    data, weights = node.operand(0), node.operand(1)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    check_int8(node, data, node.output)
    values = check_weights(node, weights, bias, 4, 3)
    channels = weights.shape[3]
    if len(data.shape) != 4 or weights.shape[0] != 1 or channels % data.shape[3]:
        raise node.refuse(f"must have 4 dimensions and channels that divide {channels}", f"{data.shape}", data)  # fmt: skip
    place = window(
        node,
        data.shape[1:3],
        weights.shape[1:3],
        (node.integer(2), node.integer(1)),
        (node.integer(6, 1), node.integer(5, 1)),
        node.byte(0),
    )
    check_shape(node, node.output, (data.shape[0], *place.output, channels))
    limits = fused_range(node, node.byte(4))
    taps = place.kernel[0] * place.kernel[1]
    laid = lay_out(node, weights, values, 3, laid_out)
    # weights of 16 channels, as int16 for some cores; then rows of int8
    fixed = 2 * 16 * taps

    def need(block: int) -> int:
        return fixed + 16 * ((block - 1) * place.stride[0] + place.reach[0]) * place.columns

    block = max([n for n in range(1, place.output[0] + 1) if need(n) <= budget], default=1)
    numbers = per_channel(node, data, weights, values, 3, bias)
    check_small(node, size=max(*data.shape, *node.output.shape, *weights.shape))
    multiple = channels // data.shape[3]
    layer = struct(
        "ep_depthwise",
        node,
        {
            "batches": data.shape[0],
            "input": data.shape[1:],
            "output": node.output.shape[1:],
            "kernel": place.kernel,
            "stride": place.stride,
            "dilation": place.dilation,
            "before": place.before,
            "multiple": multiple,
            "block": block,
            "input_zero": data.zero_point,
            "output_zero": node.output.zero_point,
            "least": limits[0],
            "most": limits[1],
            "fast": numbers.fast and limits == INT8,
            **laid.fields,
            **numbers.fields,
        },
    )
    text = f"ep_depthwise_conv_2d(&{name_of(node)}, {pointer(data)}, {pointer(node.output)}, {scratch_of(node)});"
    return Call(
        node,
        "depthwise_conv_2d",
        (text,),
        (*laid.arrays, *numbers.arrays, layer),
        need(block),
        (data,) if multiple == 1 and fits_in_place(node, place, block) else (),
    )


def laid_out(codes: NDArray[Any]) -> NDArray[Any]:
    """(1, H, W, C) as (C / 8, H, W, 8)."""
    _, height, width, channels = codes.shape
    padded = np.pad(codes[0], ((0, 0), (0, 0), (0, -channels % CHANNELS)))
    return padded.reshape(height, width, -1, CHANNELS).transpose(2, 0, 1, 3)
