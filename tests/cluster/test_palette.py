"""The palette: a value with invariants, and `weights() == scale · table[codes]`."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgepalette.cluster.palette import MAX_CLUSTERS, Palette, index_width
from edgepalette.errors import ModelError

SHAPES = hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5)


def palette(**changed: Any) -> Palette:
    """A small valid palette with some fields changed."""
    fields: dict[str, Any] = {
        "codes": np.array([[0, 1, 2], [2, 1, 0]], np.uint8),
        "table": np.array([-1.0, 0.5, 3.0], np.float32),
        "scale": np.ones(3, np.float32),
        "axis": 1,
    }
    return Palette(**{**fields, **changed})


@given(st.data(), SHAPES, st.integers(1, 40))
@settings(deadline=None, max_examples=60)
def test_of_and_weights_are_a_round_trip(
    data: st.DataObject, shape: tuple[int, ...], distinct: int
) -> None:
    values = np.linspace(-2, 3, distinct, dtype=np.float32)
    weight = values[data.draw(hnp.arrays(np.int64, shape, elements=st.integers(0, distinct - 1)))]
    axis = data.draw(st.integers(-weight.ndim, weight.ndim - 1))

    found = Palette.of(weight, axis)

    np.testing.assert_array_equal(found.weights(), weight)
    assert found.weights().dtype == np.float32
    assert found.axis == axis % weight.ndim
    assert np.all(np.diff(found.table) > 0)
    assert found.clusters == len(np.unique(weight))


@given(st.data(), SHAPES, st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_a_table_per_channel_is_read_by_the_channel_of_each_code(
    data: st.DataObject, shape: tuple[int, ...], clusters: int
) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    codes = data.draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, clusters - 1)))
    channels = shape[axis]
    table = np.arange(channels * clusters, dtype=np.float32).reshape(channels, clusters)
    scale = np.arange(1, channels + 1, dtype=np.float32) * np.float32(-0.5)

    weights = Palette(codes, table, scale, axis).weights()

    expected = np.zeros(shape, np.float32)
    for place in np.ndindex(*shape):
        channel = place[axis]
        expected[place] = scale[channel] * table[channel, codes[place]]
    np.testing.assert_array_equal(weights, expected)


def test_gains_multiply_the_channels_of_the_axis() -> None:
    gains = np.array([2.0, 0.0, -1.0], np.float32)
    expected = palette().values() * gains
    np.testing.assert_array_equal(palette(scale=gains).weights(), expected)
    rows = np.array([-3.0, 0.25], np.float32)
    np.testing.assert_array_equal(
        palette(scale=rows, axis=0).weights(), palette().values() * rows[:, None]
    )


def test_values_leave_the_gains_out_and_keep_an_integer_tables_type() -> None:
    table = np.array([-7, 0, 127], np.int8)
    values = palette(table=table, scale=np.full(3, 9, np.float32)).values()
    assert values.dtype == np.int8
    np.testing.assert_array_equal(values, [[-7, 0, 127], [127, 0, -7]])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"codes": np.zeros((2, 3), np.int32)}, "codes must be uint8, got int32"),
        ({"axis": 2}, r"axis must lie in \[0, 2\), got 2 for codes of shape \(2, 3\)"),
        ({"axis": -1}, r"axis must lie in \[0, 2\), got -1"),
        ({"scale": np.ones(2, np.float32)}, r"scale must have shape \(3,\), got \(2,\)"),
        (
            {"table": np.ones((2, 3), np.float32)},
            r"table must have shape \(K,\) or \(3, K\), got \(2, 3\)",
        ),
        ({"table": np.ones((1, 1, 1), np.float32)}, r"table must have shape .* got \(1, 1, 1\)"),
        ({"table": np.ones(2, np.float32)}, "codes must be < 2, got 2"),
        ({"table": np.ones(0, np.float32)}, "holds 1 to 256 values, got 0"),
        ({"table": np.ones(257, np.float32)}, "holds 1 to 256 values, got 257"),
    ],
)
def test_construction_refuses_what_is_no_palette(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        palette(**changed)


def test_fields_cannot_be_set() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        palette().axis = 0  # type: ignore[misc] # that it cannot be set is what is shown


def test_a_weight_of_256_values_has_a_palette_and_one_of_257_has_none() -> None:
    weight = np.arange(MAX_CLUSTERS, dtype=np.float32).reshape(16, 16)
    np.testing.assert_array_equal(Palette.of(weight).weights(), weight)
    with pytest.raises(ModelError, match="at most 256 distinct values, got 257; cluster the model"):
        Palette.of(np.arange(MAX_CLUSTERS + 1, dtype=np.float32)[None])


@pytest.mark.parametrize("values", range(1, MAX_CLUSTERS + 1))
def test_index_width_is_the_fewest_bits_that_name_every_value(values: int) -> None:
    bits = index_width(values)
    assert 2**bits >= values
    assert bits == 1 or 2 ** (bits - 1) < values


def test_bits_follow_from_the_table() -> None:
    weight: NDArray[np.float32] = np.arange(17, dtype=np.float32)[None]
    assert Palette.of(weight).bits == 5
    assert Palette.of(weight[:, :16]).bits == 4
    assert Palette.of(np.ones((2, 2), np.float32)).bits == 1
