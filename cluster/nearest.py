"""Nearest centroid over sorted midpoints: O(N log K) time or better, O(N) memory.

`nearest_reference` is the plain definition and the oracle of the fast form.
Never sort the stored centroids: both forms map back through argsort, so optimizer slots stay with their centroid.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .palette import index_width

# up to so many bits, comparing with every border is as fast as any search: it takes no gather
MOST_COMPARED_BITS = 4
# buckets of the table the wider searches start from
BUCKETS = 1 << 14
# keeps the width of a bucket a number when all borders are one
LEAST_SPAN = 1e-30


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
    Compiled by XLA.
    """
    indices, values = nearest_bytes(weight, centroids)
    return _tf().cast(indices, _tf().int32), values


def nearest_bytes(weight: Any, centroids: Any) -> tuple[Any, Any]:
    """`nearest` with uint8 indices, which is what training keeps."""
    tf = _tf()
    weight, centroids = tf.convert_to_tensor(weight), tf.convert_to_tensor(centroids)
    bits = index_width(int(centroids.shape[-1]))
    single = len(centroids.shape) == 1
    rows = tf.reshape(weight, (1, -1)) if single else weight
    table = tf.reshape(centroids, (-1, centroids.shape[-1]))
    if bits <= MOST_COMPARED_BITS:
        indices, values = _compiled(_compare, bits, weight.dtype.name)(rows, table)
    else:
        ways = [*(LOOK_UPS if single else ()), _search]
        indices = _first_exact(
            [_compiled(way, bits, weight.dtype.name) for way in ways], rows, table
        )
        # apart from the search, which XLA would else run again for them or keep in 4 bytes an element
        values = _compiled_values(weight.dtype.name)(indices, table)
    return tf.reshape(indices, weight.shape), tf.reshape(values, weight.shape)


def _first_exact(ways: list[Any], rows: Any, table: Any) -> Any:
    """Indices by the first way that says it is exact. Each is compiled by XLA when it is first needed."""
    indices, exact = ways[0](rows, table)
    if len(ways) == 1:
        return indices
    return _tf().cond(exact, lambda: indices, lambda: _first_exact(ways[1:], rows, table))


@cache
def _compiled(way: Callable[..., Any], bits: int, dtype: str) -> Any:
    """A way for palettes of `bits` bits, traced once for all sizes; XLA compiles it for each."""
    tf = _tf()
    spec = tf.TensorSpec((None, None), dtype)

    @tf.function(jit_compile=True, input_signature=[spec, spec])  # type: ignore[untyped-decorator] # TF has no stubs
    def compiled(weight: Any, centroids: Any) -> Any:
        order = tf.argsort(centroids, stable=True)
        ascending = tf.gather(centroids, order, batch_dims=1)
        half = tf.constant(0.5, ascending.dtype)
        borders = ascending[:, :-1] * half + ascending[:, 1:] * half
        # the largest number beyond the last border: no finite weight passes it
        rows, count = tf.unstack(tf.shape(centroids))
        padding = tf.fill([rows, 2**bits - count], ascending.dtype.max)
        order = tf.cast(order, tf.uint8)
        return way(weight, tf.concat([borders, padding], 1), order, ascending, bits)

    # called as it is: TF would warn that a function of the same source is traced for every width
    return compiled.get_concrete_function()


def _compare(weight: Any, borders: Any, order: Any, ascending: Any, bits: int) -> tuple[Any, Any]:
    """Past each border take the next centroid: 2^bits - 1 comparisons that run in vector registers."""
    tf = _tf()
    # borders are padded to 2^bits - 1 and a weight of infinity passes all: the last centroid follows itself
    last = tf.shape(ascending)[1] - 1
    indices = tf.broadcast_to(order[:, :1], tf.shape(weight))
    values = tf.broadcast_to(ascending[:, :1], tf.shape(weight))
    for border in range(2**bits - 1):
        after = tf.minimum(border + 1, last)
        passed = weight > borders[:, border : border + 1]
        indices = tf.where(passed, order[:, after, None], indices)
        values = tf.where(passed, ascending[:, after, None], values)
    return indices, values


def _look_up(
    weight: Any, borders: Any, order: Any, ascending: Any, bits: int, most: int
) -> tuple[Any, Any]:
    """One row, from a table of even buckets to the borders inside a bucket; and whether no bucket holds more than `most`.

    Then exact whatever rounding does: buckets rise with weights, so borders in lower buckets lie below.
    """
    tf = _tf()
    count = tf.shape(ascending)[1]
    inner, row = borders[0, : count - 1], borders[0]
    span = tf.maximum(inner[-1] - inner[0], LEAST_SPAN)

    def bucket(values: Any) -> Any:
        place = (values - inner[0]) * ((BUCKETS - 2) / span) + 1
        return tf.cast(tf.clip_by_value(place, 0, BUCKETS - 1), tf.int32)

    filled = tf.math.unsorted_segment_sum(tf.ones_like(inner, tf.int32), bucket(inner), BUCKETS)
    # a byte an entry: the table stays in the nearest cache
    below = tf.cast(tf.cumsum(filled, exclusive=True), tf.uint8)

    def ranks() -> Any:
        position = tf.cast(tf.gather(below, bucket(weight)), tf.int32)
        for _ in range(most):
            position += tf.cast(weight > tf.gather(row, position), tf.int32)
        # a weight of infinity passes the padding too
        return tf.minimum(position, count - 1)

    # centroids seldom change places: their ranks are their indices. Inside a branch, for outside XLA would make the
    # table anew for every weight
    indices = tf.cond(
        tf.reduce_all(order[0] == tf.cast(tf.range(count), tf.uint8)),
        lambda: tf.cast(ranks(), tf.uint8),
        lambda: tf.gather(order[0], ranks()),
    )
    return indices, tf.reduce_max(filled) <= most


# centroids move, and may come to share a bucket
LOOK_UPS = (partial(_look_up, most=1), partial(_look_up, most=4))


def _search(weight: Any, borders: Any, order: Any, ascending: Any, bits: int) -> tuple[Any, Any]:
    """An unrolled binary search: a full tree of 2^bits leaves, one flat gather a level for all rows."""
    tf = _tf()
    rows, count = tf.unstack(tf.shape(ascending))
    flat, row = tf.reshape(borders, (-1,)), tf.range(rows)[:, None]
    position = tf.zeros_like(weight, tf.int32)
    for level in reversed(range(bits)):
        step = 1 << level
        border = tf.gather(flat, row * (2**bits - 1) + position + (step - 1))
        position += tf.where(weight > border, step, 0)
    place = row * count + tf.minimum(position, count - 1)
    return tf.gather(tf.reshape(order, (-1,)), place), tf.constant(True)


@cache
def _compiled_values(dtype: str) -> Any:
    """(rows, N) values of (rows, N) indices into (rows, K) centroids."""
    tf = _tf()
    indices, table = tf.TensorSpec((None, None), tf.uint8), tf.TensorSpec((None, None), dtype)

    @tf.function(jit_compile=True, input_signature=[indices, table])  # type: ignore[untyped-decorator] # TF has no stubs
    def values(places: Any, centroids: Any) -> Any:
        rows, count = tf.unstack(tf.shape(centroids))
        flat = tf.range(rows)[:, None] * count + tf.cast(places, tf.int32)
        return tf.gather(tf.reshape(centroids, (-1,)), flat)

    return values.get_concrete_function()


def _tf() -> Any:
    """TensorFlow, only where it is needed: `nearest_reference` does without."""
    import tensorflow

    return tensorflow
