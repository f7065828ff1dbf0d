"""Work of one thread shared out: parts of a tensor, which TensorFlow runs on as many threads as it has."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

# what smaller tensors take is less than what parts cost
LEAST_ELEMENTS = 1 << 18
# more than most devices have cores for training: a thread that is late takes fewer of them
PARTS = 8


def is_large(tensor: Any) -> bool:
    """Whether parts of it are worth their cost."""
    elements = tensor.shape.num_elements()
    return elements is not None and elements >= LEAST_ELEMENTS


def side_by_side(function: Callable[..., Any], *tensors: Any) -> Any:
    """`function(*tensors)` part by part along the first axis, joined again.

    tensors: of one first size, which is known. The function's result has that first size, and every row of it depends
    on the tensors' same rows alone: the bits are the same in parts or at once.
    """
    import tensorflow as tf

    rows = tensors[0].shape[0]
    borders = [rows * part // PARTS for part in range(PARTS + 1)]
    sizes = [end - start for start, end in pairwise(borders) if end > start]
    parts = zip(*(tf.split(tensor, sizes) for tensor in tensors), strict=True)
    return tf.concat([function(*part) for part in parts], 0)
