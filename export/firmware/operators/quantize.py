"""QUANTIZE → ep_quantize from float, ep_lookup from int8."""

from __future__ import annotations

import numpy as np

from ...tflite_schema import TensorType
from ..call import Call, check_int8, pointer
from ..graph import Node
from .lookup import quantize_lookup


def quantize(node: Node, budget: int) -> Call:
    """Real numbers, or int8 of another scale, to int8."""
    del budget
    data, out = node.operand(0), node.output
    check_int8(node, out)
    if data.type == TensorType.INT8:
        check_int8(node, data)
        return quantize_lookup(node)
    if data.type != TensorType.FLOAT32 or data.size != out.size:
        raise node.refuse(f"must be {out.size} floats or int8", f"{data.size} of {data.type.name.lower()}", data)  # fmt: skip
    text = f"ep_quantize({real(out.scale)}, {out.zero_point}, {data.size}, {pointer(data)}, {pointer(out)});"
    return Call(node, "quantize", (text,))


def real(value: float) -> str:
    """A float32 as C reads it back exactly."""
    return f"{np.float32(value):.9e}f"
