"""How operators of an .onnx multiply their weights, in the terms of `unfold`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .unfold import FARTHEST, NO_PADDING, Unfolding


@dataclass(frozen=True)
class OnnxProduct:
    """How a weight is multiplied. data, bias: names of the other inputs, the bias' empty if there is none.

    depthwise: one output channel reads one input channel. transposed: rows of the weight are outputs.
    """

    unfolding: Unfolding
    data: str
    bias: str
    depthwise: bool = False
    transposed: bool = False

    def inputs(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, channels, …) as the unfolding takes them: channels last, two sizes between."""
        if self.unfolding.rows:
            return values
        moved = np.moveaxis(values, 1, -1)
        return moved if moved.ndim == 4 else moved[:, None]

    def grouped(self, weight: NDArray[Any]) -> NDArray[Any]:
        """(groups, inputs, outputs) of a weight in the file's layout."""
        if self.unfolding.rows:
            return np.asarray((weight.T if self.transposed else weight)[None])
        if self.depthwise:
            taps = weight.reshape(self.unfolding.groups, -1, weight[0].size)
            return np.swapaxes(taps, 1, 2)
        rows = np.moveaxis(weight, 1, -1).reshape(len(weight), -1)
        return np.asarray(rows.T[None])

    def ungrouped(self, parts: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        """`grouped` undone."""
        if self.unfolding.rows:
            return np.asarray(parts[0].T if self.transposed else parts[0])
        if self.depthwise:
            return np.swapaxes(parts, 1, 2).reshape(shape)
        return np.moveaxis(parts[0].T.reshape(shape[0], *shape[2:], shape[1]), -1, 1)


def product_of(node: Any, shape: tuple[int, ...]) -> OnnxProduct | str:
    """How a node multiplies its weight of `shape`, its second input; or why that is not known here."""
    given = {attribute.name: attribute for attribute in node.attribute}
    names = [*node.input, "", ""]
    if node.op_type == "Conv":
        return _convolution(given, names, shape)
    if len(shape) != 2 or node.op_type not in ("Gemm", "MatMul"):
        return "the inputs of its products are not at hand"
    transposed = "transB" in given and bool(given["transB"].i)
    scaled = any(given[name].f != 1 for name in ("alpha", "beta") if name in given)
    if scaled or ("transA" in given and given["transA"].i):
        return "its products are scaled or turned"
    rows = Unfolding((1, 1), shape[1] if transposed else shape[0], rows=True)
    return OnnxProduct(rows, names[0], names[2], transposed=transposed)


def _convolution(
    given: dict[str, Any], names: list[str], shape: tuple[int, ...]
) -> OnnxProduct | str:
    dimensions = len(shape) - 2
    if dimensions not in (1, 2):
        return "the inputs of its products are not at hand"
    groups = given["group"].i if "group" in given else 1
    depthwise = groups > 1 and shape[1] == 1 and shape[0] % groups == 0
    if groups != 1 and not depthwise:
        return "its convolution is grouped"

    def numbers(name: str, default: int, count: int) -> list[int]:
        found = list(given[name].ints) if name in given else [default] * count
        # one dimension is the horizontal one of two
        spare = [default] * (2 - dimensions)
        return spare + found if count == dimensions else spare + found[:dimensions] + spare + found[dimensions:]  # fmt: skip

    strides, dilations = (numbers(name, 1, dimensions) for name in ("strides", "dilations"))
    pads = numbers("pads", 0, 2 * dimensions)
    if (len(strides), len(dilations), len(pads)) != (2, 2, 4) or min(*strides, *dilations) < 1:
        return "its strides, dilations and padding do not fit"
    auto = given["auto_pad"].s if "auto_pad" in given else b"NOTSET"
    kernel = (1, *shape[2:])[-2:]
    reach = max((size - 1) * dilation for size, dilation in zip(kernel, dilations, strict=True))
    if auto == b"SAME_LOWER" or min(pads) < 0 or max(*pads, reach) > FARTHEST:
        return "its padding is of a kind that is not known here"
    explicit = ((pads[0], pads[2]), (pads[1], pads[3])) if auto == b"NOTSET" else NO_PADDING
    padding = None if auto == b"SAME_UPPER" else explicit
    how = Unfolding(
        (kernel[0], kernel[1]),
        groups if depthwise else shape[1],
        (strides[0], strides[1]),
        (dilations[0], dilations[1]),
        padding,
        groups,
    )
    return OnnxProduct(how, names[0], names[2], depthwise)
