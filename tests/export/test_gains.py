"""A file's weight found by content, up to one gain per output channel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgepalette.export.gains import MAX_RESIDUAL, channel_rows, layouts, match_gains

# Keras' shape, the file's, its channel axis, and how the one becomes the other, written out
LAYOUTS = {
    "dense": ((6, 4), (4, 6), 0, lambda w: w.T),
    "dense, square": ((5, 5), (5, 5), 0, lambda w: w.T),
    "matmul": ((6, 4), (6, 4), 1, lambda w: w),
    "conv": ((3, 2, 5, 4), (4, 3, 2, 5), 0, lambda w: w.transpose(3, 0, 1, 2)),
    "conv, square": ((3, 3, 3, 3), (3, 3, 3, 3), 0, lambda w: w.transpose(3, 0, 1, 2)),
    "conv, 1 × 1": ((1, 1, 5, 4), (4, 1, 1, 5), 0, lambda w: w.transpose(3, 0, 1, 2)),
    "conv, onnx": ((3, 2, 5, 4), (4, 5, 3, 2), 0, lambda w: w.transpose(3, 2, 0, 1)),
    "conv1d": ((3, 5, 4), (4, 1, 3, 5), 0, lambda w: w.transpose(2, 0, 1)[:, None]),
    "depthwise": ((3, 2, 5, 1), (1, 3, 2, 5), 3, lambda w: w.reshape(1, 3, 2, 5)),
    "depthwise × 2": ((3, 2, 5, 2), (1, 3, 2, 10), 3, lambda w: w.reshape(1, 3, 2, 10)),
    "depthwise, onnx": (
        (3, 2, 5, 2),
        (10, 1, 3, 2),
        0,
        lambda w: w.reshape(3, 2, 10).transpose(2, 0, 1)[:, None],
    ),
    "transpose conv": ((3, 2, 4, 5), (4, 3, 2, 5), 0, lambda w: w.transpose(2, 0, 1, 3)),
    "transpose conv, onnx": ((3, 2, 4, 5), (5, 4, 3, 2), 1, lambda w: w.transpose(3, 2, 0, 1)),
}
# a gain is a quotient of two float64 sums of float32 products
ROUNDING = 4 * float(np.finfo(np.float32).eps)


def case(
    name: str, gains: NDArray[np.float64] | None = None, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], int]:
    """(file tensor, Keras weight, weight in the file's layout, channel axis)."""
    shape, file_shape, axis, arrange = LAYOUTS[name]
    weight = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    arranged = np.asarray(arrange(weight), np.float32)
    assert arranged.shape == file_shape
    if gains is None:
        return arranged, weight, arranged, axis
    along = [1] * arranged.ndim
    along[axis] = -1
    return (arranged * gains.reshape(along)).astype(np.float32), weight, arranged, axis


def mixed_gains(channels: int) -> NDArray[np.float64]:
    """A large, a negative, a zero and a tiny gain, then ordinary ones."""
    gains = np.random.default_rng(1).uniform(0.1, 3, channels)
    special = [300.0, -0.7, 0.0, 1e-6][:channels]
    gains[: len(special)] = special
    return gains


@pytest.mark.parametrize("name", LAYOUTS)
def test_the_weight_and_its_gains_are_found_in_every_layout(name: str) -> None:
    _, file_shape, axis, _ = LAYOUTS[name]
    gains = mixed_gains(file_shape[axis])
    file, weight, arranged, axis = case(name, gains)

    match = match_gains(file, weight, axis)

    assert match is not None
    assert match.axis == axis
    assert match.residual <= MAX_RESIDUAL
    np.testing.assert_array_equal(match.weight, arranged)
    np.testing.assert_allclose(match.gains, gains, rtol=ROUNDING, atol=0)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_elements_gain_is_told_in_keras_layout(name: str) -> None:
    _, file_shape, axis, arrange = LAYOUTS[name]
    gains = mixed_gains(file_shape[axis])
    file, weight, _, axis = case(name, gains)
    match = match_gains(file, weight, axis)
    assert match is not None
    spread = match.element_gains(weight.shape)
    assert spread.shape == weight.shape
    np.testing.assert_allclose(arrange(weight * spread), file, rtol=ROUNDING)


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_weight_of_the_same_shape_does_not_match(name: str) -> None:
    file, _, _, axis = case(name, mixed_gains(LAYOUTS[name][1][LAYOUTS[name][2]]))
    _, unrelated, _, _ = case(name, seed=1)
    assert match_gains(file, unrelated, axis) is None


@pytest.mark.parametrize(("disturbance", "matches"), [(0.0, True), (0.1, True), (100.0, False)])
def test_a_difference_beyond_rounding_is_no_match(disturbance: float, matches: bool) -> None:
    file, weight, _, axis = case("conv", mixed_gains(4))
    largest = np.abs(file[3]).max()
    file[3, 0, 0, 0] += np.float32(disturbance * MAX_RESIDUAL * largest)
    assert (match_gains(file, weight, axis) is not None) == matches


def test_a_weight_whose_channel_is_all_zeros_matches_zeros_only() -> None:
    file, weight, _, axis = case("conv")
    weight = weight.copy()
    weight[..., 2] = 0
    assert match_gains(file, weight, axis) is None
    file = file.copy()
    file[2] = 0
    match = match_gains(file, weight, axis)
    assert match is not None
    assert match.gains[2] == 0


def test_another_size_does_not_match() -> None:
    file, _, _, axis = case("conv")
    assert match_gains(file, np.ones((3, 2, 5, 3), np.float32), axis) is None


@given(
    st.lists(st.integers(1, 4), min_size=2, max_size=4).map(tuple),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=80)
def test_restoring_undoes_arranging(shape: tuple[int, ...], random: object) -> None:
    weight = np.arange(np.prod(shape)).reshape(shape)
    order = sorted(range(len(shape)), key=lambda _: random.random())  # type: ignore[attr-defined] # hypothesis' Random
    file_shape = tuple(shape[axis] for axis in order)
    found = list(layouts(shape, file_shape))
    assert found
    for layout in found:
        arranged = layout.arrange(weight)
        assert arranged.shape == file_shape
        np.testing.assert_array_equal(layout.restore(arranged, shape), weight)


def test_channel_rows_puts_a_channel_in_a_row() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    np.testing.assert_array_equal(channel_rows(array, 2)[1], array[:, :, 1].reshape(-1))
    assert channel_rows(array, 0).shape == (2, 12)
