"""int8 .onnx: one table of whole numbers per weight, the dense file's bytes, int8 kernels, Keras' decisions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.plan import ClusterPlan, Override
from edgepalette.errors import ExportError
from edgepalette.evaluate.comparison import compare_files
from edgepalette.export.clustered import clustered_weights
from edgepalette.export.expand_onnx import expand_onnx
from edgepalette.export.onnx_int8 import export_onnx_int8
from edgepalette.export.onnx_palette import OnnxFiles
from edgepalette.pipeline.inspection import inspect_file

Run = Callable[..., Any]
Opened = Callable[[Path, NDArray[np.float32]], dict[str, Any]]


def kernels(prepared: Callable[[Any], None]) -> Any:
    """Each kind of weight int8 .onnx holds, behind BatchNorm with gains of both signs, and a residual."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    inputs = keras.Input((12, 12, 4))
    x = layers.Conv2D(16, 5, padding="same", name="conv")(inputs)
    x = layers.BatchNormalization(name="bn")(x)
    x = layers.ReLU()(x)
    y = layers.DepthwiseConv2D(9, padding="same", name="depthwise")(x)
    y = layers.BatchNormalization()(y)
    x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.Conv2DTranspose(12, 5, padding="same", name="transpose")(x)
    x = layers.MaxPooling2D(4)(x)
    outputs = layers.Dense(96, name="head")(layers.Flatten()(x))
    model = keras.Model(inputs, outputs)
    prepared(model)
    gamma = model.get_layer("bn").gamma
    gamma.assign(gamma.numpy() * np.resize([1, 1, -1], 16))
    return model


@pytest.fixture(scope="module")
def samples() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(size=(16, 12, 12, 4)).astype(np.float32)


Made = Callable[[int], tuple[Any, OnnxFiles]]


@pytest.fixture(scope="module")
def made(prepared: Callable[[Any], None], samples: NDArray[np.float32]) -> Made:
    known: dict[int, tuple[Any, OnnxFiles]] = {}

    def make(bits: int) -> tuple[Any, OnnxFiles]:
        if bits not in known:
            model = kernels(prepared)
            plan = ClusterPlan.of(model, 2**bits, [Override("*", 2**bits)])
            cluster_weights(model, plan)
            files = export_onnx_int8(model, clustered_weights(model), samples)
            known[bits] = model, files
        return known[bits]

    return make


@pytest.mark.slow
@pytest.mark.parametrize("bits", range(1, 9))
def test_the_palette_gives_the_dense_files_bytes(bits: int, made: Made, tmp_path: Path) -> None:
    _, files = made(bits)
    for data in (files.dense, files.palette):
        onnx.checker.check_model(data, full_check=True)
    head = next(report for report in files.initializers if report.name == "head/kernel")
    if bits < 8:
        assert (head.encoding, head.bits) == ("palette", bits)
        assert len(files.palette) < len(files.dense)
    else:
        # whole bytes as well
        assert {report.encoding for report in files.initializers} == {"dense"}
    for name, data in (("palette", files.palette), ("dense", files.dense)):
        (tmp_path / f"{name}.onnx").write_bytes(data)
    (check,) = compare_files(tmp_path / "palette.onnx", tmp_path / "dense.onnx", samples=4)
    assert check.same, check
    plain, dense = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for graph in (
            onnx.load_from_string(expand_onnx(files.palette)).graph,
            onnx.load_from_string(files.dense).graph,
        )
    )
    for name, values in dense.items():
        assert plain[name].dtype == values.dtype
        np.testing.assert_array_equal(plain[name], values)


@pytest.mark.parametrize("bits", [2, 4])
def test_every_weight_is_one_table_of_whole_numbers(bits: int, made: Made) -> None:
    """Gains lie in the scales; a negative one negates its channel, and with it the table."""
    model, files = made(bits)
    tensors = {tensor.name: tensor for tensor in onnx.load_from_string(files.dense).graph.initializer}  # fmt: skip
    kernels = {weight.name: weight for weight in clustered_weights(model)}
    assert set(kernels) == {f"{name}/kernel" for name in ("conv", "depthwise", "transpose", "head")}
    for name, weight in kernels.items():
        assert tensors[name].data_type == TensorProto.INT8
        steps = weight.centroids / (np.abs(weight.centroids).max() / 127)
        table = np.unique(np.copysign(np.floor(np.abs(steps) + 0.5), steps))
        values = set(np.unique(numpy_helper.to_array(tensors[name])).tolist())
        assert values <= {*table, *-table}
        assert len(values) <= (2 if name == "conv/kernel" else 1) * 2**bits


def test_what_the_file_computes_is_what_keras_does(
    made: Made, samples: NDArray[np.float32], run: Run
) -> None:
    model, files = made(4)
    expected = model.predict(samples, verbose=0)
    found = run(files.palette, samples, "onnx").outputs
    # as int8: a few steps of 256 over the range
    assert np.abs(found - expected).max() < 8 * np.ptp(expected) / 255


def test_onnx_runtime_runs_both_files_by_the_same_int8_kernels(
    made: Made, samples: NDArray[np.float32], open_batches: Opened, tmp_path: Path
) -> None:
    """It folds the chain before it fuses; and takes any batch."""
    _, files = made(4)
    opened = []
    for name, data in (("dense", files.dense), ("palette", files.palette)):
        path = tmp_path / f"{name}.onnx"
        path.write_bytes(data)
        opened.append(open_batches(path, samples))
    assert opened[0] == opened[1]
    counts = Counter(opened[0]["operators"])
    assert counts["QLinearConv"] == 2
    assert counts["Conv"] == counts["BitShift"] == counts["Mod"] == 0
    assert opened[0]["shapes"] == [[3, 96], [96]]
    assert opened[0]["apart"] == 0


def test_the_same_model_gives_the_same_bytes(made: Made, samples: NDArray[np.float32]) -> None:
    model, files = made(4)
    again = export_onnx_int8(model, clustered_weights(model), samples)
    assert (again.dense, again.palette) == (files.dense, files.palette)


def test_a_large_bias_of_a_small_gain_fits() -> None:
    """The channel's scale is raised until its bias has room in 32 bits."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(16, 3), layers.BatchNormalization(), layers.ReLU()])  # fmt: skip
    gamma, beta = np.ones(16), np.zeros(16)
    gamma[:3], beta[:3] = (1e-12, 0, -1e-12), 5
    model.layers[1].gamma.assign(gamma)
    model.layers[1].beta.assign(beta)
    cluster_weights(model, ClusterPlan.of(model, 4))
    samples = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
    files = export_onnx_int8(model, clustered_weights(model), samples)
    initializers = onnx.load_from_string(files.dense).graph.initializer
    biases = [numpy_helper.to_array(t) for t in initializers if t.data_type == TensorProto.INT32]
    (bias,) = [values for values in biases if values.any()]
    assert 2**28 < bias[[0, 2]].min() <= bias[[0, 2]].max() <= 2**30
    # a channel of zeros has the other channels' step
    assert bias[1] > 0


def test_weights_that_are_not_clustered_are_int8_all_the_same(
    samples: NDArray[np.float32], prepared: Callable[[Any], None]
) -> None:
    files = export_onnx_int8(kernels(prepared), [], samples)
    matrices = [report for report in files.initializers if len(report.shape) > 1]
    assert len(matrices) == 4
    assert all(report.dense_bytes == np.prod(report.shape) for report in matrices)


def test_inspection_names_weights_that_stay_int8(
    prepared: Callable[[Any], None], samples: NDArray[np.float32], tmp_path: Path
) -> None:
    files = export_onnx_int8(kernels(prepared), [], samples)
    path = tmp_path / "int8.onnx"
    path.write_bytes(files.palette)
    rows = {row["name"]: row for row in inspect_file(path)["tensors"]}
    dense = {report.name for report in files.initializers if report.encoding == "dense"}
    assert dense
    assert dense <= set(rows)
    assert all(rows[name]["type"] == "INT8" for name in dense)


def test_several_inputs_are_refused() -> None:
    inputs = [keras.Input((8,)), keras.Input((8,))]
    model = keras.Model(inputs, keras.layers.Add()(inputs))
    with pytest.raises(ExportError, match="must have one input to be ranged for int8, got 2"):
        export_onnx_int8(model, [], np.zeros((2, 8), np.float32))


def test_what_the_quantizer_says_is_passed_on(prepared: Callable[[Any], None]) -> None:
    with pytest.raises(ExportError, match=r"quantizer could not .* leave onnx-int8 out"):
        export_onnx_int8(kernels(prepared), [], np.zeros((2, 5, 5, 4), np.float32))


@pytest.mark.slow
def test_resnet8_keeps_its_decisions(shared: Path, tmp_path: Path) -> None:
    """On CIFAR-10: as often right as Keras within a point, on 500 test images."""
    from edgepalette.evaluate.child import Request, run_file
    from edgepalette.pipeline.data import load_dataset

    data = load_dataset("cifar10")
    path = shared / "models" / "resnet8_cifar10_jpeg.keras"
    model = keras.models.load_model(path, compile=False)
    cluster_weights(model, ClusterPlan.of(model, 64))
    files = export_onnx_int8(model, clustered_weights(model), data.x_train[:100].astype(np.float32))
    (tmp_path / "palette.onnx").write_bytes(files.palette)
    x = data.x_test[:500].astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    found = run_file(Request("onnx", str(tmp_path / "palette.onnx"), str(tmp_path / "x.npy"), 500))
    right = [
        float(np.mean(np.argmax(outputs, 1) == data.y_test[:500].reshape(-1)))
        for outputs in (model.predict(x, verbose=0), found.outputs)
    ]
    assert right[1] > right[0] - 0.01


def test_a_file_whose_operators_share_a_weight_runs(run: Run) -> None:
    """On x86 without VNNI ONNX Runtime's exact kernels refuse it; weights so small do not overflow the others."""
    weight = np.random.default_rng(0).integers(-5, 6, (8, 8)).astype(np.int8)
    constants = {"w": weight, "s": np.float32(0.1), "z": np.uint8(0), "wz": np.int8(0)}
    scales = ["s", "z", "w", "s", "wz", "s", "z"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("QLinearMatMul", ["q", *scales], ["a"]),
        helper.make_node("QLinearMatMul", ["a", *scales], ["b"]),
        helper.make_node("DequantizeLinear", ["b", "s", "z"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 8]) for n in "xy"]
    given = [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()]
    graph = helper.make_graph(nodes, "shared", ends[:1], ends[1:], given)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
    x = np.random.default_rng(1).uniform(0, 9, (1, 8)).astype(np.float32)
    expected = np.round(x / 0.1)
    for _ in range(2):
        expected = np.clip(np.round(0.1 * (expected @ weight.astype(np.float64))), 0, 255)
    found = run(model.SerializeToString(), x, "onnx").outputs
    assert np.abs(found - expected * 0.1).max() < 0.35
