"""Find a file's weight in the Keras model by content, up to one gain per output channel.

Folding BatchNorm, a Rescaling layer or any other product multiplies each output channel of a weight W by a gain a:
F[ch] = a[ch] · W[ch], a = <F, W> / <W, W>. Whatever W fits to rounding is the right one, since F is all the file
needs: names and order do not matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import permutations
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

# what float32 products leave: a gain is itself a rounded product of a few factors
MAX_RESIDUAL = 1e-5


@dataclass(frozen=True)
class Layout:
    """How a Keras weight lies in a file: reshaped to `form` (no sizes of 1), axes in `order`, reshaped to `shape`."""

    form: tuple[int, ...]
    order: tuple[int, ...]
    shape: tuple[int, ...]

    def arrange(self, weight: NDArray[Any]) -> NDArray[Any]:
        """From Keras' layout to the file's."""
        return weight.reshape(self.form).transpose(self.order).reshape(self.shape)

    def restore(self, array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """From the file's layout to Keras' of `shape`."""
        moved = array.reshape([self.form[axis] for axis in self.order])
        return moved.transpose(np.argsort(self.order)).reshape(shape)


@dataclass(frozen=True, eq=False)
class GainMatch:
    """W in the file's layout and its gains: `file ≈ gains · weight` along `axis`, to `residual`."""

    weight: NDArray[np.float32]
    gains: NDArray[np.float64]
    axis: int
    layout: Layout
    residual: float

    def element_gains(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """The gain of every element of the Keras weight of `shape`."""
        along = [-1 if axis == self.axis else 1 for axis in range(self.weight.ndim)]
        spread = np.broadcast_to(self.gains.reshape(along), self.weight.shape)
        return self.layout.restore(spread, shape)


def match_gains(
    file: NDArray[np.float32], weight: NDArray[np.float32], axis: int
) -> GainMatch | None:
    """The gains that make `file` of `weight`, in whichever of the weight's layouts; None if none fits.

    file: a tensor of the file. weight: a Keras weight, in Keras' layout. axis: the file's output channels.
    """
    for layout in layouts(weight.shape, file.shape):
        match = _fit(file, layout.arrange(weight), axis, layout)
        if match is not None:
            return match
    return None


def layouts(weight: tuple[int, ...], file: tuple[int, ...]) -> Iterator[Layout]:
    """Every way a Keras weight's axes allow it to lie in a file tensor; both by shape.

    Covers HWIO → OHWI, (in, out) → (out, in), Conv1D's KIO → O1KI, transposed convolutions' HWOI → OHWI, ONNX's
    OIHW, and depthwise HW(I)(M) → 1HW(I·M), whose last two axes are one in the file.
    """
    if prod(weight) != prod(file):
        return
    long = tuple(size for size in file if size > 1)
    flattened = (*weight[:-2], weight[-2] * weight[-1]) if len(weight) > 2 else weight
    seen: set[Layout] = set()
    for full in (weight, flattened):
        form = tuple(size for size in full if size > 1)
        for order in permutations(range(len(form))):
            layout = Layout(form, order, file)
            if layout not in seen and tuple(form[axis] for axis in order) == long:
                seen.add(layout)
                yield layout


def channel_rows(array: NDArray[Any], axis: int) -> NDArray[Any]:
    """(channels, elements per channel)."""
    return np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)


def _fit(
    file: NDArray[np.float32], weight: NDArray[np.float32], axis: int, layout: Layout
) -> GainMatch | None:
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
    return GainMatch(weight, gains, axis, layout, residual)
