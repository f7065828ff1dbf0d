"""Palette ONNX: packing, the unpacking graph, and outputs equal to Keras."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import numpy_helper

from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.plan import ClusterPlan, Override
from edgepalette.errors import ExportError
from edgepalette.evaluate.child import Outcome
from edgepalette.export.clustered import clustered_weights
from edgepalette.export.onnx_palette import (
    OPSET,
    OnnxFiles,
    export_onnx,
    pack_piece,
    pieces_of,
    unpack_piece,
)

Run = Callable[..., Outcome]
# sums of a few thousand float32 products in another order, relative to the largest output
FLOAT_TOLERANCE = 256 * float(np.finfo(np.float32).eps)


@given(
    st.sampled_from((1, 2, 4, 8)).flatmap(
        lambda width: st.tuples(
            st.just(width),
            hnp.arrays(np.uint8, st.integers(1, 70), elements=st.integers(0, 2**width - 1)),
        )
    )
)
@settings(deadline=None, max_examples=150)
def test_packing_a_piece_is_a_round_trip_in_the_fewest_bytes(
    case: tuple[int, NDArray[np.uint8]],
) -> None:
    width, codes = case
    packed = pack_piece(codes, width)
    assert packed.shape == ((codes.size * width + 7) // 8, 1)
    assert packed.dtype == np.uint8
    if width < 8:
        np.testing.assert_array_equal(unpack_piece(packed, width, codes.size), codes)
    else:
        np.testing.assert_array_equal(packed[:, 0], codes)


def test_the_first_code_is_in_the_highest_bits() -> None:
    np.testing.assert_array_equal(pack_piece(np.array([1, 2, 3], np.uint8), 2), [[0b01101100]])
    np.testing.assert_array_equal(
        pack_piece(np.array([0xA, 0xB, 0xC], np.uint8), 4), [[0xAB], [0xC0]]
    )


@pytest.mark.parametrize("bits", range(1, 9))
def test_pieces_make_up_the_bits_from_the_top_without_gaps(bits: int) -> None:
    pieces = list(pieces_of(bits))
    assert sum(width for width, _ in pieces) == bits
    top = bits
    for width, offset in pieces:
        assert width in (1, 2, 4, 8)
        assert offset == top - width
        top = offset


def layers_of_every_kind() -> Any:
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(16, 3, padding="same", name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.DepthwiseConv2D(5, padding="same", depth_multiplier=2, name="depthwise"),
            layers.BatchNormalization(),
            layers.Conv2DTranspose(16, 3, strides=2, padding="same", name="transpose"),
            layers.MaxPooling2D(),
            layers.Reshape((16, 64)),
            layers.Conv1D(16, 3, name="rows"),
            layers.Flatten(),
            layers.Dense(16, activation="softmax", name="head"),
        ]
    )


@pytest.fixture(scope="module")
def onnx_files(
    prepared: Callable[[Any], None],
) -> Callable[[int], tuple[Any, OnnxFiles]]:
    made: dict[int, tuple[Any, OnnxFiles]] = {}

    def make(clusters: int) -> tuple[Any, OnnxFiles]:
        if clusters not in made:
            keras.utils.set_random_seed(0)
            model = layers_of_every_kind()
            prepared(model)
            everywhere = [Override("*", clusters)]
            cluster_weights(model, ClusterPlan.of(model, clusters, everywhere))
            made[clusters] = model, export_onnx(model, clustered_weights(model))
        return made[clusters]

    return make


Make = Callable[[int], tuple[Any, OnnxFiles]]


@pytest.mark.parametrize("clusters", [2, 5, 16, 100, 200])
def test_both_files_give_keras_outputs(clusters: int, onnx_files: Make, run: Run) -> None:
    model, files = onnx_files(clusters)
    samples = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype(np.float32)
    expected = model.predict(samples, verbose=0)
    tolerance = FLOAT_TOLERANCE * np.abs(expected).max()
    for file in (files.dense, files.palette):
        found = run(file, samples, "onnx").outputs
        np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("clusters", [2, 5, 16, 100, 200])
def test_a_palette_file_is_smaller_and_its_report_adds_up(clusters: int, onnx_files: Make) -> None:
    _, files = onnx_files(clusters)
    assert len(files.palette) < len(files.dense)
    reports = {report.name: report for report in files.initializers}
    assert set(reports) == {
        "conv/kernel",
        "depthwise/kernel",
        "transpose/kernel",
        "rows/kernel",
        "head/kernel",
    }
    for report in reports.values():
        assert report.encoding in ("palette", "dense")
        assert (report.reason == "") == (report.encoding == "palette")
        if report.encoding == "palette":
            assert report.values <= clusters
            assert report.bits == max(1, (report.values - 1).bit_length())
            assert report.stored_bytes < report.dense_bytes
    assert reports["head/kernel"].encoding == "palette"


def unpacked(file: bytes) -> dict[str, NDArray[Any]]:
    """The weights a palette file computes, by onnx's own reference evaluator."""
    from onnx.reference import ReferenceEvaluator

    proto = onnx.load_from_string(file)
    stored = {initializer.name for initializer in proto.graph.initializer}
    reach = set(stored)
    nodes = []
    for node in proto.graph.node:
        if set(node.input) <= reach:
            reach |= set(node.output)
            nodes.append(node)
    names = [
        name
        for name in ("conv/kernel", "depthwise/kernel", "transpose/kernel", "head/kernel")
        if name not in stored
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "weights",
        [],
        [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names],
        proto.graph.initializer,
    )
    model = onnx.helper.make_model(graph, opset_imports=proto.opset_import)
    return dict(zip(names, ReferenceEvaluator(model).run(None, {}), strict=True))


@pytest.mark.parametrize("clusters", [2, 5, 16, 100])
def test_the_graph_unpacks_the_dense_files_weights(clusters: int, onnx_files: Make) -> None:
    _, files = onnx_files(clusters)
    dense = {
        initializer.name: numpy_helper.to_array(initializer)
        for initializer in onnx.load_from_string(files.dense).graph.initializer
    }
    weights = unpacked(files.palette)
    assert "head/kernel" in weights
    for name, values in weights.items():
        largest = np.abs(dense[name]).max()
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, dense[name], rtol=0, atol=1e-5 * largest)


def test_files_are_valid_onnx_of_the_named_opset_with_a_free_batch(onnx_files: Make) -> None:
    for file in (onnx_files(16)[1].dense, onnx_files(16)[1].palette):
        proto = onnx.load_from_string(file)
        onnx.checker.check_model(proto, full_check=True)
        assert {o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")} == {OPSET}
        for value in (*proto.graph.input, *proto.graph.output):
            assert value.type.tensor_type.shape.dim[0].dim_param == "N"


def test_without_batchnorm_both_files_give_the_same_bits(run: Run) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((24,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(7),
        ]
    )
    cluster_weights(model, ClusterPlan.of(model, 5))
    files = export_onnx(model, clustered_weights(model))
    assert [report.encoding for report in files.initializers].count("palette") >= 1
    samples = np.random.default_rng(0).normal(size=(4, 24)).astype(np.float32)
    dense, palette = (run(f, samples, "onnx").raw for f in (files.dense, files.palette))
    np.testing.assert_array_equal(dense, palette)


@pytest.mark.parametrize(
    "activation",
    ["elu", "exponential", "gelu", "hard_sigmoid", "leaky_relu", "mish", "relu6", "selu", "silu", "softplus", "tanh"],
)  # fmt: skip
def test_activations_keep_their_outputs(activation: str, run: Run) -> None:
    """tf2onnx has no form for an operator of Keras' gelu."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((24,)), keras.layers.Dense(64, activation=activation)])
    samples = (3 * np.random.default_rng(0).normal(size=(40, 24))).astype(np.float32)
    expected = model.predict(samples, verbose=0)
    found = run(export_onnx(model, []).dense, samples, "onnx").outputs
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=FLOAT_TOLERANCE * np.abs(expected).max()
    )


def test_a_palette_that_does_not_pay_leaves_nothing_in_the_file() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(8)])
    cluster_weights(model, ClusterPlan.of(model, 4))
    files = export_onnx(model, clustered_weights(model))
    (report,) = files.initializers
    assert report.reason.startswith("a palette would add ")
    assert files.palette == files.dense


def test_weights_that_are_not_clustered_stay_dense_with_the_reason() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((24,)), keras.layers.Dense(24)])
    files = export_onnx(model, clustered_weights(model))
    (report,) = files.initializers
    assert report.encoding == "dense"
    assert report.reason == "it is no clustered weight times a gain per channel"


def test_a_recurrent_model_keeps_its_outputs(
    clustered: Callable[[str, int], Any],
    inputs: Callable[[Any], NDArray[np.float32]],
    run: Run,
) -> None:
    model = clustered("recurrent", 4)
    files = export_onnx(model, clustered_weights(model))
    samples = inputs(model)[:4]
    expected = model.predict(samples, verbose=0)
    for file in (files.dense, files.palette):
        np.testing.assert_allclose(
            run(file, samples, "onnx").outputs,
            expected,
            rtol=0,
            atol=FLOAT_TOLERANCE * np.abs(expected).max(),
        )


@pytest.mark.parametrize("layer", ["LSTM", "GRU", "SimpleRNN", "Bidirectional"])
def test_loops_over_time_steps_keep_their_outputs(layer: str, run: Run) -> None:
    """Not unrolled, these become LSTM or GRU nodes or loops, whose bodies read names from outside."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    if layer == "Bidirectional":
        recurrent = layers.Bidirectional(layers.LSTM(8, name="inner"))
    else:
        recurrent = getattr(layers, layer)(8)
    model = keras.Sequential([keras.Input((6, 8)), recurrent, layers.Dense(32)])
    cluster_weights(model, ClusterPlan.of(model, 4))
    files = export_onnx(model, clustered_weights(model))
    samples = np.random.default_rng(0).normal(size=(3, 6, 8)).astype(np.float32)
    expected = model.predict(samples, verbose=0)
    found = run(files.palette, samples, "onnx").outputs
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=FLOAT_TOLERANCE * np.abs(expected).max()
    )


def test_a_model_onnx_has_no_form_for_is_refused_in_words() -> None:
    inputs = keras.Input((16,))
    outputs = keras.layers.Dense(2)(keras.ops.fft((inputs, inputs))[0])
    with pytest.raises(ExportError, match="ONNX"):
        export_onnx(keras.Model(inputs, outputs), [])
