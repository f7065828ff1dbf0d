"""Find a file's weight in the Keras model by content, up to one gain per output channel.

Folding BatchNorm, a Rescaling layer or any other product multiplies each output channel of a weight W by a gain a:
F[ch] = a[ch] · W[ch], a = <F, W> / <W, W>. Whatever W fits to rounding is the right one, since F is all the file
needs: names and order do not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from numpy.typing import NDArray

# what float32 products leave: a gain is itself a rounded product of a few factors
MAX_RESIDUAL = 1e-5


@dataclass(frozen=True, eq=False)
class GainMatch:
    """W in the file's layout and its gains: `file ≈ gains · weight` along `axis`, to `residual`."""

    weight: NDArray[np.float32]
    gains: NDArray[np.float64]
    axis: int
    residual: float


def match_gains(
    file: NDArray[np.float32], weight: NDArray[np.float32], axis: int
) -> GainMatch | None:
    """The gains that make `file` of `weight`, in whichever of the weight's layouts; None if none fits.

    file: a tensor of the file. weight: a Keras weight, in Keras' layout. axis: the file's output channels.
    """
    for candidate in layouts(weight, file.shape):
        match = _fit(file, candidate, axis)
        if match is not None:
            return match
    return None


def layouts(weight: NDArray[np.float32], shape: tuple[int, ...]) -> Iterator[NDArray[np.float32]]:
    """The weight rearranged to a file's shape, every way its axes allow.

    Covers HWIO → OHWI, (in, out) → (out, in), Conv1D's KIO → O1KI, transposed convolutions' HWOI → OHWI, ONNX's
    OIHW, and depthwise HW(I)(M) → 1HW(I·M), whose last two axes are one in the file.
    """
    if weight.size != int(np.prod(shape)):
        return
    long = tuple(size for size in shape if size > 1)
    seen: set[tuple[int, ...]] = set()
    flattened = weight.reshape(*weight.shape[:-2], -1) if weight.ndim > 2 else weight
    for form in (weight, flattened):
        squeezed = form.reshape([size for size in form.shape if size > 1])
        for order in permutations(range(squeezed.ndim)):
            key = (squeezed.ndim, *order)
            if key not in seen and tuple(squeezed.shape[n] for n in order) == long:
                seen.add(key)
                yield squeezed.transpose(order).reshape(shape)


def channel_rows(array: NDArray[np.generic], axis: int) -> NDArray[np.generic]:
    """(channels, elements per channel)."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def _fit(file: NDArray[np.float32], weight: NDArray[np.float32], axis: int) -> GainMatch | None:
    rows = channel_rows(file, axis).astype(np.float64)
    basis = channel_rows(weight, axis).astype(np.float64)
    norms = np.einsum("ij,ij->i", basis, basis)
    products = np.einsum("ij,ij->i", rows, basis)
    gains = np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0)
    error = np.abs(rows - gains[:, None] * basis).max(axis=1)
    size = np.abs(rows).max(axis=1)
    if np.any(error > MAX_RESIDUAL * size):
        return None
    residual = float(np.divide(error, size, out=np.zeros_like(size), where=size > 0).max())
    return GainMatch(weight, gains, axis, residual)
