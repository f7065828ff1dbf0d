"""DEQUANTIZE → ep_dequantize."""

from __future__ import annotations

from ...tflite_schema import TensorType
from ..call import Call, check_int8, pointer
from ..graph import Node
from .quantize import real


def dequantize(node: Node, budget: int) -> Call:
    """int8 to real numbers."""
    del budget
    data, out = node.operand(0), node.output
    check_int8(node, data)
    if out.type != TensorType.FLOAT32 or data.size != out.size:
        raise node.refuse(f"must be {data.size} floats", f"{out.size} of {out.type.name.lower()}")
    text = f"ep_dequantize({real(data.scale)}, {data.zero_point}, {data.size}, {pointer(data)}, {pointer(out)});"
    return Call(node, "dequantize", (text,))
