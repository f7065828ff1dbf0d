"""What the indices of a palette cost at least."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def packed_bound(count: int, bits: int) -> int:
    """Bytes of `count` indices of `bits` bits each, without a gap."""
    return -(-count * bits // 8)


def shannon_bound(codes: NDArray[Any]) -> int:
    """ceil(N·H/8) bytes, H = Σ p·log2(1/p) bits over the values of `codes`, of any shape.

    No coder that takes each code by itself, whatever stands before it, can do with less (Shannon 1948, theorem 9).
    """
    counts = np.unique(codes, return_counts=True)[1]
    # N / n, and not p, so that powers of two stay exact
    bits = float(np.sum(counts * np.log2(codes.size / counts)))
    return int(np.ceil(bits / 8))
