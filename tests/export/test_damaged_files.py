"""Damaged and hostile .tflite files: FormatError and nothing else, in bounded time."""

from __future__ import annotations

import contextlib
import json
import re
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import flatbuffers
import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgepalette.errors import FormatError
from edgepalette.export.cluster_onnx import cluster_onnx
from edgepalette.export.cluster_tflite import cluster_tflite
from edgepalette.export.expand_onnx import expand_onnx
from edgepalette.export.lean import lean
from edgepalette.export.loader import DECODE_NAME, LutRecord, expand, runnable
from edgepalette.export.onnx_bytes import onnx_palettes
from edgepalette.export.onnx_file import read_onnx, tensor_values
from edgepalette.export.palette_tflite import MOST_TRIALS, Tables, palettize
from edgepalette.export.tflite import TfliteFiles
from edgepalette.export.tflite_schema import (
    Buffer,
    Model,
    Op,
    Operator,
    OperatorCode,
    SubGraph,
    Tensor,
    TensorType,
    read_model,
    write_model,
)
from edgepalette.pipeline.inspection import inspect_file

READERS: dict[str, Callable[[bytes], object]] = {
    "read_model": read_model,
    "expand": expand,
    "runnable": runnable,
}
KINDS = ["stock", "dense", "palette"]
# what breaks readers: offsets to nowhere, to the start, to the end, negative ones
WORDS = [0, 1, 4, 0x7F, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFC]

damage = settings(
    deadline=None,
    max_examples=250,
    # the files are made once for all examples
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def read_anyhow(data: bytes) -> None:
    for reader in READERS.values():
        with contextlib.suppress(FormatError):
            reader(data)


def onnx_palettes_of(data: bytes) -> object:
    return onnx_palettes(read_onnx(data), len(data))


def onnx_file(nodes: list[onnx.NodeProto], *constants: onnx.TensorProto) -> bytes:
    """A model without inputs whose output is y."""
    kind = onnx.TensorProto.STRING if nodes[0].op_type == "Cast" else onnx.TensorProto.UINT8
    made = onnx.helper.make_tensor_value_info("y", kind, ["n"] * (1 if len(constants) == 1 else 2))
    graph = onnx.helper.make_graph(nodes, "graph", [], [made], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 15)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


Files = Callable[[str], bytes]


@pytest.fixture(scope="module")
def files(exported: Callable[[str, int], TfliteFiles]) -> Files:
    """By kind; a function, because hypothesis prints arguments in full."""
    small = exported("small", 4)
    return lambda kind: bytes(getattr(small, kind))


@given(st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True))
@damage
def test_a_truncated_file_raises_only_format_errors(files: Files, kind: str, share: float) -> None:
    data = files(kind)
    read_anyhow(data[: int(share * len(data))])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_a_file_cut_in_its_head_is_refused(files: Files, reader: str, kind: str) -> None:
    for length in (0, 3, 4, 7, 8, 11, 20):
        with pytest.raises(FormatError):
            READERS[reader](files(kind)[:length])


@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1),
)
@damage
def test_changed_bytes_raise_only_format_errors(
    files: Files, kind: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(files(kind))
    for share, value in changes:
        data[int(share * len(data))] = value
    read_anyhow(bytes(data))


@given(
    st.sampled_from(KINDS),
    st.lists(
        st.tuples(
            st.floats(0, 1, exclude_max=True),
            st.sampled_from(WORDS) | st.integers(0, 20000),
        ),
        min_size=1,
        max_size=3,
    ),
)
@damage
def test_changed_words_raise_only_format_errors(
    files: Files, kind: str, changes: list[tuple[float, int]]
) -> None:
    data = bytearray(files(kind))
    for share, word in changes:
        struct.pack_into("<I", data, 4 * int(share * (len(data) // 4)), word)
    read_anyhow(bytes(data))


@pytest.mark.parametrize("part", ["tensor", "operator", "buffer", "operator code"])
@pytest.mark.parametrize("reader", ["expand", "runnable"])
def test_a_part_that_lies_beyond_the_file_is_refused(files: Files, reader: str, part: str) -> None:
    """Every entry of every list of tables in turn, for the parts the loader keeps without reading them too."""
    data = files("palette")
    model = schema.Model.GetRootAs(data)
    table, slot = {
        "tensor": (model.Subgraphs(0)._tab, 4),
        "operator": (model.Subgraphs(0)._tab, 10),
        "buffer": (model._tab, 12),
        "operator code": (model._tab, 6),
    }[part]
    field = table.Offset(slot)
    start, count = table.Vector(field), table.VectorLen(field)
    assert count > 2
    for number in range(count):
        for word in (len(data), 0x7FFFFFF0, 0xFFFFFFF0):
            hostile = bytearray(data)
            struct.pack_into("<I", hostile, start + 4 * number, word)
            with contextlib.suppress(FormatError):
                READERS[reader](bytes(hostile))


SCRIPT = Path(__file__).parents[2] / "scripts" / "fuzz"
FOUND = SCRIPT.parent / "fuzz_corpus" / "regressions"


def cluster(path: Path) -> None:
    cluster_tflite(read_model(path.read_bytes()), 3)


def expand_file(path: Path) -> None:
    expand_onnx(path.read_bytes())


def read_constants(path: Path) -> None:
    for tensor in read_onnx(path.read_bytes()).graph.initializer:
        tensor_values(tensor)


def cluster_onnx_file(path: Path) -> None:
    cluster_onnx(path.read_bytes(), 3)


@pytest.mark.parametrize(
    ("name", "reader", "message"),
    [
        ("no-graph.tflite", inspect_file, "must hold a graph, got none"),
        ("named-often.tflite", inspect_file, "at most 16 times its size with nothing shared"),
        ("negative-shape.tflite", inspect_file, "of shape (-1, "),
        ("rank.tflite", inspect_file, "the file is damaged"),
        ("axis.tflite", cluster, "one per channel, got 3 along axis 7"),
        ("scales.tflite", cluster, "one per channel, got 5 along axis 0"),
        ("infinite-scale.tflite", cluster, "must be positive numbers"),
        ("no-text.onnx", inspect_file, "names that are no text"),
        ("no-text.onnx", expand_file, "names that are no text"),
        ("segment.onnx", inspect_file, "cannot be read"),
        ("segment.onnx", cluster_onnx_file, "cannot be read"),
        ("elsewhere.onnx", inspect_file, "must hold its weights itself"),
        ("shape.onnx", inspect_file, "cannot be read"),
        ("one-input.onnx", inspect_file, "a Gather must have two inputs"),
        ("no-type.onnx", read_constants, "cannot be read"),
    ],
)
def test_what_was_found_is_refused(
    name: str, reader: Callable[[Path], object], message: str
) -> None:
    with pytest.raises(FormatError, match=re.escape(message)):
        reader(FOUND / name)


def test_a_weight_with_values_that_are_no_numbers_is_left_alone() -> None:
    model = read_model((FOUND / "no-number.tflite").read_bytes())
    clustered, reports = cluster_tflite(model, 3)
    (left,) = [r.tensor for r in reports if r.reason == "a value is none or greater than 1e+30"]
    assert clustered.subgraphs[0].tensors[left] is model.subgraphs[0].tensors[left]


def test_a_constant_in_another_file_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file names it: it may be any file there is, the right number of bytes long."""
    (tmp_path / "make").write_bytes(bytes(48))
    monkeypatch.chdir(tmp_path)
    (tensor,) = read_onnx((FOUND / "elsewhere.onnx").read_bytes()).graph.initializer
    assert onnx.numpy_helper.to_array(tensor).shape == (3, 4)
    with pytest.raises(FormatError, match="must hold its weights itself"):
        tensor_values(tensor)


def graphs_of_one_list(graphs: int, tensors: int) -> bytes:
    """A file whose graphs all name one list of tensors, which names one tensor."""
    builder = flatbuffers.Builder(1 << 12)

    def table(slots: int, **vectors: int) -> int:
        builder.StartObject(slots)
        for name, offset in vectors.items():
            builder.PrependUOffsetTRelativeSlot(int(name[1:]), offset, 0)
        return int(builder.EndObject())

    def vector(offsets: list[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    tensor_list = vector([table(0)] * tensors)
    graph_list = vector([table(1, _0=tensor_list) for _ in range(graphs)])
    buffers = vector([table(0)])
    builder.Finish(table(5, _2=graph_list, _4=buffers), file_identifier=b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("reader", READERS)
def test_a_list_that_every_graph_names_is_refused(reader: str) -> None:
    """Without a bound, 32 KB are four million tensors."""
    few, many = graphs_of_one_list(3, 40), graphs_of_one_list(2000, 2000)
    READERS[reader](few)
    with pytest.raises(FormatError, match=r"nothing shared|parts too often"):
        READERS[reader](many)


def test_a_graph_named_again_is_expanded_once() -> None:
    model = read_model((FOUND.parent / "palette.tflite").read_bytes())
    once = expand(write_model(model))
    often = expand(write_model(replace_graphs(model, 10)))
    assert len(often) - len(once) < 10 * 4 * 4
    assert len(read_model(often).subgraphs) == 10


def replace_graphs(model: Model, count: int) -> Model:
    return Model(
        version=model.version,
        operator_codes=model.operator_codes,
        subgraphs=model.subgraphs * count,
        buffers=model.buffers,
    )


@pytest.mark.parametrize("tensors", [50, 70])
def test_constants_that_many_tensors_name_are_bounded(tensors: int) -> None:
    tensor = Tensor(shape=np.array([100, 100]), type=TensorType.INT8, buffer=1)
    graph = SubGraph(tensors=(tensor,) * tensors)
    data = write_model(Model(subgraphs=(graph,), buffers=(Buffer(), Buffer(data=bytes(10000)))))
    with pytest.raises(FormatError, match="64 times") if tensors > 64 else contextlib.nullcontext():
        read_model(data)


def test_two_fields_in_one_place_are_refused() -> None:
    data = bytearray(graphs_of_one_list(1, 1))
    # the root's own layout: its buffers' place is given to its graphs as well
    root = struct.unpack_from("<I", data)[0]
    layout = root - struct.unpack_from("<i", data, root)[0]
    place = struct.unpack_from("<H", data, layout + 4 + 2 * 4)
    struct.pack_into("<H", data, layout + 4 + 2 * 2, *place)
    with pytest.raises(FormatError, match="damaged table"):
        read_model(bytes(data))


def peak_of(function: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def one_bit_file(count: int) -> bytes:
    """The most a file can expand to: 8-byte values of one bit each."""
    record = LutRecord(bits=1, axis=0, stride=0, values=bytes(16)).to_bytes()
    parts = [bytes(count // 8), record]
    tensors = [Tensor(shape=np.array([count]), type=TensorType.INT64)]
    tensors += [
        Tensor(shape=np.array([len(part)]), type=TensorType.UINT8, buffer=number)
        for number, part in enumerate(parts, 1)
    ]
    decode = Operator(inputs=np.array([1, 2]), outputs=np.array([0]))
    graph = SubGraph(tensors=tuple(tensors), operators=(decode,), outputs=np.array([0]))
    code = OperatorCode(builtin_code=Op.CUSTOM, custom_code=DECODE_NAME)
    buffers = (Buffer(), *(Buffer(data=part) for part in parts))
    return write_model(Model(operator_codes=(code,), subgraphs=(graph,), buffers=buffers))


def test_memory_stays_below_what_is_stated() -> None:
    many = [Tensor(shape=np.array([n])) for n in range(3000)]
    model = Model(subgraphs=(SubGraph(tensors=tuple(many)),), buffers=(Buffer(),))
    data, packed = write_model(model), one_bit_file(1 << 16)
    assert peak_of(lambda: read_model(data)) < 256 * len(data)
    assert len(expand(packed)) > 50 * len(packed)
    assert peak_of(lambda: expand(packed)) < 512 * len(packed)


def test_many_small_weights_are_not_tried_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    weights = [rng.integers(0, 4, (32, 4)).astype(np.int8) for _ in range(MOST_TRIALS + 40)]
    tensors = [Tensor(shape=np.array([1, 4]), type=TensorType.INT8)]
    tensors += [
        Tensor(shape=np.array([32, 4]), type=TensorType.INT8, buffer=number)
        for number in range(1, len(weights) + 1)
    ]
    operators = tuple(
        Operator(inputs=np.array([0, number]), outputs=np.array([0]))
        for number in range(1, len(tensors))
    )
    model = Model(
        operator_codes=(OperatorCode(builtin_code=Op.FULLY_CONNECTED),),
        subgraphs=(SubGraph(tensors=tuple(tensors), operators=operators),),
        buffers=(Buffer(), *(Buffer(data=weight.tobytes()) for weight in weights)),
    )
    written = []

    def counted(model: Model) -> bytes:
        written.append(model)
        return write_model(model)

    monkeypatch.setattr("edgepalette.export.palette_tflite.write_model", counted)
    made = palettize(lean(model), Tables.SHARED)
    assert len(written) <= MOST_TRIALS + 5
    assert len(made.data) <= len(write_model(lean(model)))


@pytest.mark.parametrize("reader", [expand_onnx, onnx_palettes_of])
def test_a_gather_along_another_axis_is_counted_before_it_is_made(
    reader: Callable[[bytes], object],
) -> None:
    """36 KB that would be 16 MB: every entry of a long axis, looked up 4,000 times."""
    table = onnx.numpy_helper.from_array(np.zeros((4000, 1), np.uint8), "table")
    codes = onnx.numpy_helper.from_array(np.zeros(4000, np.int64), "codes")
    data = onnx_file(
        [onnx.helper.make_node("Gather", ["table", "codes"], ["y"], axis=1)], table, codes
    )
    with pytest.raises(FormatError, match="512 times its size"):
        reader(data)
    few = onnx.numpy_helper.from_array(np.zeros(40, np.int64), "codes")
    reader(
        onnx_file([onnx.helper.make_node("Gather", ["table", "codes"], ["y"], axis=1)], table, few)
    )


def test_numbers_are_not_made_strings() -> None:
    table = onnx.numpy_helper.from_array(np.zeros(4000, np.uint8), "table")
    node = onnx.helper.make_node("Cast", ["table"], ["y"], to=onnx.TensorProto.STRING)
    data = onnx_file([node], table)
    assert expand_onnx(data) == data


@pytest.mark.slow
def test_changed_files_are_read_or_refused(tmp_path: Path) -> None:
    """A sample of what scripts/fuzz runs at length: its findings are listed in what it prints."""
    command = [sys.executable, SCRIPT, "--files", "2000", "--seed", "1", "--json"]
    done = subprocess.run(
        [*map(str, command), "--jobs", "1", "--keep", str(tmp_path)],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    summary = json.loads(done.stdout)
    assert summary["findings"] == {}, summary["kept"]
    assert done.returncode == 0
    assert summary["files"] == 2000
    # as many as that must get through, or nothing behind the readers is tried
    assert summary["stages"][".tflite palettize: read"] > 200
    assert summary["stages"][".onnx palettize: read"] > 50


def test_a_finding_is_told_and_kept(tmp_path: Path) -> None:
    """The script sees a bound that is passed: of memory, here, by a file it is given."""
    code = (
        "import runpy, sys; module = runpy.run_path(sys.argv[1]); "
        "stage = module['Stage'](lambda path: bytearray(50 << 20), 1, 1 << 20); "
        "module['STAGES']['.onnx'].clear(); module['STAGES']['.onnx']['greedy'] = stage; "
        "from pathlib import Path; print(module['examine'](0, Path(sys.argv[2]), True).findings)"
    )
    command = [sys.executable, "-c", code, str(SCRIPT), str(FOUND / "shape.onnx")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['greedy: memory over 1 x size + 1 MB']"
