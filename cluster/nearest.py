"""Nearest centroid over sorted midpoints: O(N log K) time, O(N) memory.

`nearest_reference` is the plain definition and the oracle of the fast form.
Never sort the stored centroids: both forms map back through argsort, so optimizer slots stay with their centroid.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .palette import index_width


def midpoints(ascending: NDArray[Any]) -> NDArray[Any]:
    """Borders between neighbouring centroids, (K-1,), in the centroids' own precision."""
    half = np.asarray(0.5, ascending.dtype)
    return np.asarray(ascending[:-1] * half + ascending[1:] * half)


def nearest_reference(
    weight: NDArray[np.float32], centroids: NDArray[np.float32]
) -> NDArray[np.int32]:
    """Index of the nearest centroid per element; a weight on a border takes the smaller centroid."""
    order = np.argsort(centroids, kind="stable")
    position = np.searchsorted(midpoints(centroids[order]), weight, side="left")
    return np.asarray(order[position], dtype=np.int32)


def nearest(weight: Any, centroids: Any) -> tuple[Any, Any]:
    """(indices int32, clustered weight), both in the weight's shape; TensorFlow tensors.

    centroids: (K,) for a weight of any shape, or (rows, K) for a weight of (rows, N), each row with its own.
    An unrolled binary search compiled by XLA: log2 K gathers give index and value together.
    """
    import tensorflow as tf

    weight, centroids = tf.convert_to_tensor(weight), tf.convert_to_tensor(centroids)
    search = _search(index_width(int(centroids.shape[-1])), weight.dtype.name)
    rows = weight if len(centroids.shape) == 2 else tf.reshape(weight, (1, -1))
    indices, values = search(rows, tf.reshape(centroids, (-1, centroids.shape[-1])))
    return tf.reshape(indices, weight.shape), tf.reshape(values, weight.shape)


@cache
def _search(bits: int, dtype: str) -> Any:
    """The search for palettes of `bits` bits, traced once for all sizes; XLA compiles it for each."""
    import tensorflow as tf

    spec = tf.TensorSpec((None, None), dtype)

    @tf.function(jit_compile=True, input_signature=[spec, spec])  # type: ignore[untyped-decorator] # TF has no stubs
    def search(weight: Any, centroids: Any) -> tuple[Any, Any]:
        rows, count = tf.unstack(tf.shape(centroids))
        order = tf.argsort(centroids, stable=True)
        ascending = tf.gather(centroids, order, batch_dims=1)
        half = tf.constant(0.5, ascending.dtype)
        borders = ascending[:, :-1] * half + ascending[:, 1:] * half
        # the largest number beyond the last border: the search walks a full tree of 2^bits leaves for any K
        padding = tf.fill([rows, 2**bits - count], ascending.dtype.max)
        borders = tf.reshape(tf.concat([borders, padding], 1), (-1,))
        # one flat gather for all rows, each from its own part of the table
        row = tf.range(rows)[:, None]
        position = tf.zeros_like(weight, tf.int32)
        for level in reversed(range(bits)):
            step = 1 << level
            border = tf.gather(borders, row * (2**bits - 1) + position + (step - 1))
            position += tf.where(weight > border, step, 0)
        place = row * count + tf.minimum(position, count - 1)
        flat_order, flat_values = tf.reshape(order, (-1,)), tf.reshape(ascending, (-1,))
        return tf.gather(flat_order, place), tf.gather(flat_values, place)

    # called as it is: TF would warn that a function of the same source is traced for every width
    return search.get_concrete_function()
