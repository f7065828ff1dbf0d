"""LOGISTIC, TANH, RELU, RELU6, QUANTIZE of int8, and sums and products with one number → ep_lookup: the reference kernel's
answer to each of 256 inputs.

Source: tflite-micro, tensorflow/lite/kernels/internal/reference/integer_ops/{logistic,tanh}.h,
…/micro/kernels/activations_common.cc, …/reference/requantize.h. LOGISTIC and TANH are TFLM's, in fixed point; TFLite's own
reference rounds a float curve, and one of 256 inputs may differ by one step there.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..call import Array, Call, Share, check_int8, fused_range, name_of, pointer
from ..graph import Node, Value
from ..quantize import (
    input_radius,
    logistic,
    multiplier,
    requantize,
    rounded,
    shift_right,
    tanh,
)

# integer bits of the inputs of LOGISTIC and TANH
INPUT_BITS = 4
# elements of a sum or product that are worth a table of 256 bytes
LEAST_ELEMENTS = 1024


def logistic_lookup(node: Node, budget: int) -> Call:
    """LOGISTIC: its output has scale 1/256 and zero point -128."""
    del budget
    _check_output(node, 1 / 256, -128)
    return _lookup(
        node,
        node.operand(0),
        _curve(node, lambda x: shift_right(logistic(x, INPUT_BITS), 23) - 128),
    )


def tanh_lookup(node: Node, budget: int) -> Call:
    """TANH: its output has scale 1/128 and zero point 0."""
    del budget
    _check_output(node, 1 / 128, 0)
    return _lookup(
        node, node.operand(0), _curve(node, lambda x: shift_right(tanh(x, INPUT_BITS), 24))
    )


def relu_lookup(node: Node, budget: int) -> Call:
    """RELU and RELU6, to another scale as well."""
    del budget
    data, out = node.operand(0), node.output
    check_int8(node, data, out)
    activation = {"RELU": 1, "RELU6": 3}[node.op]
    limits = fused_range(node, activation)
    if node.op == "RELU6" and (data.scale, data.zero_point) != (out.scale, out.zero_point):
        raise node.refuse("must have its input's scale and zero point", f"{out.scale}, {out.zero_point}")  # fmt: skip
    return _lookup(node, node.operand(0), _rescaled(node, *limits))


def quantize_lookup(node: Node) -> Call:
    """QUANTIZE from int8: other scales."""
    return _lookup(node, node.operand(0), _rescaled(node, -128, 127))


def constant_lookup(node: Node, answer: Callable[[int, int], int]) -> Call | None:
    """The call of an operator of two inputs where one is a single number and the other as large as the output.

    answer: the output for two inputs. None where inputs are others, or too small to be worth a table.
    """
    a, b = node.operand(0), node.operand(1)
    first, second = _number(a), _number(b)
    size = node.output.size
    if size < LEAST_ELEMENTS:
        return None
    if second is not None and a.data is None and a.size == size:
        return _lookup(node, a, lambda x: answer(x, second))
    if first is not None and b.data is None and b.size == size:
        return _lookup(node, b, lambda x: answer(first, x))
    return None


def _number(value: Value) -> int | None:
    """What a constant is everywhere, if it is one number."""
    if value.data is None or not (value.data == value.data.flat[0]).all():
        return None
    return int(value.data.flat[0])


def _rescaled(node: Node, least: int, most: int) -> Callable[[int], int]:
    data, out = node.operand(0), node.output
    fixed, shift = multiplier(data.scale / out.scale)
    if shift > 22:
        raise node.refuse("must have a scale above 2^-22 of its input's", f"{out.scale}")

    def answer(x: int) -> int:
        return max(least, min(most, requantize(x - data.zero_point, fixed, shift) + out.zero_point))

    return answer


def _curve(node: Node, function: Callable[[int], int]) -> Callable[[int], int]:
    """A curve of the input as Q4.27, ends where that overflows."""
    data = node.operand(0)
    fraction, left = math.frexp(data.scale * (1 << (31 - INPUT_BITS)))
    fixed = min(rounded(fraction * 2**31), 2**31 - 1)
    radius = input_radius(INPUT_BITS, left)

    def answer(x: int) -> int:
        centred = x - data.zero_point
        if abs(centred) >= radius:
            return 127 if centred > 0 else -128
        return max(-128, min(127, function(requantize(centred, fixed, left))))

    return answer


def _check_output(node: Node, scale: float, zero_point: int) -> None:
    check_int8(node, node.operand(0), node.output)
    if (node.output.scale, node.output.zero_point) != (scale, zero_point):
        raise node.refuse(f"must have scale {scale} and zero point {zero_point}", f"{node.output.scale}, {node.output.zero_point}")  # fmt: skip


def _lookup(node: Node, data: Value, answer: Callable[[int], int]) -> Call:
    out = node.output
    if data.size != out.size:
        raise node.refuse(f"must have {data.size} elements", f"{out.size}")
    table = np.array([answer(x) for x in range(-128, 128)], np.int8)
    array = Array(name_of(node), table, "outputs for inputs from -128", Share.CONSTANTS)
    text = f"ep_lookup({name_of(node)}, {data.size}, {pointer(data)}, {pointer(out)});"
    return Call(node, "lookup", (text,), (array,), in_place=(data,))
