"""Patches times weights are what ONNX's own operators give; calibrated weights of an .onnx keep its outputs."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgepalette.evaluate.activations import onnx_activation_pairs
from edgepalette.evaluate.comparison import compare_files
from edgepalette.evaluate.signature import Port
from edgepalette.export.cluster_onnx import cluster_onnx
from edgepalette.export.onnx_palette import palettize_onnx
from edgepalette.export.unfold_onnx import OnnxProduct, product_of

WHOLE = st.integers(1, 3)


@given(st.data())
@settings(deadline=None, max_examples=80)
def test_patches_times_weights_are_the_convolution(data: Any) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 99)))
    dimensions = data.draw(st.integers(1, 2))
    depthwise = data.draw(st.booleans())
    several = st.lists(WHOLE, min_size=dimensions, max_size=dimensions)
    options = {
        name: data.draw(several) for name in ("strides", "dilations") if data.draw(st.booleans())
    }
    padding = data.draw(st.sampled_from(["none", "pads", "VALID", "SAME_UPPER"]))
    if padding == "pads":
        options["pads"] = data.draw(
            st.lists(st.integers(0, 3), min_size=2 * dimensions, max_size=2 * dimensions)
        )
    elif padding != "none":
        options["auto_pad"] = padding
    if padding == "SAME_UPPER":
        # what the oracle knows
        options.pop("dilations", None)
    if depthwise:
        options["group"] = 3
    shape = (6, 1 if depthwise else 3, *data.draw(several))
    weight = random.integers(-9, 9, shape).astype(np.float32)
    inputs = random.integers(-9, 9, (2, 3, *(11, 12)[:dimensions])).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w"], ["y"], **options)
    (expected,) = ReferenceEvaluator(node).run(None, {"x": inputs, "w": weight})
    how = product_of(node, shape)
    assert isinstance(how, OnnxProduct)
    parts = how.grouped(weight)
    found = np.concatenate([p @ parts for p in how.unfolding.patches(how.inputs(inputs))], axis=1)
    outputs = np.moveaxis(found, 0, 1).reshape(2, *expected.shape[2:], 6)
    np.testing.assert_array_equal(np.moveaxis(outputs, -1, 1), expected)
    np.testing.assert_array_equal(how.ungrouped(parts, shape), weight)


@pytest.mark.parametrize(
    ("kind", "transposed"), [("Gemm", False), ("Gemm", True), ("MatMul", False)]
)
def test_rows_times_weights_are_the_product(kind: str, transposed: bool) -> None:
    random = np.random.default_rng(0)
    weight, inputs = random.normal(size=(4, 5)), random.normal(size=(3, 4))
    stored = weight.T if transposed else weight
    options = {"transB": 1} if transposed else {}
    node = helper.make_node(kind, ["x", "w"], ["y"], **options)
    how = product_of(node, stored.shape)
    assert isinstance(how, OnnxProduct)
    (patches,) = how.unfolding.patches(how.inputs(inputs.astype(np.float32)))
    np.testing.assert_allclose((patches @ how.grouped(stored))[0], inputs @ weight, rtol=1e-5)
    np.testing.assert_array_equal(how.ungrouped(how.grouped(stored), stored.shape), stored)


@pytest.mark.parametrize(
    ("kind", "options", "shape", "why"),
    [
        ("Conv", {"group": 2}, (4, 2, 3, 3), "grouped"),
        ("Conv", {}, (4, 2, 3, 3, 3), "not at hand"),
        ("Conv", {"strides": [0, 1]}, (4, 2, 3, 3), "do not fit"),
        ("Conv", {"pads": [1, 1]}, (4, 2, 3, 3), "do not fit"),
        ("Conv", {"pads": [0, 0, 0, -1]}, (4, 2, 3, 3), "not known here"),
        ("Conv", {"dilations": [1 << 30, 1]}, (4, 2, 3, 3), "not known here"),
        ("Conv", {"auto_pad": "SAME_LOWER"}, (4, 2, 3, 3), "not known here"),
        ("Gemm", {"alpha": 0.5}, (4, 5), "scaled"),
        ("Gemm", {"transA": 1}, (4, 5), "turned"),
        ("MatMul", {}, (2, 4, 5), "not at hand"),
        ("ConvTranspose", {}, (4, 2, 3, 3), "not at hand"),
    ],
)
def test_it_says_why_inputs_are_not_known(
    kind: str, options: dict[str, Any], shape: tuple[int, ...], why: str
) -> None:
    found = product_of(helper.make_node(kind, ["x", "w"], ["y"], **options), shape)
    assert isinstance(found, str)
    assert why in found


def network(quantized: bool) -> onnx.ModelProto:
    """Convolution, depthwise convolution, Gemm; with `quantized` the first weight in whole numbers, its bias too."""
    random = np.random.default_rng(0)

    def normal(*shape: int) -> NDArray[np.float32]:
        return random.normal(size=shape).astype(np.float32)

    constants: dict[str, NDArray[Any]] = {
        "b1": normal(16), "w2": normal(16, 1, 3, 3), "b2": normal(16), "w3": normal(5, 16), "b3": normal(5),
    }  # fmt: skip
    nodes = []
    weight, bias = "w1", "b1"
    if quantized:
        constants["q1"] = random.integers(-127, 127, (16, 3, 3, 3)).astype(np.int8)
        constants["s1"] = (random.uniform(0.5, 2, 16) / 127).astype(np.float32)
        constants["i1"] = random.integers(-99, 99, 16).astype(np.int32)
        constants["t1"] = np.full(16, 0.01, np.float32)
        nodes = [
            helper.make_node("DequantizeLinear", ["q1", "s1"], ["w1"], axis=0),
            helper.make_node("DequantizeLinear", ["i1", "t1"], ["c1"], axis=0),
        ]
        bias = "c1"
    else:
        constants["w1"] = normal(16, 3, 3, 3)
    nodes += [
        helper.make_node("Conv", ["x", weight, bias], ["a1"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["a1"], ["r1"]),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["a2"], group=16),
        helper.make_node("GlobalAveragePool", ["a2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 5])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


def examples(seed: int) -> NDArray[np.float32]:
    random = np.random.default_rng(seed)
    return np.cumsum(random.normal(size=(96, 3, 12, 12)), axis=3).astype(np.float32)


@pytest.mark.parametrize("quantized", [False, True])
def test_calibrated_weights_keep_the_outputs(quantized: bool, tmp_path: Path) -> None:
    model = network(quantized)
    data = bytes(model.SerializeToString())
    observe = partial(onnx_activation_pairs, inputs=examples(0), entry=Port("x", (1, 3, 12, 12), "<f4"))  # fmt: skip
    seen: list[str] = []
    clustered, reports = cluster_onnx(data, 4, observe, seen.append)
    assert seen == ["q1" if quantized else "w1", "w2", "w3"]
    assert not any(report.reason or report.nearest for report in reports)
    plain, _ = cluster_onnx(data, 4)
    inputs = {"x": examples(1)}
    (expected,), *found = (
        ReferenceEvaluator(m).run(None, inputs) for m in (model, clustered, plain)
    )
    lost = [np.square(outputs[0] - expected).mean() for outputs in found]
    assert lost[0] < 0.5 * lost[1]
    before, after = ({t.name: numpy_helper.to_array(t) for t in m.graph.initializer} for m in (model, clustered))  # fmt: skip
    changed = {name for name, values in after.items() if not np.array_equal(values, before[name])}
    assert changed == {*seen, "i1" if quantized else "b1", "b2", "b3"}
    made = palettize_onnx(clustered)
    files = [tmp_path / "palette.onnx", tmp_path / "dense.onnx"]
    for file, written in zip(files, (made.palette, made.dense), strict=True):
        file.write_bytes(written)
    assert [check.same for check in compare_files(*files)] == [True]


def test_a_weight_of_two_operators_takes_nearest_values_and_says_so() -> None:
    model = network(quantized=False)
    model.graph.node.append(helper.make_node("Gemm", ["f", "w3"], ["z"], transB=1))
    model.graph.node.append(helper.make_node("Add", ["y", "z"], ["sum"]))
    model.graph.output[0].name = "sum"
    observe = partial(onnx_activation_pairs, inputs=examples(0), entry=Port("x", (1, 3, 12, 12), "<f4"))  # fmt: skip
    _, reports = cluster_onnx(bytes(model.SerializeToString()), 4, observe)
    assert {report.name: report.nearest for report in reports} == {
        "w1": "", "w2": "", "w3": "several operators read it",
    }  # fmt: skip
