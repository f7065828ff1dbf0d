"""What the weights of a .tflite are multiplied by: the patches of its inputs that an operator lays its kernel on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .flatbuffer import OpaqueTable
from .tflite_schema import Model, Op, Operator, Tensor

# slots of stride (width, height) and dilation (width, height) in the operators' option tables (TFLite's schema.fbs)
_SLOTS: dict[int, tuple[int, int, int, int]] = {
    Op.CONV_2D: (1, 2, 4, 5),
    Op.DEPTHWISE_CONV_2D: (1, 2, 5, 6),
}
_PADDING = 0
# of FULLY_CONNECTED: 0 is rows of inputs, one an output
_WEIGHTS_FORMAT = 1
SAME = 0
# elements of the patches made at a time
UNFOLDED = 1 << 23
NO_PADDING = ((0, 0), (0, 0))
# how far a kernel may reach beyond its inputs: a damaged file's would take all memory
FARTHEST = 256


@dataclass(frozen=True)
class Unfolding:
    """How a kernel of (height, width) is laid on inputs (N, height, width, channels).

    channels: of the inputs. strides, dilations: (vertical, horizontal). padding: zeros before and after the inputs,
    vertically and horizontally; None: as many as give an output for every stride, the odd one after. groups: independent products, the channels of
    a depthwise kernel. rows: inputs are rows of channels, whatever their shape, as fully connected operators take them.
    """

    kernel: tuple[int, int]
    channels: int
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    padding: tuple[tuple[int, int], tuple[int, int]] | None = NO_PADDING
    groups: int = 1
    rows: bool = False

    def patches(self, inputs: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
        """(groups, places, inputs of a product), a few examples at a time."""
        if self.rows:
            inputs = inputs.reshape(-1, 1, 1, self.channels)
        grown = self.kernel[0] * self.kernel[1] * max(1, inputs[:1].size)
        step = max(1, UNFOLDED // grown)
        for start in range(0, len(inputs), step):
            yield self._unfolded(inputs[start : start + step])

    def _unfolded(self, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
        rows, columns = (self._places(inputs.shape[axis], axis - 1) for axis in (1, 2))
        padded = np.pad(inputs, ((0, 0), rows.padding, columns.padding, (0, 0)))
        parts = [
            padded[:, rows.of(row), columns.of(column)]
            for row in range(self.kernel[0])
            for column in range(self.kernel[1])
        ]
        # (places, kernel's places, channels)
        places = len(inputs) * rows.count * columns.count
        patches: NDArray[np.float32] = np.stack(parts, axis=3)
        patches = patches.reshape(places, len(parts), inputs.shape[3])
        if self.groups > 1:
            return np.ascontiguousarray(np.moveaxis(patches, 2, 0))
        return patches.reshape(1, places, len(parts) * inputs.shape[3])

    def _places(self, size: int, axis: int) -> _Places:
        stride, dilation = self.strides[axis], self.dilations[axis]
        reach = (self.kernel[axis] - 1) * dilation + 1
        if self.padding is not None:
            padding = self.padding[axis]
            count = max(0, (size + sum(padding) - reach) // stride + 1)
            return _Places(padding, count, stride, dilation)
        count = -(-size // stride)
        missing = max(0, (count - 1) * stride + reach - size)
        return _Places((missing // 2, missing - missing // 2), count, stride, dilation)


@dataclass(frozen=True)
class _Places:
    """Where a kernel lies along one axis: `padding` (before, after) and `count` places."""

    padding: tuple[int, int]
    count: int
    stride: int
    dilation: int

    def of(self, tap: int) -> slice:
        """What the kernel's element `tap` meets."""
        start = tap * self.dilation
        return slice(start, start + (self.count - 1) * self.stride + 1 if self.count else start, self.stride)  # fmt: skip


def unfolding(model: Model, op: Operator, data: Tensor, weights: Tensor) -> Unfolding | str:
    """How an operator multiplies its weights; or why that is not known here."""
    code = model.operator_codes[op.opcode_index].code
    if code == Op.FULLY_CONNECTED:
        if len(weights.dims) != 2 or prod(data.dims) % max(1, weights.dims[1]):
            return "its inputs do not fit its weights"
        if option(op, _WEIGHTS_FORMAT, 0):
            return "its weights are shuffled for one kind of processor"
        return Unfolding((1, 1), weights.dims[1], rows=True)
    if code not in _SLOTS or len(weights.dims) != 4 or len(data.dims) != 4:
        return "the inputs of its products are not at hand"
    channels, taken = data.dims[3], weights.dims[3]
    depthwise = code == Op.DEPTHWISE_CONV_2D
    if (taken % max(1, channels)) if depthwise else taken != channels:
        return "its convolution is grouped"
    across, down, wide, high = (option(op, slot, 1) for slot in _SLOTS[code])
    if min(across, down, wide, high) < 1:
        return "its strides and dilations are no positive numbers"
    reach = max(
        (weights.dims[axis] - 1) * dilation - data.dims[axis]
        for axis, dilation in ((1, high), (2, wide))
    )
    if reach > FARTHEST:
        return "its kernel reaches far beyond its inputs"
    groups = channels if depthwise else 1
    kernel = (weights.dims[1], weights.dims[2])
    padding = None if option(op, _PADDING, SAME) == SAME else NO_PADDING
    return Unfolding(kernel, channels, (down, across), (high, wide), padding, groups)


def option(op: Operator, slot: int, default: int) -> int:
    """A number of an operator's option table."""
    options: Any = op.builtin_options
    if not isinstance(options, OpaqueTable):
        return default
    found = dict(options.fields).get(slot)
    return default if found is None else int.from_bytes(found, "little", signed=True)


def grouped(values: NDArray[Any], groups: int, depthwise: bool) -> NDArray[Any]:
    """(groups, inputs, outputs) of weights in the file's layout."""
    if depthwise:
        # (1, height, width, channels · multiplier)
        taps = values.reshape(-1, groups, values.shape[-1] // groups)
        return np.moveaxis(taps, 1, 0)
    return values.reshape(len(values), -1).T[None]


def ungrouped(parts: NDArray[Any], shape: tuple[int, ...], depthwise: bool) -> NDArray[Any]:
    """`grouped` undone."""
    return (np.moveaxis(parts, 0, 1) if depthwise else parts[0].T).reshape(shape)
