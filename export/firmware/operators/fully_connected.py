"""FULLY_CONNECTED → ep_fully_connected."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..call import INT8, Call, check_int8, fused_range, name_of, pointer, scratch_of, struct
from ..graph import Node
from ..weights import check_weights, lay_out, per_channel


def fully_connected(node: Node, budget: int) -> Call:
    """One row of inputs after another."""
    del budget  # what it needs does not depend on it
    data, weights = node.operand(0), node.operand(1)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    check_int8(node, data, node.output)
    values = check_weights(node, weights, bias, 2, 0)
    outputs, inputs = weights.shape
    if data.size % inputs or node.output.size != data.size // inputs * outputs:
        raise node.refuse(f"must be rows of {inputs} elements", f"{data.shape}", data)
    if node.byte(1):
        raise node.refuse("needs weights in the default format", f"format {node.byte(1)}", weights)
    limits = fused_range(node, node.byte(0))
    laid = lay_out(node, weights, values, 0, laid_out)
    numbers = per_channel(node, data, weights, values, 0, bias)
    layer = struct(
        "ep_dense",
        node,
        {
            "batches": data.size // inputs,
            "inputs": inputs,
            "outputs": outputs,
            "output_zero": node.output.zero_point,
            "least": limits[0],
            "most": limits[1],
            "fast": numbers.fast and limits == INT8,
            **laid.fields,
            **numbers.fields,
        },
    )
    text = f"ep_fully_connected(&{name_of(node)}, {pointer(data)}, {pointer(node.output)}, {scratch_of(node)});"
    tables = 4 * laid.pairs * (2 if laid.stride else 1)
    row = 2 * (-(-inputs // 4) * 4)
    # with MVE int8 alone, whole fours of vectors
    row_int8 = -(-inputs // 64) * 64
    return Call(
        node,
        "fully_connected",
        (text,),
        (*laid.arrays, *numbers.arrays, layer),
        max(tables + row, row_int8),
    )


def laid_out(codes: NDArray[Any]) -> NDArray[Any]:
    """(O, I) as (O / 2, I / 4, 2, 4): fours of products of two outputs in turn.

    Of indices the middle two of each four are exchanged: two that share a byte belong to inputs that SXTB16 widens at once.
    Weights that are int8 themselves it takes apart in the same way as the inputs.
    """
    outputs, inputs = codes.shape
    padded = np.pad(codes, ((0, outputs % 2), (0, -inputs % 4)))
    fours = padded.reshape(-1, 2, padded.shape[1] // 4, 4).transpose(0, 2, 1, 3)
    return fours if codes.dtype == np.int8 else fours[..., [0, 2, 1, 3]]
