"""Work in parts gives the bits of the whole."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from edgepalette.cluster.aggregation import GradientAggregation
from edgepalette.cluster.algorithm import centroid_gradient, row_gradients
from edgepalette.cluster.side_by_side import LEAST_ELEMENTS, PARTS, is_large, side_by_side


@pytest.mark.parametrize("rows", [1, 3, PARTS, 100])
def test_parts_are_joined_in_their_order(rows: int) -> None:
    numbers = tf.reshape(tf.range(2 * rows), (rows, 2))
    sizes: list[int] = []

    def seen(part: Any, other: Any) -> Any:
        sizes.append(part.shape[0])
        return part + other

    np.testing.assert_array_equal(side_by_side(seen, numbers, numbers), 2 * numbers.numpy())
    assert len(sizes) == min(rows, PARTS)
    assert sum(sizes) == rows
    assert max(sizes) - min(sizes) <= 1


def test_only_tensors_of_known_size_are_large() -> None:
    assert is_large(tf.zeros(LEAST_ELEMENTS))
    assert not is_large(tf.zeros(LEAST_ELEMENTS - 1))
    assert not is_large(tf.TensorSpec((None, LEAST_ELEMENTS)))


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
# an odd size: rows are padded; more rows than parts, and fewer
@pytest.mark.parametrize(("shape", "clusters"), [((601, 601), 200), ((3, 100_003), 16)])
def test_rows_of_a_large_gradient_are_summed_to_the_same_bits_however_it_is_compiled(
    shape: tuple[int, int], clusters: int, dtype: str
) -> None:
    random = np.random.default_rng(0)
    gradient = random.normal(size=shape).astype(np.float32)
    indices = random.integers(0, clusters, shape).astype(dtype)
    # nearly all in one cluster, as training may leave them
    indices[:, ::2] = 1

    def sums(gradient: Any, indices: Any) -> tuple[Any, Any]:
        how = GradientAggregation.SUM
        rows = row_gradients(gradient, indices, clusters, how)
        return rows, centroid_gradient(gradient, indices, clusters, how)

    given = tf.constant(gradient), tf.constant(indices)
    rows = sums(*given)[0].numpy()
    exact = [
        np.bincount(places, values, clusters)
        for values, places in zip(gradient.astype(np.float64), indices, strict=True)
    ]
    np.testing.assert_allclose(rows, exact, atol=2e-3)
    for compiled in (sums, tf.function(sums), tf.function(sums, jit_compile=True)):
        found, total = compiled(*given)
        np.testing.assert_array_equal(found, rows)
        np.testing.assert_allclose(total, np.sum(exact, axis=0), atol=2e-3)
