"""Damaged and hostile .tflite files: FormatError and nothing else, in bounded time."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable

import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgepalette.errors import FormatError
from edgepalette.export.loader import expand, runnable
from edgepalette.export.tflite import TfliteFiles
from edgepalette.export.tflite_schema import read_model

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
