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


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "int32"])
def test_a_large_gradient_is_summed_to_the_bits_of_plain_counting(
    jit_compile: bool, dtype: str
) -> None:
    random = np.random.default_rng(0)
    # an odd size: rows are padded; more rows than parts, and fewer
    for shape, clusters in (((601, 601), 200), ((3, 100_003), 16)):
        gradient = random.normal(size=shape).astype(np.float32)
        indices = random.integers(0, clusters, shape).astype(dtype)

        @tf.function(jit_compile=jit_compile)
        def sums(gradient: Any, indices: Any, clusters: int = clusters) -> tuple[Any, Any]:
            how = GradientAggregation.SUM
            rows = row_gradients(gradient, indices, clusters, how)
            return rows, centroid_gradient(gradient, indices, clusters, how)

        rows, total = (part.numpy() for part in sums(gradient, indices))
        expected = np.zeros((shape[0], clusters), np.float32)
        for row, (values, places) in enumerate(zip(gradient, indices, strict=True)):
            np.add.at(expected[row], places, values)
        np.testing.assert_array_equal(rows, expected)
        exact = np.bincount(indices.reshape(-1), gradient.reshape(-1).astype(np.float64), clusters)
        np.testing.assert_allclose(total, exact, atol=2e-3)
