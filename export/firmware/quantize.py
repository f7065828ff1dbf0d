"""Scales as the whole numbers the reference kernels compute with.

Source: tflite-micro, tensorflow/lite/kernels/internal/quantization_util.cc, …/kernels/kernel_util.cc; gemmlowp,
fixedpoint/fixedpoint.h. Python's whole numbers do not overflow; where the kernels saturate, so do these.
"""

from __future__ import annotations

import math

import numpy as np

MOST, LEAST = 2**31 - 1, -(2**31)


def rounded(value: float) -> int:
    """To the nearest whole number, ties away from zero, as C's round()."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


def multiplier(real: float) -> tuple[int, int]:
    """(M, shift) with real ≈ M · 2^(shift - 31), 2^30 <= M < 2^31; (0, 0) for 0 and what is too small."""
    if real == 0:
        return 0, 0
    fraction, shift = math.frexp(real)
    fixed = rounded(fraction * 2**31)
    if fixed == 2**31:
        fixed, shift = fixed // 2, shift + 1
    return (0, 0) if shift < -31 else (fixed, shift)


def quantized(value: float, scale: float, zero_point: int) -> int:
    """A real number in a tensor's steps, in float32 as the kernels do."""
    return zero_point + rounded(float(np.float32(value) / np.float32(scale)))


def activation_range(activation: int, scale: float, zero_point: int) -> tuple[int, int] | None:
    """(least, most) of an int8 output with a fused activation by its number in the schema; None for one no kernel has."""
    bounds = {0: (None, None), 1: (0.0, None), 2: (-1.0, 1.0), 3: (0.0, 6.0)}.get(activation)
    if bounds is None:
        return None
    low, high = bounds
    least = -128 if low is None else max(-128, quantized(low, scale, zero_point))
    most = 127 if high is None else min(127, quantized(high, scale, zero_point))
    return least, most


def input_radius(integer_bits: int, left_shift: int) -> int:
    """The largest input that a fixed point of so many integer bits can hold."""
    return math.floor(((1 << integer_bits) - 1) * 2.0 ** (31 - integer_bits) / 2.0**left_shift)


def high_product(a: int, b: int) -> int:
    """2ab / 2^32, rounded half up, saturated."""
    return min((a * b + (1 << 30)) >> 31, MOST)


def shift_right(x: int, n: int) -> int:
    """Division of x by 2^n, ties away from zero."""
    return x if n == 0 else (x + (1 << (n - 1)) - (x < 0)) >> n


def wrapped(x: int) -> int:
    """As int32 wraps around."""
    return (x + 2**31) % 2**32 - 2**31


def requantize(x: int, fixed: int, shift: int) -> int:
    """Product of x and M · 2^(shift - 31) with the kernels' double rounding."""
    left = max(shift, 0)
    return shift_right(high_product(wrapped(x << left), fixed), left - shift)


def _raised(x: int, n: int) -> int:
    return min(max(x << n, LEAST), MOST)


def _exponential(a: int, integer_bits: int) -> int:
    """exp(a) as Q0.31; a <= 0 with so many integer bits."""
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    rest = (a & (quarter - 1)) - quarter
    x = (rest << integer_bits) + (1 << 28)
    x2 = high_product(x, x)
    x3, x4 = high_product(x2, x), high_product(x2, x2)
    tail = shift_right(high_product(shift_right(x4, 2) + x3, 715827883) + x2, 1)
    result = 1895147668 + high_product(1895147668, x + tail)
    factors = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)
    for exponent, factor in zip(range(-2, 5), factors, strict=True):
        if integer_bits > exponent and (rest - a) & (1 << (fraction_bits + exponent)):
            result = high_product(result, factor)
    return MOST if a == 0 else result


def _newton(a: int) -> int:
    """2 / (1 + a) as Q2.29; a in [0, 1] as Q0.31."""
    half = (a + MOST + 1) // 2
    x = 1515870810 + high_product(half, -1010580540)
    for _ in range(3):
        x += _raised(high_product(x, (1 << 29) - high_product(half, x)), 2)
    return x


def logistic(a: int, integer_bits: int) -> int:
    """1 / (1 + exp(-a)) as Q0.31."""
    if a == 0:
        return 1 << 30
    positive = _raised(_newton(_exponential(-abs(a), integer_bits)), 1)
    return positive if a > 0 else MOST - positive


def tanh(a: int, integer_bits: int) -> int:
    """Hyperbolic tangent as Q0.31."""
    if a == 0:
        return 0
    doubled = _exponential(-abs(a), integer_bits + 1)
    positive = _raised(_newton(doubled) - (1 << 29), 2)
    return positive if a > 0 else -positive
