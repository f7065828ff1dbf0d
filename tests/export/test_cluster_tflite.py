"""Finished .tflite files get shared values: int8 and float, nothing else changed, on every runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from edgepalette.cluster.kmeans import kmeans
from edgepalette.cluster.nearest import nearest_reference
from edgepalette.cluster.sample import Sample
from edgepalette.evaluate.activations import activation_pairs
from edgepalette.evaluate.comparison import compare_files
from edgepalette.export.cluster_tflite import cluster_tflite
from edgepalette.export.convert import batch_one, convert_float
from edgepalette.export.lean import lean
from edgepalette.export.palette_tflite import palettize
from edgepalette.export.tflite import TfliteFiles
from edgepalette.export.tflite_schema import Model, constant, read_model, write_model

from .conftest import randomize

Exported = Callable[[str, int], TfliteFiles]


@pytest.fixture(scope="module")
def int8(exported: Exported) -> Model:
    """As TensorFlow's converter writes it."""
    return read_model(exported("small", 64).stock)


@pytest.fixture(scope="module")
def real() -> Model:
    """A float file with a convolution, a depthwise one and a dense layer."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((9, 9, 3)),
            layers.Conv2D(24, 3, activation="relu"),
            layers.DepthwiseConv2D(3),
            layers.Flatten(),
            layers.Dense(6),
        ]
    )
    randomize(model)
    return read_model(convert_float(batch_one(model)))


@pytest.mark.parametrize("clusters", [2, 16, 100])
@pytest.mark.parametrize("kind", ["int8", "real"])
def test_weights_share_values_and_all_else_stays(
    request: pytest.FixtureRequest, kind: str, clusters: int
) -> None:
    model: Model = request.getfixturevalue(kind)
    clustered, reports = cluster_tflite(model, clusters)
    changed = {report.tensor: report for report in reports if not report.reason}
    assert changed
    for number, (tensor, other) in enumerate(
        zip(model.subgraphs[0].tensors, clustered.subgraphs[0].tensors, strict=True)
    ):
        before, after = constant(model, tensor), constant(clustered, other)
        if number not in changed:
            assert tensor.buffer == other.buffer
            continue
        assert before is not None
        assert after is not None
        report = changed[number]
        assert len(np.unique(after)) == report.after <= max(clusters, 16)
        assert after.dtype == before.dtype
        assert tensor.quantization is other.quantization
        assert 0 < report.error < 1
    assert model.subgraphs[0].operators is clustered.subgraphs[0].operators


def test_channels_count_by_their_scales(int8: Model) -> None:
    """Less is lost in real numbers than by k-means on the whole numbers themselves."""
    _, (report, *_) = cluster_tflite(int8, 4)
    tensor = int8.subgraphs[0].tensors[report.tensor]
    assert tensor.quantization is not None
    assert tensor.quantization.scale is not None
    scale = tensor.quantization.scale
    assert len(scale) > 1
    values = constant(int8, tensor)
    clustered, _ = cluster_tflite(int8, 4)
    after = constant(clustered, clustered.subgraphs[0].tensors[report.tensor])
    assert values is not None
    assert after is not None
    along = [
        -1 if axis == tensor.quantization.quantized_dimension else 1 for axis in range(values.ndim)
    ]
    lost = ((after.astype(float) - values.astype(float)) * scale.reshape(along)) ** 2
    # whole numbers by plain k-means on the integers, every channel alike
    table = np.unique(np.rint(kmeans(Sample.of(values.astype(float)), 4)))
    alike = table[nearest_reference(values.astype(np.float32), table.astype(np.float32))]
    assert lost.sum() <= (((alike - values) * scale.reshape(along)) ** 2).sum() * 1.01


@pytest.mark.parametrize("kind", ["int8", "real"])
def test_the_palette_runs_as_its_dense_form_everywhere(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str
) -> None:
    model, _ = cluster_tflite(request.getfixturevalue(kind), 16)
    dense = lean(model)
    made = palettize(dense)
    assert any(report.encoding == "shared" for report in made.tensors)
    files = [tmp_path / "palette.tflite", tmp_path / "dense.tflite"]
    files[0].write_bytes(made.data)
    files[1].write_bytes(write_model(dense))
    assert files[0].stat().st_size < files[1].stat().st_size
    checks = compare_files(files[0], files[1])
    assert [check.same for check in checks] == [True] * 3, checks


@pytest.mark.parametrize("clusters", [2, 3, 4, 5, 8, 16, 17, 32, 64, 128])
@pytest.mark.parametrize("name", ["ic", "kws"])
def test_every_decode_adds_at_most_145_bytes_to_its_packed_indices(
    shared: Path, most: Callable[..., int], name: str, clusters: int
) -> None:
    original = (shared / "models" / f"mlperf_tiny_{name}_int8.tflite").read_bytes()
    dense = lean(cluster_tflite(read_model(original), clusters)[0])
    file = palettize(dense)
    assert len(file.data) <= most(write_model(dense), file.tensors)


@pytest.mark.parametrize(("name", "bytes_"), [("ic", 47_280), ("kws", 20_640)])
def test_mlperf_tinys_files_shrink_and_run(
    shared: Path, tmp_path: Path, name: str, bytes_: int
) -> None:
    """IC's fully connected weights have one scale: TFLM refuses them without their bias' own."""
    original = (shared / "models" / f"mlperf_tiny_{name}_int8.tflite").read_bytes()
    model, reports = cluster_tflite(read_model(original), 16)
    assert len(reports) == 10
    assert not any(report.reason for report in reports)
    dense = lean(model)
    files = [tmp_path / "palette.tflite", tmp_path / "dense.tflite"]
    files[0].write_bytes(palettize(dense).data)
    files[1].write_bytes(write_model(dense))
    assert files[0].stat().st_size <= bytes_
    assert [check.same for check in compare_files(files[0], files[1])] == [True] * 3


def test_a_weight_of_few_values_is_left_alone_and_named(exported: Exported) -> None:
    model = read_model(exported("small", 4).dense)
    clustered, reports = cluster_tflite(model, 16)
    assert {report.reason for report in reports} == {"it has no more values than clusters"}
    assert write_model(clustered) == write_model(model)


def outputs_lost(model: Model, clustered: Model) -> float:
    """Mean squared difference of the two models' outputs on examples nothing was calibrated by."""
    graph = model.subgraphs[0]
    assert graph.outputs is not None
    inputs = examples(model, 1)
    ((now, then),) = activation_pairs(clustered, model, int(graph.outputs[0]), inputs=inputs)
    return float(np.square(now - then).mean())


def examples(model: Model, seed: int) -> NDArray[np.float32]:
    """Inputs of which neighbours are alike, as in pictures."""
    graph = model.subgraphs[0]
    assert graph.inputs is not None
    shape = graph.tensors[int(graph.inputs[0])].dims[1:]
    random = np.random.default_rng(seed)
    return np.cumsum(random.normal(size=(64, *shape)) / 2, axis=1).astype(np.float32)


@pytest.mark.parametrize("kind", ["int8", "real"])
def test_calibrated_weights_keep_the_outputs(request: pytest.FixtureRequest, kind: str) -> None:
    """And change nothing but constants: weights, and biases that make up for the means."""
    model: Model = request.getfixturevalue(kind)
    plain, _ = cluster_tflite(model, 4)
    seen: list[str] = []
    observe = partial(activation_pairs, inputs=examples(model, 0))
    clustered, reports = cluster_tflite(model, 4, observe, seen.append)
    assert len(seen) == len(reports)
    assert not any(report.reason or report.nearest for report in reports)
    assert all(report.after <= 16 for report in reports)
    assert outputs_lost(model, clustered) < 0.75 * outputs_lost(model, plain)
    changed = set()
    for number, (ours, theirs) in enumerate(
        zip(clustered.subgraphs[0].tensors, model.subgraphs[0].tensors, strict=True)
    ):
        assert (ours.type, ours.dims) == (theirs.type, theirs.dims)
        assert ours.quantization is theirs.quantization
        after, before = constant(clustered, ours), constant(model, theirs)
        assert (after is None) == (before is None)
        if after is not None and before is not None and not np.array_equal(after, before):
            changed.add(number)
            assert after.dtype == before.dtype
    weights = {report.tensor for report in reports}
    assert weights < changed
    assert len(changed) <= 2 * len(weights)


def test_weights_whose_inputs_are_not_known_take_nearest_values_and_say_so(
    exported: Exported,
) -> None:
    model = read_model(exported("kernels", 64).dense)
    observe = partial(activation_pairs, inputs=examples(model, 0))
    clustered, reports = cluster_tflite(model, 16, observe)
    found = {report.nearest for report in reports}
    assert found == {"", "the inputs of its products are not at hand"}
    (transposed,) = [report for report in reports if report.nearest]
    plain, _ = cluster_tflite(model, 16)
    ours, theirs = (
        constant(made, made.subgraphs[0].tensors[transposed.tensor]) for made in (clustered, plain)
    )
    assert ours is not None
    assert np.array_equal(ours, np.asarray(theirs))


def test_weights_of_other_operators_and_further_subgraphs_are_named(int8: Model) -> None:
    """A first operator that is none of those with a data input; the same graph again as a body."""
    first, *others = int8.operator_codes
    custom = replace(first, deprecated_builtin_code=32, builtin_code=32, custom_code=b"Mine")
    model = replace(
        int8, operator_codes=(custom, *others), subgraphs=(int8.subgraphs[0], int8.subgraphs[0])
    )
    usual = cluster_tflite(int8, 4)[1]
    reports = cluster_tflite(model, 4)[1]
    inside = [report for report in reports if report.tensor >= 0]
    assert sorted(report.tensor for report in inside) == [report.tensor for report in usual]
    left = {report.name for report in inside if report.reason.startswith("no convolution or fully")}
    assert left
    body = [report for report in reports if report.tensor == -1]
    assert len(body) == len(usual)
    assert {report.reason for report in body} == {
        "no convolution or fully connected operator of the first subgraph reads it"
    }
    assert all(report.before == report.after for report in body)
