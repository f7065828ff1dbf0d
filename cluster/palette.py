"""The palette: a weight as a few values and one index per element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError

MAX_CLUSTERS = 256


def index_width(values: int) -> int:
    """Bits one index into `values` entries takes (at least 1)."""
    return max(1, (values - 1).bit_length())


@dataclass(frozen=True, eq=False)
class Palette:
    """A weight that shares its values: `weights() == scale · table[codes]`.

    codes: uint8, in the weight's shape.
    table: (K,), or (channels, K) with one row per channel of `axis`.
    scale: (channels,), one gain per channel of `axis`.
    """

    codes: NDArray[np.uint8]
    table: NDArray[Any]
    scale: NDArray[np.float32]
    axis: int

    def __post_init__(self) -> None:
        if self.codes.dtype != np.uint8:
            raise ValueError(f"palette codes must be uint8, got {self.codes.dtype}")
        if not 0 <= self.axis < max(1, self.codes.ndim):
            raise ValueError(
                f"palette axis must lie in [0, {self.codes.ndim}), got {self.axis} "
                f"for codes of shape {self.codes.shape}"
            )
        channels = self.codes.shape[self.axis] if self.codes.ndim else 1
        if self.scale.shape != (channels,):
            raise ValueError(f"palette scale must have shape ({channels},), got {self.scale.shape}")
        if self.table.ndim not in (1, 2) or (
            self.table.ndim == 2 and self.table.shape[0] != channels
        ):
            raise ValueError(
                f"palette table must have shape (K,) or ({channels}, K), got {self.table.shape}"
            )
        if not 1 <= self.clusters <= MAX_CLUSTERS:
            raise ValueError(f"a palette holds 1 to {MAX_CLUSTERS} values, got {self.clusters}")
        if self.codes.size and int(self.codes.max()) >= self.clusters:
            raise ValueError(
                f"palette codes must be < {self.clusters}, got {int(self.codes.max())}"
            )

    @classmethod
    def of(cls, weight: NDArray[np.float32], axis: int = -1) -> Palette:
        """The palette of a weight that already shares at most 256 values, its table ascending."""
        table, codes = np.unique(weight, return_inverse=True)
        if len(table) > MAX_CLUSTERS:
            raise ModelError(
                f"a palette needs a weight of at most {MAX_CLUSTERS} distinct values, got {len(table)}; "
                "cluster the model first"
            )
        axis = axis % weight.ndim
        return cls(
            codes.reshape(weight.shape).astype(np.uint8),
            table,
            np.ones(weight.shape[axis], np.float32),
            axis,
        )

    @property
    def clusters(self) -> int:
        """Values an index can name."""
        return int(self.table.shape[-1])

    @property
    def bits(self) -> int:
        """Bits per index."""
        return index_width(self.clusters)

    def values(self) -> NDArray[Any]:
        """`table[codes]` in the weight's shape, before the gains."""
        if self.table.ndim == 1:
            return np.asarray(self.table[self.codes])
        rows = np.moveaxis(self.codes, self.axis, 0).reshape(len(self.scale), -1)
        picked = np.take_along_axis(self.table, rows.astype(np.intp), axis=1)
        shape = np.moveaxis(self.codes, self.axis, 0).shape
        return np.moveaxis(picked.reshape(shape), 0, self.axis)

    def weights(self) -> NDArray[np.float32]:
        """`scale · table[codes]` as float32 in the weight's shape."""
        shape = [1] * self.codes.ndim
        shape[self.axis] = -1
        return np.asarray(self.values() * self.scale.reshape(shape), np.float32)
