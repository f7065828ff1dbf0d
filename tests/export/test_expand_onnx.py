"""A palette .onnx is unpacked to the dense file's weights; damaged ones give FormatError and nothing else."""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.plan import ClusterPlan
from edgepalette.errors import FormatError
from edgepalette.export.clustered import clustered_weights
from edgepalette.export.expand_onnx import MAX_EXPANSION, expand_onnx
from edgepalette.export.onnx_palette import OnnxFiles, export_onnx


def files_of(clusters: int) -> OnnxFiles:
    """A convolution with gains of its BatchNorm, and a dense layer of a size that fills no bytes."""
    keras.utils.set_random_seed(clusters)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((9, 9, 3)),
            layers.Conv2D(16, 3, use_bias=False),
            layers.BatchNormalization(gamma_initializer="random_normal"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(7),
        ]
    )
    cluster_weights(model, ClusterPlan.of(model, clusters))
    return export_onnx(model, clustered_weights(model))


@pytest.fixture(scope="module")
def files() -> OnnxFiles:
    return files_of(5)


@pytest.mark.parametrize("bits", range(1, 9))
def test_what_is_unpacked_are_the_dense_files_weights(bits: int) -> None:
    made = files_of(2**bits)
    assert len(made.palette) < len(made.dense)
    plain, dense = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for graph in (
            onnx.load_model_from_string(expand_onnx(made.palette)).graph,
            onnx.load_model_from_string(made.dense).graph,
        )
    )
    assert sorted(plain) == sorted(dense)
    for name, values in dense.items():
        np.testing.assert_array_equal(plain[name], values)


def test_nodes_and_ports_stay(files: OnnxFiles) -> None:
    plain, dense = (
        onnx.load_model_from_string(data) for data in (expand_onnx(files.palette), files.dense)
    )
    assert list(plain.graph.node) == list(dense.graph.node)
    assert list(plain.graph.input) == list(dense.graph.input)
    onnx.checker.check_model(plain)


def test_a_file_without_palettes_is_left_as_it_is(files: OnnxFiles) -> None:
    assert expand_onnx(files.dense) == files.dense
    assert expand_onnx(expand_onnx(files.palette)) == expand_onnx(files.palette)


@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_damage_gives_an_error_of_ours_or_a_file(files: OnnxFiles, data: Any) -> None:
    damaged = bytearray(files.palette[: data.draw(st.integers(0, len(files.palette)))])
    for _ in range(data.draw(st.integers(0, 4))):
        if damaged:
            damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FormatError):
        expand_onnx(bytes(damaged))


def model_of(nodes: list[Any], constants: dict[str, Any]) -> bytes:
    kind = TensorProto.FLOAT
    ports = [helper.make_tensor_value_info(name, kind, ["n"]) for name in "xy"]
    tensors = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    ]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:], tensors)
    opsets = [helper.make_opsetid("", 15)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def test_a_file_that_would_fill_memory_is_refused_before_it_does() -> None:
    line = np.zeros((1, 1 << 16), np.uint8)
    nodes = [
        helper.make_node("Add", ["a", "b"], ["huge"]),
        helper.make_node("Cast", ["huge"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("Add", ["x", "wide"], ["y"]),
    ]
    data = model_of(nodes, {"a": line, "b": line.reshape(-1, 1)})
    with pytest.raises(FormatError, match=f"must unpack within {MAX_EXPANSION} times its size"):
        expand_onnx(data)


@pytest.mark.parametrize(
    ("node", "constants"),
    [
        (helper.make_node("Gather", ["t", "i"], ["w"]), {"t": np.zeros(2, np.float32), "i": np.array([7], np.uint8)}),
        (helper.make_node("Reshape", ["i", "s"], ["w"]), {"i": np.zeros(3, np.uint8), "s": np.array([2, 2])}),
        (helper.make_node("Add", ["i", "j"], ["w"]), {"i": np.zeros(3, np.uint8), "j": np.zeros(2, np.uint8)}),
    ],
    ids=["an index past the table", "a shape that does not fit", "sizes that do not broadcast"],
)  # fmt: skip
def test_a_palette_that_cannot_be_unpacked_is_named(node: Any, constants: dict[str, Any]) -> None:
    data = model_of([node, helper.make_node("Add", ["x", "w"], ["y"])], constants)
    with pytest.raises(FormatError, match="a palette cannot be unpacked"):
        expand_onnx(data)
