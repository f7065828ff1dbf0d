"""Patches times weights are what TensorFlow's own convolutions give."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepalette.export.flatbuffer import OpaqueTable
from edgepalette.export.products import Products
from edgepalette.export.tflite_schema import Model, Op, Operator, OperatorCode, Tensor
from edgepalette.export.unfold import NO_PADDING, Unfolding, grouped, unfolding, ungrouped

sizes = st.integers(1, 4)


@given(sizes, sizes, sizes, st.integers(1, 3), st.booleans(), st.booleans(), st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_patches_times_weights_are_the_convolution(
    height: int, width: int, stride: int, dilation: int, same: bool, depthwise: bool, seed: int
) -> None:
    random = np.random.default_rng(seed)
    # TensorFlow takes strides or dilations, not both
    stride = stride if dilation == 1 else 1
    inputs = random.integers(-9, 9, (2, 13, 14, 3)).astype(np.float32)
    padding, strides = "SAME" if same else "VALID", [1, stride, stride, 1]
    rates = [dilation, dilation]
    groups = 3 if depthwise else 1
    if depthwise:
        kernel = random.integers(-9, 9, (1, height, width, 6)).astype(np.float32)
        expected = tf.nn.depthwise_conv2d(
            inputs, kernel.reshape(height, width, 3, 2), strides, padding, dilations=rates
        )
    else:
        kernel = random.integers(-9, 9, (5, height, width, 3)).astype(np.float32)
        expected = tf.nn.conv2d(
            inputs, np.moveaxis(kernel, 0, -1), strides, padding, dilations=rates
        )
    how = Unfolding(
        (height, width),
        3,
        (stride, stride),
        (dilation, dilation),
        None if same else NO_PADDING,
        groups,
    )
    weight = grouped(kernel, groups, depthwise)
    found = np.concatenate([part @ weight for part in how.patches(inputs)], axis=1)
    outputs = np.moveaxis(found, 0, 1).reshape(expected.shape)
    np.testing.assert_array_equal(outputs, expected)
    np.testing.assert_array_equal(ungrouped(weight, kernel.shape, depthwise), kernel)


def test_rows_are_rows_whatever_their_shape() -> None:
    inputs = np.arange(48, dtype=np.float32).reshape(2, 3, 2, 4)
    (patches,) = Unfolding((1, 1), 8, rows=True).patches(inputs)
    np.testing.assert_array_equal(patches, inputs.reshape(1, 6, 8))


def test_moments_are_those_of_all_places(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    now, then = random.normal(size=(2, 7, 5, 5, 2)).astype(np.float32)
    how = Unfolding((2, 2), 2)
    whole = Products.of(how, [(now, then)])
    monkeypatch.setattr("edgepalette.export.unfold.UNFOLDED", 400)
    parts = Products.of(how, [(now[:3], then[:3]), (now[3:], then[3:])])
    assert whole is not None
    assert parts is not None
    (x,), (y,) = (np.concatenate(list(how.patches(part)), axis=1) for part in (now, then))
    np.testing.assert_allclose(whole.gram[0], x.T @ x / len(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(whole.cross[0], x.T @ y / len(x), rtol=1e-5, atol=1e-6)
    centered = parts.centered()
    expected = np.cov(x.T.astype(np.float64), bias=True)
    np.testing.assert_allclose(centered.gram[0], expected, rtol=1e-5, atol=1e-6)
    assert Products.of(Unfolding((9, 9), 2), [(now, then)]) is None


def operator(code: int, **options: int) -> tuple[Model, Operator]:
    slots = {"padding": 0, "across": 1, "down": 2, "wide": 4, "high": 5}
    fields = tuple((slots[name], value.to_bytes(4, "little", signed=True)) for name, value in options.items())  # fmt: skip
    model = Model(operator_codes=(OperatorCode(builtin_code=code, deprecated_builtin_code=code),))
    return model, Operator(builtin_options=OpaqueTable(fields, ()))


@pytest.mark.parametrize(
    ("code", "options", "data", "weights", "why"),
    [
        (Op.CONV_2D, {}, (1, 8, 8, 4), (6, 3, 3, 2), "its convolution is grouped"),
        (Op.CONV_2D, {"down": 0}, (1, 8, 8, 4), (6, 3, 3, 4), "no positive numbers"),
        (Op.CONV_2D, {"wide": -1}, (1, 8, 8, 4), (6, 3, 3, 4), "no positive numbers"),
        (Op.CONV_2D, {"wide": 1 << 30}, (1, 8, 8, 4), (6, 3, 3, 4), "reaches far beyond"),
        (Op.CONV_2D, {}, (1, 8, 4), (6, 3, 3, 4), "not at hand"),
        (Op.TRANSPOSE_CONV, {}, (1, 8, 8, 4), (6, 3, 3, 4), "not at hand"),
        (Op.FULLY_CONNECTED, {"across": 1}, (1, 8), (6, 8), "shuffled"),
        (Op.FULLY_CONNECTED, {}, (1, 9), (6, 8), "do not fit"),
    ],
)
def test_it_says_why_inputs_are_not_known(
    code: int, options: dict[str, int], data: tuple[int, ...], weights: tuple[int, ...], why: str
) -> None:
    model, op = operator(code, **options)
    tensors = [Tensor(shape=np.array(shape, np.int32)) for shape in (data, weights)]
    found = unfolding(model, op, *tensors)
    assert isinstance(found, str)
    assert why in found


def test_options_say_how_a_kernel_is_laid() -> None:
    model, op = operator(Op.CONV_2D, padding=1, across=2, down=3, wide=4, high=5)
    tensors = [Tensor(shape=np.array(s, np.int32)) for s in ((1, 8, 8, 4), (6, 3, 2, 4))]
    assert unfolding(model, op, *tensors) == Unfolding((3, 2), 4, (3, 2), (5, 4), NO_PADDING)
