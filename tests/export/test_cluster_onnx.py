"""Any .onnx gets shared values: float and quantized weights, wherever they stand, all else as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepalette.errors import EdgepaletteError, ExportError, FormatError
from edgepalette.evaluate.comparison import compare_files
from edgepalette.export.cluster_onnx import cluster_onnx
from edgepalette.export.expand_onnx import expand_onnx
from edgepalette.export.onnx_palette import PALETTE_OPSET, palettize_onnx

FLOAT = TensorProto.FLOAT


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def model_of(
    nodes: Sequence[Any],
    constants: dict[str, NDArray[Any]],
    x: Sequence[Any] = ("N", 8),
    y: Sequence[Any] = ("N", "M"),
    opset: int = 17,
    kind: int = FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", kind, x)],
        [helper.make_tensor_value_info("y", kind, y)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def data_of(model: onnx.ModelProto) -> bytes:
    return bytes(model.SerializeToString())


def weights_of(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def as_torch_writes() -> onnx.ModelProto:
    """A convolution, a depthwise one, pooling and Gemm; a batch by name, metadata, words about nodes."""
    nodes = [
        helper.make_node("Conv", ["x", "features.0.weight", "features.0.bias"], ["/0"], name="/features/0/Conv", pads=[1] * 4, doc_string="conv.py(3)"),
        helper.make_node("Relu", ["/0"], ["/1"], name="/features/1/Relu"),
        helper.make_node("Conv", ["/1", "features.2.weight"], ["p0"], group=24, pads=[2] * 4),
        helper.make_node("GlobalAveragePool", ["p0"], ["w0.0"]),
        helper.make_node("Flatten", ["w0.0"], ["/4"]),
        helper.make_node("Gemm", ["/4", "head.weight", "head.bias"], ["y"], transB=1),
    ]  # fmt: skip
    constants = {
        "features.0.weight": random(24, 3, 5, 5),
        "features.0.bias": random(24),
        "features.2.weight": random(24, 1, 5, 5),
        "head.weight": random(40, 24),
        "head.bias": random(40),
    }
    model = model_of(nodes, constants, ("batch", 3, 10, 10), ("batch", 40))
    model.doc_string, model.producer_name = "words", "pytorch"
    helper.set_model_props(model, {"author": "someone"})
    model.graph.initializer[0].doc_string = "kept"
    return model


def palettes_run_alike(model: onnx.ModelProto, folder: Path) -> bytes:
    """The palette file: checked, with the dense one's bytes on ONNX Runtime, its weights once expanded."""
    files = palettize_onnx(model)
    onnx.checker.check_model(files.palette, full_check=True)
    assert "palette" in {report.encoding for report in files.initializers}
    assert len(files.palette) < len(files.dense)
    plain = weights_of(onnx.load_from_string(expand_onnx(files.palette)))
    for name, values in weights_of(model).items():
        assert plain[name].dtype == values.dtype
        np.testing.assert_array_equal(plain[name], values)
    paths = [folder / name for name in ("palette.onnx", "dense.onnx")]
    for path, data in zip(paths, (files.palette, files.dense), strict=True):
        path.write_bytes(data)
    (check,) = compare_files(paths[0], paths[1], samples=2)
    assert check.same, check
    return files.palette


@pytest.mark.parametrize("clusters", [2, 16, 100, 256])
def test_weights_share_values_and_all_else_stays(clusters: int) -> None:
    model = as_torch_writes()
    clustered, reports = cluster_onnx(data_of(model), clusters)
    before, after = weights_of(model), weights_of(clustered)
    named = {report.name: report for report in reports}
    assert set(named) == {name for name in before if name.endswith("weight")}
    for name, report in named.items():
        wanted = max(clusters, 16) if name == "features.2.weight" else clusters
        assert report.before == before[name].size
        assert report.after == len(np.unique(after[name])) == wanted
        assert not report.reason
        found = np.sqrt(np.mean((before[name] - after[name]) ** 2) / np.mean(before[name] ** 2))
        assert report.error == pytest.approx(found, rel=1e-5)
        model.graph.initializer[list(before).index(name)].raw_data = after[name].tobytes()
    assert clustered == model


def test_a_file_as_torch_writes_it_keeps_names_metadata_and_its_free_batch(
    tmp_path: Path, open_batches: Callable[[Path, NDArray[np.float32]], dict[str, Any]]
) -> None:
    model, _ = cluster_onnx(data_of(as_torch_writes()), 16)
    file = palettes_run_alike(model, tmp_path)
    made, given = onnx.load_from_string(file), as_torch_writes()
    assert made.metadata_props == given.metadata_props
    assert (made.doc_string, made.producer_name, made.ir_version) == ("words", "pytorch", 8)
    assert made.opset_import == given.opset_import
    assert (made.graph.input, made.graph.output) == (given.graph.input, given.graph.output)
    assert list(made.graph.node)[-len(given.graph.node) :] == list(given.graph.node)
    opened = open_batches(tmp_path / "palette.onnx", random(3, 3, 10, 10))
    assert opened["shapes"] == [[3, 40], [40]]
    assert opened["apart"] < 1e-5
    assert "BitShift" not in opened["operators"]


@given(
    st.tuples(st.integers(2, 9), st.integers(2, 150)),
    st.integers(1, 8),
    st.sampled_from(["float16", "float32", "float64", "int8", "uint8"]),
    st.integers(0, 9),
)
@settings(deadline=None, max_examples=60)
def test_expanding_a_palette_gives_its_weight(
    shape: tuple[int, int], bits: int, dtype: str, seed: int
) -> None:
    """Of any width, type and odd size; one that does not pay is left as it is."""
    generator = np.random.default_rng([seed, bits])
    table = np.arange(2**bits) / (2 if dtype[0] == "f" else 1) - (2 ** (bits - 1) if dtype == "int8" else 0)  # fmt: skip
    weight = generator.choice(table.astype(dtype), shape)
    files = palettize_onnx(product(weight))
    (report,) = files.initializers
    assert (report.encoding == "palette") == (len(files.palette) < len(files.dense))
    (plain,) = weights_of(onnx.load_from_string(expand_onnx(files.palette))).values()
    assert plain.dtype == weight.dtype
    np.testing.assert_array_equal(plain, weight)


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_damage_gives_an_error_of_ours_or_a_model(data: Any) -> None:
    whole = data_of(data.draw(st.sampled_from([as_torch_writes(), quantized("int8", 0)])))
    damaged = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            # names and sizes lie at the ends; between are weights
            place = data.draw(st.integers(0, min(600, len(damaged) - 1)))
            damaged[data.draw(st.sampled_from([place, -1 - place]))] = data.draw(st.integers(0, 255))  # fmt: skip
    with contextlib.suppress(EdgepaletteError):
        palettize_onnx(cluster_onnx(bytes(damaged), 4)[0])


def every_width(shape: tuple[int, int], dtype: Any, opset: int) -> onnx.ModelProto:
    """A product for each of 1 to 8 bits, whose weights have just so many values, of a size that fills no bytes."""
    generator = np.random.default_rng(0)
    nodes, constants = [], {}
    for bits in range(1, 9):
        table = np.unique(generator.normal(size=4096).astype(dtype))[:: 4096 >> bits + 1]
        codes = np.resize(np.arange(2**bits), shape)
        constants[f"w{bits}"] = generator.permuted(generator.permutation(table)[: 2**bits][codes], axis=0)  # fmt: skip
        nodes.append(helper.make_node("MatMul", ["x", f"w{bits}"], [f"y{bits}"]))
    nodes.append(helper.make_node("Concat", [f"y{bits}" for bits in range(1, 9)], ["y"], axis=1))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    return model_of(nodes, constants, ("N", shape[0]), opset=opset, kind=kind)


@pytest.mark.parametrize(
    ("dtype", "opset"), [("float32", 11), ("float16", 13), ("float64", 14), ("float32", 21)]
)
def test_one_to_eight_bits_of_every_type_run(tmp_path: Path, dtype: str, opset: int) -> None:
    model = every_width((47, 61), dtype, opset)
    clustered, reports = cluster_onnx(data_of(model), 256)
    assert {report.reason for report in reports} == {"it has no more values than clusters"}
    assert clustered == model
    files = palettize_onnx(clustered)
    assert [report.bits for report in files.initializers] == list(range(1, 9))
    assert [report.values for report in files.initializers] == [2**bits for bits in range(1, 9)]
    palettes_run_alike(clustered, tmp_path)


def quantized(
    dtype: str, axis: int | None, operator: str = "Conv", as_nodes: bool = False
) -> onnx.ModelProto:
    """Whole-number weights behind DequantizeLinear; as_nodes: scale and zero point by Constant nodes."""
    generator = np.random.default_rng(1)
    limits = np.iinfo(dtype)
    weights = generator.normal(scale=30, size=(16, 12, 3, 3)) + (limits.max + limits.min + 1) // 2
    channels = () if axis is None else (16,) if axis == 0 else (12,)
    constants: dict[str, NDArray[Any]] = {
        "w": np.clip(np.rint(weights), limits.min, limits.max).astype(dtype),
        "s": np.asarray(generator.uniform(0.001, 0.1, channels), np.float32),
        "z": np.full(channels, (limits.max + limits.min + 1) // 2, dtype),
    }
    nodes = []
    if as_nodes:
        for name in "sz":
            value = numpy_helper.from_array(constants.pop(name))
            nodes.append(helper.make_node("Constant", [], [name], value=value))
    attributes = {} if axis is None else {"axis": axis}
    nodes += [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], **attributes),
        helper.make_node(operator, ["x", "d"], ["y"]),
    ]
    channels_in = 12 if operator == "Conv" else 16
    return model_of(nodes, constants, ("N", channels_in, 7, 7), ("N", "C", "H", "W"))


@pytest.mark.parametrize(
    ("dtype", "axis", "operator", "as_nodes"),
    [
        ("int8", 0, "Conv", False),
        ("int8", None, "Conv", True),
        ("int8", 1, "ConvTranspose", False),
        ("uint8", 0, "Conv", True),
        ("uint8", None, "Conv", False),
    ],
)
def test_whole_numbers_share_values_and_keep_their_scales(
    tmp_path: Path, dtype: str, axis: int | None, operator: str, as_nodes: bool
) -> None:
    model = quantized(dtype, axis, operator, as_nodes)
    clustered, (report,) = cluster_onnx(data_of(model), 8)
    before, after = weights_of(model), weights_of(clustered)
    assert after["w"].dtype == before["w"].dtype
    assert report.after == len(np.unique(after["w"])) <= 8
    scale, zero = quantization(model)
    along = [-1 if n == axis else 1 for n in range(4)]
    # what they stand for: steps of the zero point's distance
    real = [(w["w"].astype(float) - zero.reshape(along)) * scale.reshape(along) for w in (before, after)]  # fmt: skip
    lost = np.sqrt(np.mean((real[1] - real[0]) ** 2) / np.mean(real[0] ** 2))
    assert report.error == pytest.approx(lost, rel=1e-6)
    assert 0 < lost < 0.3
    palettes_run_alike(clustered, tmp_path)


def quantization(model: onnx.ModelProto) -> tuple[NDArray[Any], NDArray[Any]]:
    found = weights_of(model)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "value":
                found[node.output[0]] = numpy_helper.to_array(attribute.t)
    return found["s"].astype(float), found["z"].astype(float)


def test_channels_count_by_their_scales() -> None:
    """A channel of a thousandfold scale decides where the values lie."""
    model = quantized("int8", 0)
    scales = np.full(16, 1e-4, np.float32)
    scales[0] = 1
    for tensor in model.graph.initializer:
        if tensor.name == "s":
            tensor.CopyFrom(numpy_helper.from_array(scales, "s"))
    clustered, _ = cluster_onnx(data_of(model), 8)
    first = [weights_of(m)["w"][0].astype(float) for m in (model, clustered)]
    alike = model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weights_of(model)["w"].reshape(16, -1).astype(np.float32)}, ("N", 16))  # fmt: skip
    unweighted = weights_of(cluster_onnx(data_of(alike), 8)[0])["w"][0]
    lost = [np.square(part.reshape(-1) - first[0].reshape(-1)).sum() for part in (first[1], unweighted)]  # fmt: skip
    assert lost[0] < 0.9 * lost[1]


def test_a_weight_of_several_nodes_is_clustered_once(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Transpose", ["w"], ["t"], perm=[1, 0]),
        helper.make_node("MatMul", ["a", "t"], ["b"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    model, (report,) = cluster_onnx(data_of(model_of(nodes, {"w": random(40, 40)}, ("N", 40))), 16)
    assert (report.name, report.after) == ("w", 16)
    palettes_run_alike(model, tmp_path)


@pytest.mark.parametrize("passed", ["Transpose", "Identity", "Reshape", "Cast"])
def test_weights_are_found_behind_what_passes_them_on(passed: str, tmp_path: Path) -> None:
    constants: dict[str, NDArray[Any]] = {"w": random(40, 40)}
    inputs = ["w"]
    if passed == "Reshape":
        constants["shape"] = np.array([40, 40])
        inputs.append("shape")
    attributes = {"to": FLOAT} if passed == "Cast" else {}
    nodes = [
        helper.make_node(passed, inputs, ["v"], **attributes),
        helper.make_node("Gemm", ["x", "v"], ["y"]),
    ]
    model, (report,) = cluster_onnx(data_of(model_of(nodes, constants, ("N", 40))), 16)
    assert (report.name, report.after) == ("w", 16)
    palettes_run_alike(model, tmp_path)


def test_weights_of_constant_nodes_become_initializers(tmp_path: Path) -> None:
    value = numpy_helper.from_array(random(40, 40))
    other = numpy_helper.from_array(random(1, 40))
    nodes = [
        helper.make_node("Constant", [], ["w"], value=value),
        helper.make_node("Constant", [], ["b"], value=other),
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    model, (report,) = cluster_onnx(data_of(model_of(nodes, {}, ("N", 40))), 16)
    assert (report.name, report.after) == ("w", 16)
    assert [node.op_type for node in model.graph.node] == ["Constant", "MatMul", "Add"]
    palettes_run_alike(model, tmp_path)


def branches(own: bool) -> onnx.ModelProto:
    """A body of an If reads a weight; own: which lies in the body."""
    inside = [numpy_helper.from_array(random(40, 40), "w")]
    output = [helper.make_tensor_value_info("b", FLOAT, None)]
    body = [helper.make_node("MatMul", ["x", "w"], ["b"])]
    then = helper.make_graph(body, "then", [], output, inside if own else [])
    output = [helper.make_tensor_value_info("c", FLOAT, None)]
    otherwise = helper.make_graph([helper.make_node("Identity", ["x"], ["c"])], "else", [], output)
    node = helper.make_node("If", ["yes"], ["y"], then_branch=then, else_branch=otherwise)
    constants = {"yes": np.array(True)} | ({} if own else {"w": random(40, 40)})
    return model_of([node], constants, ("N", 40))


def test_bodies_read_palettes_of_the_graph_outside(tmp_path: Path) -> None:
    model, (report,) = cluster_onnx(data_of(branches(own=False)), 16)
    assert (report.name, report.after) == ("w", 16)
    palettes_run_alike(model, tmp_path)


def left_alone(model: onnx.ModelProto) -> str:
    clustered, (report,) = cluster_onnx(data_of(model), 16)
    assert report.before == report.after
    assert clustered == model
    return report.reason


def product(weight: NDArray[Any], kind: int = FLOAT) -> onnx.ModelProto:
    return model_of([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, ("N", 40), kind=kind)  # fmt: skip


def infinite() -> NDArray[np.float32]:
    weight = random(40, 40)
    weight[0, 0] = np.inf
    return weight


def bfloat16() -> onnx.ModelProto:
    model = product(random(40, 40), TensorProto.BFLOAT16)
    tensor = model.graph.initializer[0]
    tensor.CopyFrom(helper.make_tensor("w", TensorProto.BFLOAT16, [40, 40], random(1600)))
    return model


def as_default() -> onnx.ModelProto:
    model = product(random(40, 40))
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [40, 40]))
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: product(np.resize(random(7), (40, 40))), "it has no more values than clusters"),
        (lambda: product(infinite()), "it holds values that are no numbers"),
        (bfloat16, "its values are bfloat16, no float16, float32, float64, int8 or uint8"),
        (as_default, "it is an input with a default, which a caller may replace"),
        (lambda: branches(own=True), "it lies in the body of a Loop, Scan or If"),
        (lambda: model_of([helper.make_node("Add", ["x", "w"], ["y"])], {"w": random(40, 40)}, ("N", 40)), "no operator with weights reads it"),
    ],
)  # fmt: skip
def test_what_is_left_alone_is_named_with_the_reason(
    make: Callable[[], onnx.ModelProto], reason: str
) -> None:
    assert left_alone(make()) == reason


def test_operators_of_other_domains_stay() -> None:
    model = product(random(40, 40))
    model.opset_import.append(helper.make_opsetid("com.example", 3))
    model.graph.node[0].output[0] = "a"
    model.graph.node.append(helper.make_node("Fancy", ["a"], ["y"], domain="com.example"))
    clustered, _ = cluster_onnx(data_of(model), 16)
    files = palettize_onnx(clustered)
    onnx.checker.check_model(files.palette)
    made = onnx.load_from_string(files.palette)
    assert made.graph.node[-1] == model.graph.node[-1]
    assert made.opset_import == model.opset_import


def test_an_old_opset_is_raised_and_its_initializers_are_constants(tmp_path: Path) -> None:
    model = product(random(40, 40))
    model.ir_version = 3
    model.opset_import[0].version = 7
    model.graph.input.append(helper.make_tensor_value_info("w", FLOAT, [40, 40]))
    helper.set_model_props(model, {"author": "someone"})
    raised, (report,) = cluster_onnx(data_of(model), 16)
    assert report.after == 16
    assert [entry.version for entry in raised.opset_import] == [PALETTE_OPSET]
    assert raised.ir_version == 4
    assert [value.name for value in raised.graph.input] == ["x"]
    assert raised.metadata_props == model.metadata_props
    palettes_run_alike(raised, tmp_path)


def test_an_opset_that_cannot_be_raised_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("No Adapter For Upsample\nand more")

    monkeypatch.setattr("onnx.version_converter.convert_version", refuse)
    model = product(random(40, 40))
    model.opset_import[0].version = 7
    with pytest.raises(
        ExportError, match=r"opset 11 or newer, got 7, .* \(No Adapter For Upsample\)"
    ):
        cluster_onnx(data_of(model), 16)


def test_weights_in_other_files_are_refused() -> None:
    model = product(random(40, 40))
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../secrets.bin"
    with pytest.raises(FormatError, match="must hold its weights itself, got 'w' in a file beside"):
        cluster_onnx(data_of(model), 16)


@pytest.mark.parametrize("damage", ["cut", "noise", "unknown input"])
def test_damaged_files_are_refused(damage: str) -> None:
    model = product(random(40, 40))
    data = data_of(model)
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "noise":
        data = b"\xff" * 100
    else:
        model.graph.node[0].input[0] = "nowhere"
        data = data_of(model)
    with pytest.raises(FormatError, match="must be an ONNX file"):
        cluster_onnx(data, 16)
