# ruff: noqa: RUF009 # the calls make the fields
"""The flatbuffer engine on a schema of its own: round trip, sharing, and what it refuses."""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgepalette.errors import ExportError, FormatError
from edgepalette.export import flatbuffer as fb

IDENTIFIER = b"TEST"


@dataclass(frozen=True, eq=False)
class Leaf(fb.Table):
    number: int = fb.scalar(0, "i", -1)
    name: bytes | None = fb.text(1)
    values: NDArray[np.float32] | None = fb.numbers(2, "<f4")
    flag: int = fb.scalar(3, "?")
    wide: int = fb.scalar(4, "Q")
    small: int = fb.scalar(6, "b", 5)


@dataclass(frozen=True, eq=False)
class Tree(fb.Table):
    leaves: tuple[Leaf, ...] = fb.tables(0, lambda: Leaf)
    first: Leaf | None = fb.table(1, lambda: Leaf)
    data: bytes | None = fb.raw(2, 16)
    counts: NDArray[np.int64] | None = fb.numbers(3, "<i8")
    places: NDArray[np.int32] | None = fb.numbers(5, "<i4")
    plain: bytes | None = fb.raw(6)
    strange: fb.ForeignValue | None = fb.foreign(4, "strange things")


@dataclass(frozen=True, eq=False)
class Aligned(fb.Table):
    data: bytes | None = fb.raw(0, 16)


@dataclass(frozen=True, eq=False)
class Blocks(fb.Table):
    leaves: tuple[Leaf, ...] = fb.tables(0, lambda: Leaf)
    blocks: tuple[Aligned, ...] = fb.tables(1, lambda: Aligned)


@dataclass(frozen=True, eq=False)
class OldTree(fb.Table):
    """An older schema of Tree, without its last fields."""

    leaves: tuple[Leaf, ...] = fb.tables(0, lambda: Leaf)


def same(a: Any, b: Any) -> bool:
    """Equal field by field."""
    if isinstance(a, fb.Table):
        return type(a) is type(b) and all(
            same(getattr(a, name), getattr(b, name)) for name, _, _ in a.slots()
        )
    if isinstance(a, tuple):
        return (
            type(a) is type(b)
            and len(a) == len(b)
            and all(same(x, y) for x, y in zip(a, b, strict=True))
        )
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    return bool(a == b)


LEAVES = st.builds(
    Leaf,
    number=st.integers(-(2**31), 2**31 - 1),
    name=st.none() | st.binary(max_size=9),
    values=st.none() | hnp.arrays(np.float32, st.integers(0, 7)),
    flag=st.integers(0, 1),
    wide=st.integers(0, 2**64 - 1),
    small=st.integers(-128, 127),
)
TREES = st.builds(
    Tree,
    leaves=st.just(fb.EMPTY) | st.lists(LEAVES, max_size=5).map(tuple),
    first=st.none() | LEAVES,
    data=st.none() | st.binary(max_size=40),
    counts=st.none() | hnp.arrays(np.int64, st.integers(0, 5)),
    places=st.none() | hnp.arrays(np.int32, st.integers(0, 2), elements=st.integers(0, 1)),
    plain=st.none() | st.sampled_from([bytes(4), bytes([1, 0, 0, 0]), bytes(8)]),
)


@given(TREES)
@settings(deadline=None, max_examples=150)
def test_what_is_written_is_read_back(tree: Tree) -> None:
    data = fb.write(tree, IDENTIFIER)
    assert same(fb.read(Tree, data, IDENTIFIER), tree)


@given(TREES)
@settings(deadline=None, max_examples=50)
def test_writing_what_was_read_gives_the_same_bytes(tree: Tree) -> None:
    data = fb.write(tree, IDENTIFIER)
    assert fb.write(fb.read(Tree, data, IDENTIFIER), IDENTIFIER) == data


def test_bytes_of_a_small_file_are_as_the_layout_says() -> None:
    data = fb.write(Leaf(number=7, name=b"ab"), IDENTIFIER)
    root = struct.unpack_from("<I", data)[0]
    assert data[4:8] == IDENTIFIER
    vtable = root - struct.unpack_from("<i", data, root)[0]
    size, inline, number, name = struct.unpack_from("<4H", data, vtable)
    assert (size, inline) == (8, 12)
    assert struct.unpack_from("<i", data, root + number)[0] == 7
    text = root + name + struct.unpack_from("<I", data, root + name)[0]
    assert data[text : text + 7] == b"\x02\x00\x00\x00ab\x00"


def test_defaults_take_no_bytes() -> None:
    assert len(fb.write(Leaf(), IDENTIFIER)) < len(fb.write(Leaf(number=0), IDENTIFIER))
    assert fb.read(Leaf, fb.write(Leaf(), IDENTIFIER), IDENTIFIER).number == -1


def test_equal_vectors_and_equal_tables_are_written_once_and_read_as_one_object() -> None:
    values = np.arange(500, dtype=np.float32)
    one = fb.write(Tree(leaves=(Leaf(values=values),)), IDENTIFIER)
    tree = Tree(leaves=tuple(Leaf(values=values.copy()) for _ in range(10)))
    ten = fb.write(tree, IDENTIFIER)
    assert len(ten) == len(one) + 9 * 4
    leaves = fb.read(Tree, ten, IDENTIFIER).leaves
    assert len({id(leaf) for leaf in leaves}) == 1
    other = fb.write(Tree(leaves=(Leaf(values=values), Leaf(values=values, number=3))), IDENTIFIER)
    assert len(other) < len(one) + values.nbytes // 2


def test_equal_bytes_of_elements_of_another_size_are_another_vector() -> None:
    tree = Tree(places=np.array([1], np.int32), plain=bytes([1, 0, 0, 0]))
    assert same(fb.read(Tree, fb.write(tree, IDENTIFIER), IDENTIFIER), tree)


def test_an_empty_vector_of_tables_is_kept_and_none_is_made() -> None:
    for leaves in ((), fb.EMPTY):
        data = fb.write(Tree(leaves=leaves), IDENTIFIER)
        assert fb.read(Tree, data, IDENTIFIER).leaves is leaves


@dataclass(frozen=True, eq=False)
class Choice(fb.Table):
    kind: int = fb.scalar(0, "B")
    options: fb.OpaqueTable | None = fb.opaque(
        1, "kind", lambda kind: {0: kind} if kind < 5 else {}
    )


@pytest.mark.parametrize("before", range(8))
def test_fields_of_an_unknown_table_keep_their_width_wherever_the_table_lies(before: int) -> None:
    builder = flatbuffers.Builder()
    if before:
        builder.CreateByteVector(bytes(before))
    builder.StartObject(3)
    builder.PrependInt64Slot(0, 2**40 + 7, 0)
    builder.PrependInt64Slot(1, -5, 0)
    options = builder.EndObject()
    builder.StartObject(2)
    builder.PrependUOffsetTRelativeSlot(1, options, 0)
    builder.PrependUint8Slot(0, 9, 0)
    builder.Finish(builder.EndObject(), file_identifier=IDENTIFIER)
    choice = fb.read(Choice, bytes(builder.Output()), IDENTIFIER)
    choice = fb.read(Choice, fb.write(choice, IDENTIFIER), IDENTIFIER)
    assert choice.options is not None
    found = {slot: int.from_bytes(data, "little") for slot, data in choice.options.fields}
    assert found == {0: 2**40 + 7, 1: 2**64 - 5}


def test_strings_of_an_unknown_table_end_with_a_zero() -> None:
    options = fb.OpaqueTable((), ((0, 1, b"abcd"),))
    data = fb.write(Choice(kind=1, options=options), IDENTIFIER)
    assert b"\x04\0\0\0abcd\0" in data
    found = fb.read(Choice, data, IDENTIFIER).options
    assert found == options


def test_aligned_bytes_lie_on_their_border() -> None:
    for length in range(20):
        data = fb.write(
            Tree(data=b"\xaa" * length + b"mark", leaves=(Leaf(name=b"x" * length),)), IDENTIFIER
        )
        assert data.index(b"\xaa" * length + b"mark") % 16 == 0


def test_small_vectors_take_the_gap_before_aligned_bytes() -> None:
    leaves = [Leaf(values=np.full(count, count, np.float32)) for count in (1, 2, 3)]
    blocks = [Aligned(data=bytes([number]) * 32) for number in range(4)]

    # 12 bytes lie between the count of one block and the bytes of the one before: a vector of two numbers fits
    data = fb.write(Blocks(leaves=tuple(leaves), blocks=tuple(blocks)), IDENTIFIER)
    between = sorted(data.index(block.data) for block in blocks if block.data)
    second = data.index(np.full(2, 2, np.float32).tobytes())
    assert any(start + 32 < second < after for start, after in itertools.pairwise(between))
    assert same(
        fb.read(Blocks, data, IDENTIFIER), Blocks(leaves=tuple(leaves), blocks=tuple(blocks))
    )


def test_another_identifier_is_refused() -> None:
    data = fb.write(Leaf(), IDENTIFIER)
    with pytest.raises(
        FormatError, match=r"must carry the identifier TFL3, got b'TEST' in .* another format"
    ):
        fb.read(Leaf, data, b"TFL3")
    with pytest.raises(FormatError, match="got b'' in 3 bytes"):
        fb.read(Leaf, b"abc", IDENTIFIER)


def test_a_field_of_a_newer_schema_is_refused_rather_than_dropped() -> None:
    data = fb.write(Tree(data=b"abc"), IDENTIFIER)
    with pytest.raises(FormatError, match=r"OldTree has a field number 2 .* a newer schema"):
        fb.read(OldTree, data, IDENTIFIER)


def test_a_foreign_field_is_noticed_on_reading_and_refused_on_writing() -> None:
    builder = flatbuffers.Builder()
    text = builder.CreateString("anything")
    builder.StartObject(5)
    builder.PrependUOffsetTRelativeSlot(4, text, 0)
    builder.Finish(builder.EndObject(), file_identifier=IDENTIFIER)
    tree = fb.read(Tree, bytes(builder.Output()), IDENTIFIER)
    assert tree.strange == fb.ForeignValue("strange things")
    with pytest.raises(ExportError, match="holds strange things, which cannot be kept"):
        fb.write(tree, IDENTIFIER)


def test_parts_that_overlap_are_refused_before_they_are_paid_for() -> None:
    """A dozen names inside one another: read in all, they exceed the file."""

    def file(first: int, step: int) -> bytes:
        builder = flatbuffers.Builder()
        # whatever place of it is read as a vector, it is 7,000 bytes long
        filler = builder.CreateByteVector(struct.pack("<I", 7000) * 2500)
        offsets = []
        for number in range(12):
            builder.StartObject(2)
            builder.PrependUOffsetTRelativeSlot(1, filler - first - step * number, 0)
            offsets.append(builder.EndObject())
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        leaves = builder.EndVector()
        builder.StartObject(1)
        builder.PrependUOffsetTRelativeSlot(0, leaves, 0)
        builder.Finish(builder.EndObject(), file_identifier=IDENTIFIER)
        return bytes(builder.Output())

    honest = fb.read(Tree, file(first=0, step=0), IDENTIFIER)
    assert {len(leaf.name or b"") for leaf in honest.leaves} == {10000}
    with pytest.raises(FormatError, match="parts overlap"):
        fb.read(Tree, file(first=4, step=4), IDENTIFIER)


def test_a_vector_past_the_end_is_refused() -> None:
    data = bytearray(fb.write(Leaf(values=np.ones(4, np.float32)), IDENTIFIER))
    place = bytes(data).index(struct.pack("<I4f", 4, 1, 1, 1, 1))
    struct.pack_into("<I", data, place, 2**31)
    with pytest.raises(FormatError, match=r"vector of 2147483648 elements .* passes its end"):
        fb.read(Leaf, bytes(data), IDENTIFIER)


@dataclass(frozen=True, eq=False)
class Mixed(fb.Table):
    before: NDArray[np.float32] | None = fb.numbers(0, "<f4")
    name: bytes | None = fb.text(1)
    after: NDArray[np.float32] | None = fb.numbers(2, "<f4")


@pytest.mark.parametrize("slots", [(0, 1), (1, 2)])
def test_one_vector_read_as_text_and_as_numbers_is_refused_or_read_rightly_as_both(
    slots: tuple[int, int],
) -> None:
    builder = flatbuffers.Builder()
    text = builder.CreateString("abc".ljust(15))
    builder.StartObject(3)
    for slot in slots:
        builder.PrependUOffsetTRelativeSlot(slot, text, 0)
    builder.Finish(builder.EndObject(), file_identifier=IDENTIFIER)
    # room for fifteen floats as well
    data = bytes(builder.Output()) + bytes(60)
    try:
        mixed = fb.read(Mixed, data, IDENTIFIER)
    except FormatError:
        return
    assert mixed.name == b"abc".ljust(15)
    values = mixed.after if mixed.before is None else mixed.before
    assert values is not None
    assert len(values) == 15


def test_a_table_that_contains_itself_is_refused() -> None:
    @dataclass(frozen=True, eq=False)
    class Node(fb.Table):
        inner: Any = fb.table(0, lambda: Node)

    # root at 12; its vtable at 8; its only field points back at the root: offset 2^32 - 4
    data = struct.pack("<I4s", 16, IDENTIFIER)
    data += struct.pack("<3H2x", 6, 8, 4) + struct.pack("<iI", 8, 2**32 - 4)
    with pytest.raises(FormatError):
        fb.read(Node, data, IDENTIFIER)
