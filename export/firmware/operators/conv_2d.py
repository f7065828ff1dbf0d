"""CONV_2D → ep_conv_2d."""

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

# filters of 1×1 of so many channels are decoded all at once, if they are no more than so many; words of scratch for each, a
# filter_of_eight of ep_conv_2d.c
FEW_CHANNELS, MOST_FILTERS, FILTER_WORDS = 8, 64, 8


def conv_2d(node: Node, budget: int) -> Call:
    """As many output rows at a time as `budget` bytes of scratch allow."""
    data, weights = node.operand(0), node.operand(1)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    check_int8(node, data, node.output)
    values = check_weights(node, weights, bias, 4, 0)
    if len(data.shape) != 4 or data.shape[3] != weights.shape[3]:
        raise node.refuse(
            f"must have 4 dimensions, the last as its weights' ({weights.shape[3]}; groups have no kernel)",
            f"{data.shape}",
            data,
        )
    place = window(
        node,
        data.shape[1:3],
        weights.shape[1:3],
        (node.integer(2), node.integer(1)),
        (node.integer(5, 1), node.integer(4, 1)),
        node.byte(0),
    )
    channels = weights.shape[0]
    check_shape(node, node.output, (data.shape[0], *place.output, channels))
    limits = fused_range(node, node.byte(3))
    pitch = row_pitch(data.shape[3], place.kernel[1], place.stride[1], place.dilation[1])
    laid = lay_out(node, weights, values, 0, lambda codes: laid_out(codes, pitch))
    added = weights.shape[1] * weights.shape[2] * (pitch - data.shape[3]) * laid.filler
    numbers = per_channel(node, data, weights, values, 0, bias, added=added)
    # words of two channels' weights, pairs of values; then rows of int16
    tables = laid.pairs * (2 if laid.stride else 1)
    fixed = 4 * (place.kernel[0] * place.kernel[1] * pitch + tables)
    # rows and columns that a kernel of one never reads are left out
    down, right = (s if k > 1 else 1 for s, k in zip(place.stride, place.kernel, strict=True))
    columns = (place.output[1] - 1) * right + place.reach[1]
    row = (columns * pitch + 1) // 2 * 4
    # with MVE: vectors of four channels' weights; then rows of int8, the last vector may pass their end
    vectors = place.kernel[0] * -(-place.reach[1] * pitch // 16)

    def need(block: int) -> int:
        return fixed + held(block) * row

    def need_int8(block: int) -> int:
        return 64 * vectors + held(block) * columns * pitch + 16

    def held(block: int) -> int:
        return (block - 1) * down + place.reach[0]

    def room(block: int) -> int:
        return max(need(block), need_int8(block))

    block = max([n for n in range(1, place.output[0] + 1) if room(n) <= budget], default=1)
    # equal blocks: the last would otherwise decode all weights for a row or two
    block = -(-place.output[0] // -(-place.output[0] // block))
    scratch = room(block)
    fast = numbers.fast and limits == INT8 and place.dilation[1] == 1
    filters = 4 * (FILTER_WORDS * channels + tables)
    few = (
        fast
        and weights.shape[1:] == (1, 1, FEW_CHANNELS)
        and channels % 4 == 0
        and channels <= MOST_FILTERS
        and filters <= max(scratch, budget)
    )
    in_place = fits_in_place(node, place, block)
    if few and in_place and channels > FEW_CHANNELS:
        # written pixel by pixel, outputs would pass their inputs; beside these they take less than rows of scratch for all
        in_place = place.stride != (1, 1)
        few = not in_place
    fitting = [
        n
        for n in range(block, place.output[0] + 1)
        if need_int8(n) <= scratch and (not in_place or fits_in_place(node, place, n))
    ]
    int8_block = min(fitting, key=lambda n: (-(-place.output[0] // n), n))
    if few:
        scratch = max(scratch, filters)
    check_small(node, size=max(*data.shape, *node.output.shape, *weights.shape), pitch=pitch)
    layer = struct(
        "ep_conv",
        node,
        {
            "batches": data.shape[0],
            "input": data.shape[1:],
            "output": node.output.shape[1:],
            "kernel": place.kernel,
            "stride": place.stride,
            "dilation": place.dilation,
            "before": place.before,
            "pitch": pitch,
            "block": block,
            "int8_block": int8_block,
            "few": few,
            "input_zero": data.zero_point,
            "output_zero": node.output.zero_point,
            "least": limits[0],
            "most": limits[1],
            "fast": fast,
            **laid.fields,
            **numbers.fields,
        },
    )
    text = f"ep_conv_2d(&{name_of(node)}, {pointer(data)}, {pointer(node.output)}, {scratch_of(node)});"
    return Call(
        node,
        "conv_2d",
        (text,),
        (*laid.arrays, *numbers.arrays, layer),
        scratch,
        (data,) if in_place else (),
    )


def row_pitch(channels: int, width: int, stride: int, dilation: int) -> int:
    """int16 from pixel to pixel: what keeps kernel rows whole fours of products and pixels on borders of 4 bytes."""
    for pitch in range(channels, channels + 4):
        span = pitch * (width if dilation == 1 else 1)
        apart = pitch * dilation
        if span % 4 == 0 and pitch * stride % 2 == 0 and (dilation == 1 or apart % 2 == 0):
            return pitch
    raise AssertionError("a multiple of 4 always does")


def laid_out(codes: NDArray[Any], pitch: int) -> NDArray[Any]:
    """(O, H, W, I) as (O / 2, H, W · pitch / 4, 2, 4): fours of products of two channels in turn."""
    count, height, width, channels = codes.shape
    padded = np.pad(codes, ((0, count % 2), (0, 0), (0, 0), (0, pitch - channels)))
    split = padded.reshape(-1, 2, height, width * pitch // 4, 4)
    return split.transpose(0, 2, 3, 1, 4)
