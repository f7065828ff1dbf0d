"""Palette .tflite files: the dense file's bits on every runtime, and nothing encoded that does not pay."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgepalette.evaluate.child import Outcome
from edgepalette.evaluate.runtimes import TFLITE_MODULES
from edgepalette.export.loader import DECODE_NAME, expand
from edgepalette.export.palette_tflite import (
    PaletteFile,
    Tables,
    channel_axes,
    insert_decodes,
    one_table,
    palettize,
    per_channel,
    weight_tensors,
)
from edgepalette.export.tflite import TfliteFiles
from edgepalette.export.tflite_schema import (
    Buffer,
    Model,
    Op,
    Operator,
    OperatorCode,
    QuantizationParameters,
    SubGraph,
    Tensor,
    TensorType,
    constant,
    read_model,
    write_model,
)

Exported = Callable[[str, int], TfliteFiles]
Run = Callable[..., Outcome]

RESOLVERS = ["AUTO", "BUILTIN_REF", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"]
RUNTIMES: list[tuple[str, dict[str, str]]] = [
    ("tflite", {"package": package, "resolver": resolver})
    for package, module in TFLITE_MODULES.items()
    if importlib.util.find_spec(module)
    for resolver in RESOLVERS
]
if importlib.util.find_spec("tflite_micro"):
    RUNTIMES.append(("tflm", {}))


@pytest.fixture(scope="module")
def palette_of(exported: Exported) -> Callable[[int, Tables], PaletteFile]:
    return cache(
        lambda clusters, tables: palettize(read_model(exported("kernels", clusters).dense), tables)
    )


@pytest.fixture(scope="module")
def dense_outputs() -> dict[tuple[int, str], NDArray[Any]]:
    """Outputs of dense files, kept for both kinds of tables."""
    return {}


@pytest.mark.parametrize("tables", list(Tables))
@pytest.mark.parametrize("clusters", [2, 4, 16, 100])
def test_a_palette_file_gives_the_dense_files_bits_on_every_runtime(
    clusters: int,
    tables: Tables,
    exported: Exported,
    clustered: Callable[[str, int], Any],
    inputs: Callable[[Any], NDArray[np.float32]],
    palette_of: Callable[[int, Tables], PaletteFile],
    dense_outputs: dict[tuple[int, str], NDArray[Any]],
    run: Run,
) -> None:
    samples = inputs(clustered("kernels", clusters))[:3]
    file = palette_of(clusters, tables)
    assert any(tensor.encoding == tables.value for tensor in file.tensors)
    # a process for each: two numbers of clusters meet every resolver, the others the reference and TFLM
    few = [(r, o) for r, o in RUNTIMES if o.get("resolver", "BUILTIN_REF") == "BUILTIN_REF"]
    for runtime, options in RUNTIMES if clusters in (4, 100) else few:
        key = (clusters, f"{runtime} {options}")
        if key not in dense_outputs:
            dense_outputs[key] = run(
                exported("kernels", clusters).dense, samples, runtime, **options
            ).raw
        found = run(file.data, samples, runtime, **options).raw
        np.testing.assert_array_equal(found, dense_outputs[key], str(key))
    assert len(np.unique(found)) > 3, "outputs must vary to show anything"


@pytest.mark.parametrize("tables", list(Tables))
@pytest.mark.parametrize("clusters", [2, 4, 16])
def test_all_four_kinds_of_kernels_get_palettes(
    clusters: int, tables: Tables, palette_of: Callable[[int, Tables], PaletteFile]
) -> None:
    reports = palette_of(clusters, tables).tensors
    assert [report.encoding for report in reports] == [tables.value] * 4
    assert {len(report.shape) for report in reports} == {2, 4}
    for report in reports:
        assert report.values <= clusters
        assert report.reason == ""
        assert report.stored_bytes < report.dense_bytes == int(np.prod(report.shape))


@pytest.mark.parametrize("tables", list(Tables))
@pytest.mark.parametrize("clusters", [2, 4, 16, 100])
def test_the_expanded_file_holds_the_dense_files_weights(
    clusters: int,
    tables: Tables,
    exported: Exported,
    palette_of: Callable[[int, Tables], PaletteFile],
) -> None:
    dense = read_model(exported("kernels", clusters).dense)
    expanded = read_model(expand(palette_of(clusters, tables).data))
    pairs = zip(expanded.subgraphs[0].tensors, dense.subgraphs[0].tensors, strict=True)
    for ours, theirs in pairs:
        a, b = constant(expanded, ours), constant(dense, theirs)
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            np.testing.assert_array_equal(a, b)


def test_decode_operators_are_written_as_tflm_reads_them(exported: Exported) -> None:
    files = exported("kernels", 16)
    model = schema.ModelT.InitFromPackedBuf(files.palette, 0)
    graph = model.subgraphs[0]
    codes = model.operatorCodes
    decodes = [op for op in graph.operators if codes[op.opcodeIndex].customCode == DECODE_NAME]
    assert len(decodes) == 4
    known = {-1, *graph.inputs}
    dense = schema.ModelT.InitFromPackedBuf(files.dense, 0).subgraphs[0]
    for op in graph.operators:
        if op in decodes:
            assert codes[op.opcodeIndex].builtinCode == schema.BuiltinOperator.CUSTOM
            packed, ancillary = (graph.tensors[n] for n in op.inputs)
            header = bytes(model.buffers[ancillary.buffer].data[:16])
            # LUT, version 1; axis 0 with stride 0 is one table for all channels; 4 bits
            assert header == bytes([0, 1, 0, 0, 1, 4, 0, *[0] * 9])
            assert packed.type == ancillary.type == schema.TensorType.UINT8
            assert packed.quantization is None
            (output,) = op.outputs
            assert graph.tensors[output].buffer == 0
            assert list(graph.tensors[output].shape) == list(dense.tensors[output].shape)
        else:
            assert set(op.inputs) <= known | {
                n for n, t in enumerate(graph.tensors) if t.buffer != 0
            }, "a weight is read before its DECODE"
        known |= set(op.outputs)


def fully_connected(weights: NDArray[Any], readers: int = 1, per_channel: bool = True) -> Model:
    """A lean file of `readers` fully-connected operators, one after the other, that read one int8 or float weight."""
    real = weights.dtype == np.float32
    kind = TensorType.FLOAT32 if real else TensorType.INT8
    size, channels = weights.shape[0], weights.shape[0] if per_channel else 1
    activations = tuple(
        Tensor(
            shape=np.array([1, size], np.int32),
            type=kind,
            quantization=None
            if real
            else QuantizationParameters(
                scale=np.array([0.05], np.float32), zero_point=np.array([0], np.int64)
            ),
        )
        for _ in range(readers + 1)
    )
    scale = np.linspace(0.05, 0.1, channels).astype(np.float32)
    weight = Tensor(
        shape=np.array(weights.shape, np.int32),
        type=kind,
        buffer=1,
        quantization=None
        if real
        else QuantizationParameters(scale=scale, zero_point=np.zeros(channels, np.int64)),
    )
    operators = tuple(
        Operator(
            inputs=np.array([n, readers + 1, -1], np.int32), outputs=np.array([n + 1], np.int32)
        )
        for n in range(readers)
    )
    graph = SubGraph(
        tensors=(*activations, weight),
        inputs=np.array([0], np.int32),
        outputs=np.array([readers], np.int32),
        operators=operators,
    )
    code = OperatorCode(
        deprecated_builtin_code=Op.FULLY_CONNECTED, builtin_code=Op.FULLY_CONNECTED, version=4
    )
    return Model(3, (code,), (graph,), buffers=(Buffer(), Buffer(data=weights.tobytes())))


def weights(size: int, values: int) -> NDArray[np.int8]:
    """(size, size) with exactly so many values, spread over all channels."""
    drawn = np.arange(size * size) % values
    shuffled = np.random.default_rng(0).permutation(drawn).reshape(size, size)
    return (shuffled - values // 2).astype(np.int8)


@pytest.mark.parametrize(
    ("values", "encoding"), [(2, "shared"), (3, "shared"), (127, "shared"), (128, "shared")]
)
def test_up_to_128_values_are_encoded(values: int, encoding: str) -> None:
    (report,) = palettize(fully_connected(weights(64, values))).tensors
    assert (report.encoding, report.values) == (encoding, values)
    assert report.bits == max(1, (values - 1).bit_length())


@pytest.mark.parametrize("values", [129, 255])
def test_more_than_128_values_stay_dense_with_the_reason(values: int) -> None:
    # channels longer than 128, so that a table per channel does not serve either
    model = fully_connected(weights(512, values))
    file = palettize(model)
    (report,) = file.tensors
    assert (report.encoding, report.reason) == ("dense", "more than 128 values")
    assert report.bits == 8
    assert report.stored_bytes == report.dense_bytes
    assert file.data == write_model(model)


def test_many_values_in_all_but_few_per_channel_get_a_table_per_channel() -> None:
    random = np.random.default_rng(0)
    rows = [np.int8(random.choice(256, 2, replace=False) - 128) for _ in range(128)]
    values = np.stack([row[random.integers(0, 2, 128)] for row in rows])
    assert len(np.unique(values)) > 128
    (report,) = palettize(fully_connected(values)).tensors
    assert (report.encoding, report.values, report.bits) == ("per-channel", 2, 1)


def test_a_tensor_whose_palette_does_not_pay_stays_dense_and_the_reason_counts_the_bytes() -> None:
    model = fully_connected(weights(8, 4))
    file = palettize(model)
    (report,) = file.tensors
    assert report.encoding == "dense"
    assert file.data == write_model(model)
    added = int(report.reason.removeprefix("a palette would add ").removesuffix(" bytes"))
    assert added >= 0


@pytest.mark.parametrize("size", range(8, 34, 2))
def test_a_palette_file_is_never_larger_than_the_dense_one(size: int) -> None:
    model = fully_connected(weights(size, 4))
    file = palettize(model)
    dense = len(write_model(model))
    assert len(file.data) <= dense
    assert (len(file.data) < dense) == (file.tensors[0].encoding != "dense")


# what the first DECODE of a file brings besides: the operator's entry of 48 bytes, vtables of 24, the file's last border
ONCE = 48 + 24 + 15


@given(
    st.integers(8, 96), st.integers(2, 128), st.booleans(), st.sampled_from([np.int8, np.float32])
)
@settings(deadline=None, max_examples=60)
def test_a_decode_adds_at_most_145_bytes_to_its_packed_indices(
    most: Callable[..., int], size: int, values: int, per_channel: bool, dtype: Any
) -> None:
    model = fully_connected(weights(size, values).astype(dtype), per_channel=per_channel)
    dense, file = write_model(model), palettize(model)
    assert len(file.data) <= most(dense, file.tensors) + ONCE
    assert len(file.data) <= len(dense)


@pytest.mark.parametrize("tables", list(Tables))
@pytest.mark.parametrize("name", ["kernels", "small", "recurrent"])
@pytest.mark.parametrize("clusters", [4, 16])
def test_small_models_palettes_keep_the_bound(
    name: str, clusters: int, tables: Tables, exported: Exported, most: Callable[..., int]
) -> None:
    dense = exported(name, clusters).dense
    file = palettize(read_model(dense), tables)
    decodes = sum(report.encoding != "dense" for report in file.tensors)
    once = 0 if tables is Tables.SHARED and decodes > 2 else ONCE
    assert len(file.data) <= min(len(dense), most(dense, file.tensors) + once)


def channels_of_their_own(count: int, length: int) -> NDArray[np.float32]:
    """(count, length) floats, four values in each channel, no two alike."""
    random = np.random.default_rng(0)
    table = random.normal(size=(count, 4)).astype(np.float32)
    return np.take_along_axis(table, random.integers(0, 4, (count, length)), axis=1)


@pytest.mark.parametrize("last", [False, True])
def test_float_channels_with_values_of_their_own_get_a_table_each(last: bool) -> None:
    """As BatchNorm leaves them when it is folded into the weights: every channel another gain."""
    values = channels_of_their_own(64, 64)
    model = fully_connected(values.T.copy() if last else values)
    file = palettize(model)
    (report,) = file.tensors
    assert (report.encoding, report.values, report.bits) == ("per-channel", 4, 2)
    assert len(file.data) < 0.25 * len(write_model(model))
    expanded = read_model(expand(file.data))
    found = constant(expanded, expanded.subgraphs[0].tensors[2])
    assert found is not None
    assert found.tobytes() == (values.T if last else values).tobytes()


@given(
    hnp.array_shapes(min_dims=2, max_dims=4, max_side=9),
    st.integers(1, 40),
    st.sampled_from([np.int8, np.float32]),
    st.integers(-1, 3),
)
@settings(deadline=None, max_examples=150)
def test_every_encoding_expands_to_the_tensors_own_bytes(
    shape: tuple[int, ...], values: int, dtype: Any, axis: int
) -> None:
    """axis: of the scales, -1 for a single one; floats have none."""
    random = np.random.default_rng(values)
    data = (random.integers(0, values, shape) - values // 2).astype(dtype)
    model = fully_connected(weights(4, 2).astype(dtype))
    graph = model.subgraphs[0]
    axis = min(axis, len(shape) - 1)
    count = 1 if axis < 0 else shape[axis]
    quantization = QuantizationParameters(
        scale=np.ones(count, np.float32),
        zero_point=np.zeros(count, np.int64),
        quantized_dimension=max(0, axis),
    )
    tensor = replace(
        graph.tensors[2],
        shape=np.array(shape, np.int32),
        quantization=None if dtype is np.float32 else quantization,
    )
    graph = replace(graph, tensors=(*graph.tensors[:2], tensor))
    model = replace(model, subgraphs=(graph,), buffers=(Buffer(), Buffer(data=data.tobytes())))
    options = [one_table(2, data, tensor)]
    options += [per_channel(2, data, tensor, along) for along in channel_axes(data, tensor)]
    assert options[0] is not None or 0 < axis < len(shape) - 1
    for option in options:
        if option is not None:
            expanded = read_model(expand(write_model(insert_decodes(model, [option]))))
            found = constant(expanded, expanded.subgraphs[0].tensors[2])
            assert found is not None
            assert found.tobytes() == data.tobytes()


def test_a_float_tensor_whose_channels_share_values_gets_one_table() -> None:
    values = weights(64, 16).astype(np.float32)
    (report,) = palettize(fully_connected(values)).tensors
    assert (report.encoding, report.bits) == ("shared", 4)
    (report,) = palettize(fully_connected(values), Tables.PER_CHANNEL).tensors
    assert (report.encoding, report.bits) == ("per-channel", 4)


def test_zeros_with_a_minus_and_numbers_that_are_none_keep_their_bits() -> None:
    values = np.resize(np.array([0.0, -0.0, 1.0, np.nan, np.inf], np.float32), (40, 40))
    values.view(np.uint32)[0, :2] = [0x7FC00001, 0xFFC00000]
    expanded = read_model(expand(palettize(fully_connected(values)).data))
    found = constant(expanded, expanded.subgraphs[0].tensors[2])
    assert found is not None
    assert found.tobytes() == values.tobytes()


def test_scales_along_a_middle_axis_stay_dense_with_the_reason() -> None:
    """TFLM's DECODE refuses them."""
    model = fully_connected(weights(64, 4))
    graph = model.subgraphs[0]
    quantization = graph.tensors[2].quantization
    assert quantization is not None
    tensor = replace(
        graph.tensors[2],
        shape=np.array([8, 64, 8], np.int32),
        quantization=replace(quantization, quantized_dimension=1),
    )
    graph = replace(graph, tensors=(*graph.tensors[:2], tensor))
    (report,) = palettize(replace(model, subgraphs=(graph,))).tensors
    assert report.encoding == "dense"
    assert report.reason == "scales along an axis that is neither first nor last"


def test_dense_data_that_another_subgraph_reads_too_is_not_stored_twice() -> None:
    model = fully_connected(weights(64, 4))
    both = replace(model, subgraphs=model.subgraphs * 2)
    file = palettize(both)
    (report,) = file.tensors
    assert report.encoding == "dense"
    assert file.data == write_model(both)


def test_weights_that_only_another_subgraph_reads_stay_dense() -> None:
    model = fully_connected(weights(64, 4))
    first = replace(model.subgraphs[0], operators=())
    both = replace(model, subgraphs=(first, *model.subgraphs))
    file = palettize(both)
    assert file.tensors == ()
    assert file.data == write_model(both)


def test_two_tensors_of_one_buffer_are_decided_together() -> None:
    """Alone, a palette of either would leave the dense data in the file for the other."""
    model = fully_connected(weights(30, 4), readers=2)
    graph = model.subgraphs[0]
    first, second = graph.operators
    second = replace(second, inputs=np.array([1, 4, -1], np.int32))
    graph = replace(graph, tensors=(*graph.tensors, graph.tensors[3]), operators=(first, second))
    model = replace(model, subgraphs=(graph,))
    assert len(model.buffers) == 2
    file = palettize(model)
    assert [report.encoding for report in file.tensors] == ["shared", "shared"]
    assert len(file.data) < len(write_model(model))


def test_palettes_too_small_to_pay_for_the_operator_alone_pay_for_it_together() -> None:
    """Each tensor saves less than the first DECODE of a file costs, all together save more."""
    size = next(n for n in range(8, 40) if palettize(stack(1, n)).tensors[0].encoding == "shared")
    (alone,) = palettize(stack(1, size - 2)).tensors
    assert alone.encoding == "dense"
    together = palettize(stack(8, size - 2))
    assert {report.encoding for report in together.tensors} == {"shared"}


def stack(count: int, size: int) -> Model:
    """Fully connected operators one after the other, each with weights of its own."""
    model = fully_connected(weights(size, 4), readers=count)
    graph = model.subgraphs[0]
    activations, weight = graph.tensors[:-1], graph.tensors[-1]
    values = [np.roll(weights(size, 4), shift) for shift in range(count)]
    operators = tuple(
        replace(op, inputs=np.array([n, count + 1 + n, -1], np.int32))
        for n, op in enumerate(graph.operators)
    )
    tensors = (*activations, *(replace(weight, buffer=n + 1) for n in range(count)))
    buffers = (Buffer(), *(Buffer(data=part.tobytes()) for part in values))
    graph = replace(graph, tensors=tensors, operators=operators)
    return replace(model, subgraphs=(graph,), buffers=buffers)


@pytest.mark.parametrize("tables", list(Tables))
def test_a_tensor_of_one_scale_has_one_table_in_the_documented_form(tables: Tables) -> None:
    file = palettize(fully_connected(weights(64, 4), per_channel=False), tables)
    (report,) = file.tensors
    assert (report.encoding, report.bits) == ("shared", 2)
    # axis 15 is one table; its stride is its length
    assert bytes([0, 1, 0, 0, 1, 0xF2, 4, *[0] * 9]) in file.data


def test_a_weight_two_operators_read_is_decoded_once_before_the_first(run: Run) -> None:
    model = fully_connected(weights(48, 4), readers=2)
    file = palettize(model)
    graph = read_model(file.data).subgraphs[0]
    assert [len(op.outputs) for op in graph.operators if op.outputs is not None] == [1, 1, 1]
    assert graph.operators[0].opcode_index == 1
    samples = np.random.default_rng(0).normal(size=(4, 48)).astype(np.float32)
    dense = write_model(model)
    for runtime, options in [("tflite", {"resolver": "BUILTIN_REF"}), RUNTIMES[-1]]:
        outputs = [run(data, samples, runtime, **options).raw for data in (dense, file.data)]
        np.testing.assert_array_equal(outputs[0], outputs[1])
        assert len(np.unique(outputs[0])) > 3


def test_a_shared_layers_palette_is_stored_once_and_read_at_every_place(
    exported: Exported,
    clustered: Callable[[str, int], Any],
    inputs: Callable[[Any], NDArray[np.float32]],
    run: Run,
) -> None:
    files = exported("shared_layer", 8)
    assert [entry.name for entry in files.requantized].count("again/kernel") == 3
    model = schema.ModelT.InitFromPackedBuf(files.palette, 0)
    packed = [
        op.inputs[0]
        for op in model.subgraphs[0].operators
        if model.operatorCodes[op.opcodeIndex].customCode
    ]
    buffers = {model.subgraphs[0].tensors[n].buffer for n in packed}
    assert len(packed) == 4
    assert len(buffers) == 2
    samples = inputs(clustered("shared_layer", 8))[:4]
    for runtime, options in [("tflite", {"resolver": "BUILTIN_REF"}), RUNTIMES[-1]]:
        outputs = [
            run(data, samples, runtime, **options).raw for data in (files.dense, files.palette)
        ]
        np.testing.assert_array_equal(outputs[0], outputs[1])


def test_weight_tensors_are_constants_of_two_dimensions_that_operators_read() -> None:
    model = fully_connected(weights(8, 4))
    assert weight_tensors(model) == [2]
    graph = model.subgraphs[0]
    unread = replace(graph, tensors=(*graph.tensors, graph.tensors[2]))
    assert weight_tensors(replace(model, subgraphs=(unread,))) == [2]


def test_the_same_model_gives_the_same_bytes(exported: Exported) -> None:
    dense = exported("kernels", 16).dense
    assert palettize(read_model(dense)).data == palettize(read_model(dense)).data
    assert palettize(read_model(dense)).data == exported("kernels", 16).palette
