"""Where a kernel's window lies: padding and sizes as the runtimes compute them.

Source: tflite-micro, tensorflow/lite/kernels/padding.h.
"""

from __future__ import annotations

from dataclasses import dataclass

from .graph import Node

SAME, VALID = 0, 1


@dataclass(frozen=True)
class Window:
    """(height, width) of everything; before: padding above and left."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    before: tuple[int, int]
    output: tuple[int, int]

    @property
    def reach(self) -> tuple[int, int]:
        """Input rows and columns one output sees."""
        (a, b), (c, d) = self.kernel, self.dilation
        return (a - 1) * c + 1, (b - 1) * d + 1

    @property
    def columns(self) -> int:
        """Pixels of a row with the padding that is read."""
        return (self.output[1] - 1) * self.stride[1] + self.reach[1]


def window(
    node: Node,
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: int,
) -> Window:
    """The window over an input of `size`. Raises ExportError for strides or paddings no kernel has."""
    if min(*stride, *dilation, *kernel) < 1 or padding not in (SAME, VALID):
        raise node.refuse("needs strides, dilations and a window of at least 1 and a padding of SAME or VALID", f"{stride}, {dilation}, {kernel}, {padding}")  # fmt: skip
    output, before = [], []
    for length, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        reach = (k - 1) * d + 1
        count = -(-length // s) if padding == SAME else (length + s - reach) // s
        output.append(count)
        before.append(max(0, (count - 1) * s + reach - length) // 2)
    return Window(
        (kernel[0], kernel[1]),
        stride,
        dilation,
        (before[0], before[1]),
        (output[0], output[1]),
    )


def fits_in_place(node: Node, place: Window, block: int) -> bool:
    """Whether outputs written over the input, `block` rows at a time, never reach input rows that are still to be read."""
    data = node.operand(0)
    height, row = data.shape[1], data.size // data.shape[0] // data.shape[1]
    written = node.output.size // node.output.shape[0] // place.output[0]
    if data.shape[0] != 1:
        return False
    for end in range(block, place.output[0], block):
        loaded = (end - 1) * place.stride[0] + place.reach[0] - place.before[0]
        if end * written > min(max(loaded, 0), height) * row:
            return False
    return True
