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
from .side_by_side import is_large

# up to so many bits, comparing with every border is as fast as any search: it takes no gather
MOST_COMPARED_BITS = 4
# even buckets between the first border and the last, from which a look-up starts: how many borders lie below each.
# Of large weights and of others, for which more would take longer to count than they save
BUCKETS = (1 << 17, 1 << 12)
# a look-up finds its place among the borders of a bucket by so many comparisons: 1, 3 or 7 borders at most
COMPARISONS = (1, 2, 3)
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
    dtype = weight.dtype.name
    if bits > MOST_COMPARED_BITS and single:
        indices, values = _looked_up(tf.reshape(weight, (-1,)), centroids, bits)
    else:
        way = _compare if bits <= MOST_COMPARED_BITS else _search
        indices = _compiled(way, bits, dtype)(rows, table)
        # apart from the search, which XLA would else run again for them or keep in 4 bytes an element
        values = _compiled_values(dtype)(indices, table)
    return tf.reshape(indices, weight.shape), tf.reshape(values, weight.shape)


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


def _compare(weight: Any, borders: Any, order: Any, ascending: Any, bits: int) -> Any:
    """Past each border take the next centroid: 2^bits - 1 comparisons that run in vector registers."""
    tf = _tf()
    # borders are padded to 2^bits - 1 and a weight of infinity passes all: the last centroid follows itself
    last = tf.shape(ascending)[1] - 1
    indices = tf.broadcast_to(order[:, :1], tf.shape(weight))
    for border in range(2**bits - 1):
        passed = weight > borders[:, border : border + 1]
        indices = tf.where(passed, order[:, tf.minimum(border + 1, last), None], indices)
    return indices


def _search(weight: Any, borders: Any, order: Any, ascending: Any, bits: int) -> Any:
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
    return tf.gather(tf.reshape(order, (-1,)), place)


def _looked_up(weight: Any, centroids: Any, bits: int) -> tuple[Any, Any]:
    """(indices uint8, values) of a flat weight in one table, by as many comparisons as the fullest bucket asks for."""
    tf = _tf()
    dtype = weight.dtype.name
    buckets = BUCKETS[0] if is_large(weight) else BUCKETS[1]
    order, ascending, in_order, crowding, *table = _table(centroids, bits, buckets)
    nothing_known = tf.zeros_like(table[0]), *table[1:]
    ways = [(steps, table) for steps in COMPARISONS] + [(bits, nothing_known)]
    way = tf.reduce_sum(tf.cast(crowding >= [2**steps for steps in COMPARISONS], tf.int32))
    places = tf.switch_case(
        way,
        [partial(_compiled_ranks(steps, buckets, dtype), weight, *known) for steps, known in ways],
    )
    # centroids seldom change places: their ranks are their indices
    indices = tf.cond(
        in_order, lambda: places, lambda: _compiled_values("uint8")(places[None], order[None])[0]
    )
    return indices, _compiled_values(dtype)(places[None], ascending[None])[0]


def _table(centroids: Any, bits: int, buckets: int) -> tuple[Any, ...]:
    """What a look-up in (K,) centroids needs.

    Their order, the centroids in it, whether they are stored so, borders in the fullest bucket; and the table: borders
    below each bucket, the borders, the first of them, buckets per unit. Not compiled by XLA, whose sort and sums would
    take 40 MB to compile.
    """
    tf = _tf()
    order = tf.argsort(centroids, stable=True)
    ascending = tf.gather(centroids, order)
    half = tf.constant(0.5, ascending.dtype)
    borders = ascending[:-1] * half + ascending[1:] * half
    first = borders[0]
    scale = buckets / tf.maximum(borders[-1] - first, LEAST_SPAN)
    filled = tf.math.unsorted_segment_sum(
        tf.ones_like(borders, tf.int32), _bucket(borders, first, scale, buckets), buckets
    )
    # a byte an entry: the table stays in the second cache
    below = tf.cast(tf.cumsum(filled, exclusive=True), tf.uint8)
    # beyond the last border, as far as any comparison reaches: no weight passes it
    padding = tf.fill([2 ** max(bits, *COMPARISONS)], tf.constant(np.inf, ascending.dtype))
    in_order = tf.reduce_all(order == tf.range(tf.shape(order)[0]))
    padded = tf.concat([borders, padding], 0)
    small = tf.cast(order, tf.uint8)
    return small, ascending, in_order, tf.reduce_max(filled), below, padded, first, scale


@cache
def _compiled_ranks(steps: int, buckets: int, dtype: str) -> Any:
    """Borders each weight of (N,) passes, uint8, where no bucket holds 2^steps borders.

    Exact: buckets rise with weights, so borders in lower buckets lie below and those in higher ones above.
    """
    tf = _tf()
    number = tf.TensorSpec((), dtype)
    some, known = tf.TensorSpec((None,), dtype), tf.TensorSpec((None,), tf.uint8)

    @tf.function(jit_compile=True, input_signature=[some, known, some, number, number])  # type: ignore[untyped-decorator] # TF has no stubs
    def ranks(weight: Any, below: Any, borders: Any, first: Any, scale: Any) -> Any:
        position = tf.cast(tf.gather(below, _bucket(weight, first, scale, buckets)), tf.int32)
        for step in (1 << level for level in reversed(range(steps))):
            position += tf.where(weight > tf.gather(borders, position + (step - 1)), step, 0)
        return tf.cast(position, tf.uint8)

    return ranks.get_concrete_function()


def _bucket(values: Any, first: Any, scale: Any, buckets: int) -> Any:
    """A difference and a product, which no compiler rounds otherwise: the same bucket wherever it is asked for."""
    tf = _tf()
    return tf.cast(tf.clip_by_value((values - first) * scale, 0, buckets - 1), tf.int32)


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
