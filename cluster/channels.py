"""Where a kernel's output channels are, for centroids of their own: the layer says, not the shape."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Channels:
    """The axes of a weight that number its output channels: rows are (channels, elements per channel)."""

    shape: tuple[int, ...]
    axes: tuple[int, ...]

    @classmethod
    def of(cls, shape: tuple[int, ...], axes: tuple[int, ...]) -> Channels:
        """axes: may be negative."""
        return cls(shape, tuple(sorted(axis % len(shape) for axis in axes)))

    @property
    def count(self) -> int:
        """Number of channels."""
        return prod(self.shape[axis] for axis in self.axes)

    @property
    def order(self) -> tuple[int, ...]:
        """Axes with those of the channels first."""
        rest = [axis for axis in range(len(self.shape)) if axis not in self.axes]
        return (*self.axes, *rest)

    def rows(self, array: Any) -> Any:
        """(channels, elements per channel) of a tensor of TensorFlow's in the weight's shape."""
        import tensorflow as tf

        return tf.reshape(tf.transpose(array, self.order), (self.count, -1))

    def unrows(self, rows: Any) -> Any:
        """The tensor whose `rows` these are."""
        import tensorflow as tf

        moved = tf.reshape(rows, [self.shape[axis] for axis in self.order])
        return tf.transpose(moved, np.argsort(self.order))

    def array_rows(self, array: NDArray[Any]) -> NDArray[Any]:
        """`rows` of a numpy array."""
        return array.transpose(self.order).reshape(self.count, -1)

    def array_unrows(self, rows: NDArray[Any]) -> NDArray[Any]:
        """`unrows` of a numpy array."""
        moved = rows.reshape([self.shape[axis] for axis in self.order])
        return moved.transpose(np.argsort(self.order))


def is_depthwise(layer: Any, variable: str) -> bool:
    """Whether a layer's weight is (…, channels, multiplier), every output made of one input channel."""
    bases = {base.__name__ for base in type(layer).__mro__}
    return variable == "depthwise_kernel" or bool(bases & {"DepthwiseConv1D", "DepthwiseConv2D"})


def channel_axes(layer: Any, variable: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of the output channels of a layer's weight.

    Keras keeps kernels in one order whatever `data_format` says of the activations, so it is not asked. Convolutions,
    dense, recurrent and embedding weights end in their outputs; transposed convolutions hold them one axis earlier; a
    depthwise kernel makes one per input channel and multiplier; an EinsumDense's are the axes its equation keeps.
    """
    if is_depthwise(layer, variable):
        return (-2, -1)
    bases = {base.__name__ for base in type(layer).__mro__}
    if bases & {"Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"}:
        return (-2,)
    if "EinsumDense" in bases:
        inputs, output = layer.equation.split("->")
        letters = inputs.split(",")[1]
        kept = tuple(place for place, letter in enumerate(letters) if letter in output)
        return kept or (len(shape) - 1,)
    return (-1,)
