"""The loader: packed indices, the ancillary record, and palette files expanded on their own."""

from __future__ import annotations

import errno
import shutil
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgepalette.errors import FormatError
from edgepalette.export import loader
from edgepalette.export.loader import LutRecord, expand, load, pack_codes, runnable, unpack_codes
from edgepalette.export.palette_tflite import Encoding, insert_decodes
from edgepalette.export.tflite import TfliteFiles
from edgepalette.export.tflite_schema import Buffer, Model, constant, read_model, write_model

Exported = Callable[[str, int], TfliteFiles]


@given(
    st.integers(1, 7).flatmap(
        lambda bits: st.tuples(
            st.just(bits),
            hnp.arrays(np.uint8, st.integers(0, 65), elements=st.integers(0, 2**bits - 1)),
        )
    )
)
@settings(deadline=None, max_examples=200)
def test_packing_is_a_round_trip_in_the_fewest_bytes(case: tuple[int, NDArray[np.uint8]]) -> None:
    bits, codes = case
    packed = pack_codes(codes, bits)
    assert len(packed) == (codes.size * bits + 7) // 8
    np.testing.assert_array_equal(unpack_codes(packed, bits, codes.size), codes)


@given(
    st.integers(1, 7),
    hnp.arrays(np.uint8, st.integers(1, 20), elements=st.integers(0, 1)),
)
@settings(deadline=None, max_examples=50)
def test_packed_bits_are_the_codes_bits_most_significant_first(
    bits: int, codes: NDArray[np.uint8]
) -> None:
    written = "".join(f"{code:0{bits}b}" for code in codes)
    packed = "".join(f"{byte:08b}" for byte in pack_codes(codes, bits))
    assert packed == written.ljust(len(packed), "0")


def test_packing_keeps_the_order_of_a_tensors_elements() -> None:
    codes = np.array([[[1, 2], [3, 0]]], np.uint8)
    assert pack_codes(codes, 2) == bytes([0b01101100])
    assert pack_codes(np.array([5, 6, 7], np.uint8), 3) == bytes([0b10111011, 0b10000000])
    assert pack_codes(np.array([127, 0, 1], np.uint8), 7) == bytes([0b11111110, 0, 0b00001000])


def test_too_few_packed_bytes_are_refused() -> None:
    with pytest.raises(FormatError, match="9 indices of 3 bits need 4 bytes, got 3"):
        unpack_codes(bytes(3), 3, 9)


def test_a_record_is_sixteen_bytes_of_header_and_its_values() -> None:
    record = LutRecord(bits=4, axis=3, stride=9, values=b"\x01\x80\x7f")
    assert record.to_bytes() == (
        b"\x00\x01\x00\x00"  # LUT, header version 1, reserved
        b"\x01\x34\x09\x00"  # LUT version 1, axis 3 and 4 bits, stride 9, reserved
        b"\x00\x00\x00\x00\x00\x00\x00\x00"  # reserved
        b"\x01\x80\x7f"
    )


@given(st.integers(1, 7), st.integers(0, 15), st.integers(0, 128), st.binary(max_size=40))
@settings(deadline=None, max_examples=50)
def test_a_record_survives_its_bytes(bits: int, axis: int, stride: int, values: bytes) -> None:
    record = LutRecord(bits, axis, stride, values)
    assert LutRecord.from_bytes(record.to_bytes()) == record


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (0, 1, "type 0 .LUT., version 1, LUT version 1, got 1, 1, 1"),
        (0, 128, "got 128, 1, 1"),
        (1, 2, "got 0, 2, 1"),
        (4, 0, "got 0, 1, 0"),
        (5, 0x20, "needs 1-7 bits and a stride up to 128, got 0 and 4"),
        (6, 129, "got 4 and 129"),
    ],
)
def test_a_record_of_another_kind_is_refused(place: int, value: int, message: str) -> None:
    data = bytearray(LutRecord(4, 0, 4, b"abcd").to_bytes())
    data[place] = value
    with pytest.raises(FormatError, match=message):
        LutRecord.from_bytes(bytes(data))


def test_a_record_shorter_than_its_header_is_refused() -> None:
    with pytest.raises(FormatError, match="a DECODE header has 16 bytes, got 15"):
        LutRecord.from_bytes(bytes(15))


CODES = np.array([[0, 1, 2], [2, 1, 0]], np.uint8)


def decode(record: LutRecord, channel_axis: int = 0, dtype: str = "i1") -> NDArray[Any]:
    return record.decode(pack_codes(CODES, record.bits), (2, 3), dtype, channel_axis)


@pytest.mark.parametrize("axis", [0, 1, 15])
def test_stride_zero_reads_one_table_for_all_channels(axis: int) -> None:
    found = decode(LutRecord(2, axis, 0, bytes([10, 20, 30])), channel_axis=1)
    np.testing.assert_array_equal(found, [[10, 20, 30], [30, 20, 10]])


def test_a_stride_moves_to_the_next_table_with_every_channel() -> None:
    values = bytes(range(12))
    rows = decode(LutRecord(2, 0, 4, values), channel_axis=0)
    np.testing.assert_array_equal(rows, [[0, 1, 2], [6, 5, 4]])
    columns = decode(LutRecord(2, 1, 4, values), channel_axis=1)
    np.testing.assert_array_equal(columns, [[0, 5, 10], [2, 5, 8]])


def test_values_of_wider_types_are_read_little_endian() -> None:
    values = struct.pack("<3f", 0.5, -1, 7)
    np.testing.assert_array_equal(
        decode(LutRecord(3, 0, 0, values), dtype="<f4"), [[0.5, -1, 7], [7, -1, 0.5]]
    )


@pytest.mark.parametrize(("axis", "shape"), [(0, (3, 7, 5)), (1, (3, 7, 5)), (2, (3, 7, 5))])
def test_blocks_decode_as_the_whole(
    axis: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(axis)
    codes = random.integers(0, 5, shape).astype(np.uint8)
    tables = random.integers(-128, 128, (shape[axis], 5)).astype(np.int8)
    expected = np.take_along_axis(
        tables, np.moveaxis(codes, axis, 0).reshape(shape[axis], -1).astype(np.intp), axis=1
    )
    record = LutRecord(3, axis, 5, tables.tobytes())
    for block in (8, 24, 1 << 17):
        monkeypatch.setattr(loader, "BLOCK", block)
        found = record.decode(pack_codes(codes, 3), shape, "i1", axis)
        np.testing.assert_array_equal(
            np.moveaxis(found, axis, 0).reshape(shape[axis], -1), expected
        )


@pytest.mark.parametrize("stride", [0, 32])
def test_decoding_takes_little_more_memory_than_its_result(stride: int) -> None:
    shape = (64, 1 << 17)
    record = LutRecord(5, 0, stride, bytes(64 * 32))
    packed = bytes(5 * shape[0] * shape[1] // 8)
    tracemalloc.start()
    found = record.decode(packed, shape, "i1", 0)
    taken = tracemalloc.get_traced_memory()[1] - found.nbytes
    tracemalloc.stop()
    assert taken < 64 * loader.BLOCK


def test_an_index_beyond_the_table_is_refused() -> None:
    with pytest.raises(FormatError, match="an index names value 2 of 2; the file is damaged"):
        decode(LutRecord(2, 0, 0, bytes(2)))


def tensors_of(model: Model) -> list[Any]:
    return [constant(model, tensor) for tensor in model.subgraphs[0].tensors]


@pytest.mark.parametrize("clusters", [2, 16])
def test_the_expanded_file_holds_the_dense_files_tensors(exported: Exported, clusters: int) -> None:
    files = exported("kernels", clusters)
    assert len(files.palette) < len(files.dense)
    expanded, dense = read_model(expand(files.palette)), read_model(files.dense)
    for ours, theirs in zip(tensors_of(expanded), tensors_of(dense), strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs)


def test_the_expanded_file_has_the_dense_files_operators(exported: Exported) -> None:
    files = exported("kernels", 16)
    for data in (expand(files.palette), runnable(files.palette)):
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        assert not [c for c in model.operatorCodes if c.customCode]
        dense = schema.ModelT.InitFromPackedBuf(files.dense, 0)
        codes = [
            [m.operatorCodes[op.opcodeIndex].builtinCode for op in m.subgraphs[0].operators]
            for m in (model, dense)
        ]
        assert codes[0] == codes[1]


def test_a_file_without_palettes_stays_as_it_is(exported: Exported) -> None:
    files = exported("small", 16)
    assert expand(files.stock) == files.stock
    assert expand(files.dense) == files.dense
    assert expand(expand(files.palette)) == expand(files.palette)


def test_a_stock_file_already_runs(exported: Exported) -> None:
    stock = exported("small", 16).stock
    assert runnable(stock) == stock


def test_runnable_states_the_scales_of_every_bias(exported: Exported) -> None:
    data = runnable(exported("kernels", 16).palette)
    graph = schema.ModelT.InitFromPackedBuf(data, 0).subgraphs[0]
    stated = 0
    for op in graph.operators:
        places = {3: (0, 1, 2), 4: (0, 1, 2), 9: (0, 1, 2), 67: (2, 1, 3)}
        code = read_model(data).operator_codes[op.opcodeIndex].code
        if code not in places:
            continue
        entry, weights, bias = (graph.tensors[op.inputs[n]].quantization for n in places[code])
        expected = np.float32(entry.scale[0]) * np.asarray(weights.scale, np.float32)
        np.testing.assert_array_equal(np.asarray(bias.scale, np.float32), expected)
        np.testing.assert_array_equal(bias.zeroPoint, np.zeros(len(expected)))
        stated += 1
    assert stated == 4


@pytest.mark.parametrize("scale", [np.inf, np.nan, 3e38])
def test_scales_whose_products_are_no_numbers_are_refused(exported: Exported, scale: float) -> None:
    model = read_model(exported("small", 4).palette)
    graph = model.subgraphs[0]
    tensors = tuple(
        replace(tensor, quantization=replace(given, scale=np.full_like(given.scale, scale)))
        if (given := tensor.quantization) is not None and given.scale is not None
        else tensor
        for tensor in graph.tensors
    )
    model = replace(model, subgraphs=(replace(graph, tensors=tensors),))
    with pytest.raises(
        FormatError, match=r"scales of tensors \d+ and \d+ must give finite products"
    ):
        runnable(write_model(model))


def test_buffers_of_the_expanded_file_lie_on_16_byte_borders(exported: Exported) -> None:
    data = runnable(exported("kernels", 4).palette)
    model = schema.Model.GetRootAs(data)
    checked = 0
    for number in range(model.BuffersLength()):
        buffer = model.Buffers(number)
        if buffer.DataLength() > 0:
            table = buffer._tab
            assert table.Vector(table.Offset(4)) % 16 == 0
            checked += 1
    assert checked > 8


def test_load_reads_a_file(exported: Exported, tmp_path: Path) -> None:
    data = exported("small", 4).palette
    (tmp_path / "m.tflite").write_bytes(data)
    assert load(tmp_path / "m.tflite") == runnable(data)


def forbidden(data: bytes) -> bytes:
    raise AssertionError("the file was expanded again")


@pytest.fixture
def model(exported: Exported, tmp_path: Path) -> Path:
    """A palette file."""
    path = tmp_path / "m.tflite"
    path.write_bytes(exported("small", 4).palette)
    return path


def entry_of(cache: Path) -> Path:
    """The one file of a cache."""
    (entry,) = cache.iterdir()
    return entry


def test_what_was_expanded_is_kept_and_read_again(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "new" / "cache"
    expected = runnable(model.read_bytes())
    assert load(model, cache) == expected
    monkeypatch.setattr(loader, "runnable", forbidden)
    assert load(model, str(cache)) == expected


def test_another_file_or_version_is_not_taken_for_it(
    exported: Exported, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    load(model, cache)
    model.write_bytes(exported("small", 16).palette)
    assert load(model, cache) == runnable(model.read_bytes())
    monkeypatch.setattr(loader, "CACHE_VERSION", loader.CACHE_VERSION + 1)
    assert load(model, cache) == runnable(model.read_bytes())
    assert len(list(cache.iterdir())) == 3


def test_a_plain_file_needs_no_cache(exported: Exported, model: Path, tmp_path: Path) -> None:
    model.write_bytes(exported("small", 4).stock)
    assert load(model, tmp_path / "cache") == model.read_bytes()
    assert not list((tmp_path / "cache").iterdir())


def cut(entry: bytes) -> bytes:
    return entry[:-1]


def flipped(entry: bytes) -> bytes:
    return entry[:100] + bytes([entry[100] ^ 1]) + entry[101:]


def emptied(entry: bytes) -> bytes:
    return b""


def of_another_model(entry: bytes) -> bytes:
    """Whole in itself, but made for another file."""
    data = entry[:-32]
    return data + loader._digest(bytes(32), data)


@pytest.mark.parametrize("damage", [cut, flipped, emptied, of_another_model])
def test_a_damaged_entry_is_expanded_anew(
    damage: Callable[[bytes], bytes], model: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    expected = load(model, cache)
    entry = entry_of(cache)
    sound = entry.read_bytes()
    entry.write_bytes(damage(sound))
    assert load(model, cache) == expected
    assert entry.read_bytes() == sound


@pytest.mark.parametrize("what", ["folder", "entry"])
def test_what_others_can_write_is_not_run(what: str, model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = load(model, cache)
    key = bytes.fromhex(entry_of(cache).stem)
    hostile = b"hostile"
    entry_of(cache).write_bytes(hostile + loader._digest(key, hostile))
    (cache if what == "folder" else entry_of(cache)).chmod(0o777)
    with pytest.warns(RuntimeWarning, match="must belong to this user and be writable by no one"):
        assert load(model, cache) == expected


def test_a_link_in_the_place_of_an_entry_is_not_followed(model: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = load(model, cache)
    entry = entry_of(cache)
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    with pytest.warns(RuntimeWarning, match="the model is not cached"):
        assert load(model, cache) == expected


def test_a_folder_that_cannot_be_written_does_not_hinder(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = runnable(model.read_bytes())
    (tmp_path / "file").write_bytes(b"")
    with pytest.warns(RuntimeWarning, match="the model is not cached"):
        assert load(model, tmp_path / "file" / "cache") == expected
    monkeypatch.setattr("tempfile.mkstemp", refused)
    with pytest.warns(RuntimeWarning, match="Read-only file system"):
        assert load(model, tmp_path / "cache") == expected


def refused(*_: object, **__: object) -> Any:
    raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_an_entry_is_written_whole_or_not_at_all(
    call: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"os.{call}", refused)
    with pytest.warns(RuntimeWarning, match="the model is not cached"):
        load(model, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_a_damaged_file_is_refused_with_a_cache_as_without(model: Path, tmp_path: Path) -> None:
    model.write_bytes(model.read_bytes()[:200])
    with pytest.raises(FormatError):
        load(model, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


def test_the_loader_alone_expands_a_file_on_a_device(exported: Exported, tmp_path: Path) -> None:
    data = exported("small", 4).palette
    (tmp_path / "m.tflite").write_bytes(data)
    shutil.copy(loader.__file__, tmp_path / "loader.py")
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import loader
open(sys.argv[1] + "/expanded", "wb").write(loader.load(sys.argv[1] + "/m.tflite"))
try:
    loader.expand(b"no such file")
except ValueError as error:
    print(error)
heavy = {"edgepalette", "tensorflow", "keras"} & {name.split(".")[0] for name in sys.modules}
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "carries the identifier TFL3" in done.stdout
    assert (tmp_path / "expanded").read_bytes() == runnable(data)


def test_another_format_is_refused() -> None:
    with pytest.raises(FormatError, match="carries the identifier TFL3, got b'ONNX'"):
        expand(b"\x08\x00\x00\x00ONNX" + bytes(40))


def with_decode(exported: Exported, **changed: Any) -> bytes:
    """A palette file of one DECODE, fields of whose encoding are changed."""
    model = read_model(exported("small", 4).dense)
    graph = model.subgraphs[0]
    number, values = max(
        ((n, v) for n, v in enumerate(tensors_of(model)) if v is not None and v.ndim == 2),
        key=lambda pair: pair[1].size,
    )
    table, codes = np.unique(values, return_inverse=True)
    record = replace(LutRecord(2, 0, 0, table.tobytes()), **changed.pop("record", {}))
    encoding = Encoding(
        number, record, pack_codes(codes.astype(np.uint8), 2), len(table), values.nbytes
    )
    encoding = replace(encoding, **changed.pop("encoding", {}))
    model = insert_decodes(model, [encoding])
    if "shape" in changed:
        graph = model.subgraphs[0]
        tensors = list(graph.tensors)
        tensors[number] = replace(tensors[number], shape=np.array(changed["shape"], np.int32))
        model = replace(model, subgraphs=(replace(graph, tensors=tuple(tensors)),))
    return write_model(model)


def test_the_example_of_the_next_tests_is_sound(exported: Exported) -> None:
    expanded, dense = expand(with_decode(exported)), exported("small", 4).dense
    for ours, theirs in zip(
        tensors_of(read_model(expanded)), tensors_of(read_model(dense)), strict=True
    ):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"encoding": {"packed": bytes(5)}}, "indices of 2 bits need .* bytes, got 5"),
        ({"record": {"values": b"\x01\x02"}}, "an index names value 3 of 2"),
        ({"record": {"bits": 0}}, "needs 1-7 bits"),
        ({"record": {"stride": 4, "axis": 9}}, r"an index names value|names axis 9 of a tensor"),
        ({"shape": (2**20, 2**20)}, "expands to more than 64 times its size"),
        ({"shape": (-1, 24)}, r"cannot give a tensor of shape \(-1, 24\)"),
    ],
)
def test_a_damaged_palette_is_refused(
    exported: Exported, changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        expand(with_decode(exported, **changed))


def test_a_decode_of_another_type_is_refused(exported: Exported) -> None:
    model = read_model(with_decode(exported))
    buffers = tuple(
        Buffer(data=b"\x01" + b.data[1:]) if b.data and b.data[:2] == b"\x00\x01" else b
        for b in model.buffers
    )
    with pytest.raises(FormatError, match="DECODE must be of type 0"):
        expand(write_model(replace(model, buffers=buffers)))
