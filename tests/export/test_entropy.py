"""Bounds of what indices take."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepalette.export.entropy import packed_bound, shannon_bound
from edgepalette.export.loader import pack_codes


@pytest.mark.parametrize(
    ("codes", "bound"),
    [
        ([], 0),
        ([7] * 100, 0),
        ([0, 1] * 8, 2),
        (list(range(16)) * 6, 48),
        # a half, a quarter and two eighths: 1.75 bits each
        ([0, 0, 0, 0, 1, 1, 2, 3] * 8, 14),
        # three values a third each: log2(3) = 1.585 bits, 9.5 bytes in all
        ([0, 1, 2] * 16, 10),
    ],
)
def test_the_bound_of_known_codes(codes: list[int], bound: int) -> None:
    assert shannon_bound(np.array(codes, np.uint8).reshape(-1, 1)) == bound


@given(st.lists(st.integers(0, 127), min_size=1), st.integers(0, 3))
def test_the_bound_is_the_naive_sum_and_never_above_packed_indices(
    codes: list[int], spare: int
) -> None:
    shares = [count / len(codes) for count in Counter(codes).values()]
    naive = -len(codes) * sum(share * math.log2(share) for share in shares) / 8
    found = shannon_bound(np.array(codes, np.uint8))
    assert naive - 1e-9 <= found < naive + 1 + 1e-9
    bits = min(8, max(1, max(codes).bit_length()) + spare)
    packed = packed_bound(len(codes), bits)
    assert found <= packed == len(pack_codes(np.array(codes, np.uint8), bits))
