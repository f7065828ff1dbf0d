"""FlatBuffers tables as frozen dataclasses: one engine reads with every bound checked, one writes lean.

A schema is a set of dataclasses derived from `Table`, each field made by one of the functions below with its slot
(the field's number in the schema). Layout (flatbuffers.dev, "internals"), little-endian:

    file     uint32 offset of the root table, 4-byte file identifier
    table    int32 distance back to its vtable, then the fields inline
    vtable   uint16 its size, uint16 the table's inline size, uint16 per slot: offset in the table, 0 = absent
    vector   uint32 count, then the elements; a string is a byte vector with a zero after it
    offset   uint32, forward from its own position

A reference read twice is one object; equal vectors and equal tables are written once. Vectors that ask for borders wider
than a count leave gaps before them, which small vectors fill.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

import flatbuffers
import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError, FormatError

T = TypeVar("T", bound="Table")

MAX_VTABLE = 256
# what a file would take with nothing shared, as a multiple of its size: what reads it does that much work
MAX_SHARING = 16
_POWERS = (8, 4, 2, 1)
COUNT_BYTES = 4
# bytes of a gap that may stay empty in another order of a file's parts, and the size of files up to which it is tried:
# what it saves is a few dozen bytes, whatever the size
SPARE, WORTH_ANOTHER_ORDER = 4, 1 << 20


@dataclass(frozen=True)
class Scalar:
    """An inline number: `code` is its struct letter."""

    code: str
    default: int


@dataclass(frozen=True)
class Bytes:
    """A byte vector, a string if `text`; `alignment` of its first byte."""

    text: bool
    alignment: int


@dataclass(frozen=True)
class Numbers:
    """A vector of numbers of one numpy type."""

    dtype: str


@dataclass(frozen=True)
class Nested:
    """A table, or a vector of tables; `of` gives the class late, so that tables may be declared in any order."""

    of: Callable[[], type[Table]]
    vector: bool


@dataclass(frozen=True)
class Opaque:
    """A table kept field by field without knowing its schema, see `OpaqueTable`.

    vectors_of: element size of each slot that is an offset to a vector, given the union's type.
    tag: name of the field that holds the union's type.
    """

    tag: str
    vectors_of: Callable[[int], dict[int, int]]


@dataclass(frozen=True)
class Foreign:
    """A field this program does not understand: noticed on reading, refused on writing."""

    meaning: str


Kind = Scalar | Bytes | Numbers | Nested | Opaque | Foreign


@dataclass(frozen=True)
class ForeignValue:
    """Stands for a field that is present but not understood."""

    meaning: str


@dataclass(frozen=True)
class OpaqueTable:
    """A table by slots: `fields` (slot, inline bytes), `vectors` (slot, element size, vector bytes)."""

    fields: tuple[tuple[int, bytes], ...]
    vectors: tuple[tuple[int, int, bytes], ...]


class _Empty(tuple[Any, ...]):
    __slots__ = ()


EMPTY = _Empty()
"""A vector of tables without entries that stands in the file all the same."""


def scalar(slot: int, code: str, default: int = 0) -> Any:
    """A number field, `code` as in struct."""
    return dataclasses.field(
        default=default, metadata={"slot": slot, "kind": Scalar(code, default)}
    )


def text(slot: int) -> Any:
    """A string field, kept as bytes."""
    return _optional(slot, Bytes(text=True, alignment=4))


def raw(slot: int, alignment: int = 4) -> Any:
    """A byte-vector field."""
    return _optional(slot, Bytes(text=False, alignment=alignment))


def numbers(slot: int, dtype: str) -> Any:
    """A vector of numbers."""
    return _optional(slot, Numbers(dtype))


def table(slot: int, of: Callable[[], type[Table]]) -> Any:
    """A table field."""
    return _optional(slot, Nested(of, vector=False))


def tables(slot: int, of: Callable[[], type[Table]]) -> Any:
    """A vector of tables, read as a tuple: () if there is none, EMPTY if it has no entries."""
    return dataclasses.field(default=(), metadata={"slot": slot, "kind": Nested(of, vector=True)})


def opaque(slot: int, tag: str, vectors_of: Callable[[int], dict[int, int]]) -> Any:
    """A union of scalar tables kept as they are."""
    return _optional(slot, Opaque(tag, vectors_of))


def foreign(slot: int, meaning: str) -> Any:
    """A field that cannot be kept."""
    return _optional(slot, Foreign(meaning))


def _optional(slot: int, kind: Kind) -> Any:
    return dataclasses.field(default=None, metadata={"slot": slot, "kind": kind})


@dataclass(frozen=True, eq=False)
class Table:
    """Base of every schema class: frozen dataclasses, compared by identity."""

    @classmethod
    def slots(cls) -> tuple[tuple[str, int, Kind], ...]:
        """(field name, slot, kind) of every field."""
        return _slots(cls)  # type: ignore[arg-type] # mypy looks at the instances' __hash__


@cache
def _slots(cls: type[Table]) -> tuple[tuple[str, int, Kind], ...]:
    return tuple(
        (field.name, field.metadata["slot"], field.metadata["kind"])
        for field in dataclasses.fields(cls)
    )


@dataclass(frozen=True)
class Extent:
    """Bytes [start, stop) of a file that hold a table itself (field ""), or what a field of it points to."""

    start: int
    stop: int
    table: Table
    field: str


def read(root: type[T], data: bytes, identifier: bytes) -> T:
    """The root table of a file. Raises FormatError for anything but a well-formed file of that identifier.

    Takes at most 256 times the file's size of memory, and time by its size.
    """
    return read_extents(root, data, identifier)[0]


def read_extents(root: type[T], data: bytes, identifier: bytes) -> tuple[T, list[Extent]]:
    """As `read`, and where in the file everything lies; what two fields share is the first one's."""
    if len(data) < 8 or data[4:8] != identifier:
        raise FormatError(
            f"the file must carry the identifier {identifier.decode()}, got {data[4:8]!r} "
            f"in {len(data)} bytes; it is another format or damaged"
        )
    try:
        reader = _Reader(data)
        return reader.root(root), reader.extents
    except (struct.error, IndexError, RecursionError) as error:
        raise FormatError(f"the file points outside itself ({error}); it is damaged") from None


class _Reader:
    """Reads with bounds checked and work bounded: no byte of the file is paid for twice."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.seen: dict[tuple[Any, int], Any] = {}
        # an honest file does not overlap, so what is read in all cannot exceed the file
        self.budget = len(data)
        self.extents: list[Extent] = []
        # of the table being read: (field, start, stop), and the field
        self.placed: list[tuple[str, int, int]] = []
        self.field = ""
        # bytes of everything named so far, as often as it is named
        self.named = 0
        self.costs: dict[tuple[Any, int], int] = {}

    def root(self, cls: type[T]) -> T:
        table = self._table(cls, self._number("I", 0))
        # the offset of the root and the identifier
        self.extents.append(Extent(0, 8, table, ""))
        return table

    def _number(self, code: str, position: int) -> int:
        if position < 0:
            raise FormatError(f"the file has a field at byte {position}; it is damaged")
        return int(struct.unpack_from(f"<{code}", self.data, position)[0])

    def _follow(self, position: int) -> int:
        return position + self._number("I", position)

    def _vtable(self, position: int) -> tuple[int, int, list[int]]:
        """(vtable position, table's inline size, offset per slot)."""
        vtable = position - self._number("i", position)
        size, inline = self._number("H", vtable), self._number("H", vtable + 2)
        if size < 4 or size % 2 or size > MAX_VTABLE or position + inline > len(self.data):
            raise FormatError(f"the file has a damaged table at byte {position}")
        offsets = list(struct.unpack_from(f"<{(size - 4) // 2}H", self.data, vtable + 4))
        present = [offset for offset in offsets if offset]
        # two fields at one place would be a table larger than its bytes
        if any(offset >= max(inline, 4) for offset in present) or len({*present}) < len(present):
            raise FormatError(f"the file has a damaged table at byte {position}")
        self.placed.append((self.field, vtable, vtable + size))
        self.placed.append((self.field, position, position + inline))
        return vtable, inline, offsets

    def _spend(self, size: int) -> None:
        self.budget -= size
        if self.budget < 0:
            raise FormatError("the file's parts overlap; it is damaged")

    def _name(self, size: int) -> None:
        self.named += size
        if self.named > MAX_SHARING * len(self.data):
            raise FormatError(
                f"the file must be at most {MAX_SHARING} times its size with nothing shared, got more; it is damaged"
            )

    def _table(self, cls: type[T], position: int) -> T:
        key = (cls, position)
        if key in self.seen:
            self._name(self.costs[key])
            found: T = self.seen[key]
            return found
        outside, self.placed, self.field = self.placed, [], ""
        before = self.named
        _, inline, offsets = self._vtable(position)
        self._spend(max(inline, 4))
        self._name(max(inline, 4))
        values: dict[str, Any] = {}
        known = set()
        for name, slot, kind in cls.slots():
            known.add(slot)
            if slot < len(offsets) and offsets[slot]:
                self.field = name
                values[name] = self._field(kind, position + offsets[slot], values)
        strange = [s for s, offset in enumerate(offsets) if offset and s not in known]
        if strange:
            raise FormatError(
                f"the file's {cls.__name__} has a field number {strange[0]} this program does not know; "
                "it was written for a newer schema"
            )
        self.costs[key] = self.named - before
        self.seen[key] = result = cls(**values)
        self.extents += [Extent(start, stop, result, name) for name, start, stop in self.placed]
        self.placed = outside
        return result

    def _field(self, kind: Kind, position: int, values: dict[str, Any]) -> Any:
        match kind:
            case Scalar(code):
                return self._number(code, position)
            case Bytes():
                return self._vector(self._follow(position), 1)
            case Numbers(dtype):
                return self._numbers(dtype, self._follow(position))
            case Nested(of, vector):
                if not vector:
                    return self._table(of(), self._follow(position))
                start, count = self._extent(self._follow(position), 4)
                entries = (self._table(of(), self._follow(start + 4 * n)) for n in range(count))
                return tuple(entries) or EMPTY
            case Opaque(tag, vectors_of):
                return self._opaque(self._follow(position), vectors_of(values.get(tag, 0)))
            case Foreign(meaning):
                return ForeignValue(meaning)

    def _extent(self, position: int, size: int) -> tuple[int, int]:
        """(first element, count) of a vector that lies inside the file."""
        count = self._number("I", position)
        start = position + 4
        if start + count * size > len(self.data):
            raise FormatError(
                f"the file has a vector of {count} elements at byte {position} that passes its end; it is damaged"
            )
        self._name(count * size)
        if (position, size) not in self.seen:
            self.seen[position, size] = True
            self._spend(count * size)
            self.placed.append((self.field, position, start + count * size))
        return start, count

    def _vector(self, position: int, size: int) -> bytes:
        key = (f"bytes of {size}", position)
        start, count = self._extent(position, size)
        if key not in self.seen:
            self.seen[key] = self.data[start : start + count * size]
        found: bytes = self.seen[key]
        return found

    def _numbers(self, dtype: str, position: int) -> NDArray[Any]:
        key = (dtype, position)
        data = self._vector(position, np.dtype(dtype).itemsize)
        if key not in self.seen:
            self.seen[key] = np.frombuffer(data, dtype)
        found: NDArray[Any] = self.seen[key]
        return found

    def _opaque(self, position: int, vectors: dict[int, int]) -> OpaqueTable:
        _, inline, offsets = self._vtable(position)
        # the writer shares equal ones: many operators may have these options
        if ("opaque", position) not in self.seen:
            self.seen["opaque", position] = True
            self._spend(max(inline, 4))
        self._name(max(inline, 4))
        ends = sorted({*(offset for offset in offsets if offset), inline})
        fields, found = [], []
        for slot, offset in enumerate(offsets):
            if not offset:
                continue
            if slot in vectors:
                size = vectors[slot]
                found.append((slot, size, self._vector(self._follow(position + offset), size)))
                continue
            gap = ends[ends.index(offset) + 1] - offset
            start = position + offset
            # fields lie on multiples of their width in the file; a table need not
            width = next(power for power in _POWERS if power <= gap and start % power == 0)
            fields.append((slot, self.data[start : start + width]))
        return OpaqueTable(tuple(fields), tuple(found))


def write(root: Table, identifier: bytes) -> bytes:
    """The file of a root table; equal vectors and tables share their bytes. Of a small one the shorter of two orders.

    Raises ExportError for a table that holds a field this program does not understand.
    """
    file = _Writer(spare=0).file(root, identifier)
    if len(file) > WORTH_ANOTHER_ORDER:
        return file
    return min(file, _Writer(SPARE).file(root, identifier), key=len)


@dataclass(frozen=True)
class _Vector:
    """What a vector is written from; equal ones are one. size: of an element."""

    data: bytes
    size: int
    alignment: int
    text: bool

    @property
    def room(self) -> int:
        """Bytes with its count, up to the next one's border."""
        length = COUNT_BYTES + len(self.data) + self.text
        return length + -length % COUNT_BYTES


def _vector_of(kind: Bytes | Numbers, field: Any) -> _Vector:
    if isinstance(kind, Bytes):
        return _Vector(bytes(field), 1, kind.alignment, kind.text)
    array = np.ascontiguousarray(field, kind.dtype)
    return _Vector(array.tobytes(), array.itemsize, max(COUNT_BYTES, array.itemsize), text=False)


def _vectors(value: Table, seen: set[Table]) -> Iterator[_Vector]:
    """Vectors of bytes and numbers in the tables below, in the order they are met."""
    if value in seen:
        return
    seen.add(value)
    for name, _, kind in type(value).slots():
        field = getattr(value, name)
        if field is None:
            continue
        if isinstance(kind, Bytes | Numbers):
            yield _vector_of(kind, field)
        elif isinstance(kind, Nested):
            for entry in field if kind.vector else (field,):
                yield from _vectors(entry, seen)


class _Writer:
    def __init__(self, spare: int) -> None:
        self.spare = spare
        self.builder = flatbuffers.Builder(1 << 16)
        self.vectors: dict[_Vector, int] = {}
        self.tables: dict[Any, int] = {}
        # a table named again is the same object: it is not gone through again
        self.written: dict[Table, int] = {}

    def file(self, root: Table, identifier: bytes) -> bytes:
        self._fill_gaps([*dict.fromkeys(_vectors(root, set()))])
        self.builder.Finish(self._table(root), file_identifier=identifier)
        return bytes(self.builder.Output())

    def _fill_gaps(self, vectors: list[_Vector]) -> None:
        """Write what asks for wide borders behind small vectors that take the gap before it, all but `spare` bytes.

        Where none do it is left for its table, which takes a part.
        """
        small: dict[int, list[_Vector]] = {}
        for vector in reversed(vectors):
            if vector.alignment <= COUNT_BYTES:
                small.setdefault(vector.room, []).append(vector)
        for vector in vectors:
            if vector.alignment <= COUNT_BYTES:
                continue
            # the file grows from its end: what is written first lies behind
            gap = -(self.builder.Offset() + len(vector.data)) % vector.alignment
            fillers: list[_Vector] = []
            for size in range(gap, 0, -1):
                while size <= gap and small.get(size):
                    fillers.append(small[size].pop())
                    gap -= size
            if gap > self.spare:
                for filler in reversed(fillers):
                    small[filler.room].append(filler)
                continue
            for part in (*fillers, vector):
                self._vector(part)

    def _table(self, value: Table) -> int:
        if value in self.written:
            return self.written[value]
        cells: list[tuple[int, str, int, int]] = []
        for name, slot, kind in type(value).slots():
            field = getattr(value, name)
            if field is None or (type(field) is tuple and not field):
                continue
            if isinstance(kind, Scalar):
                cells.append((slot, kind.code, int(field), kind.default))
            else:
                cells.append((slot, "offset", self._offset(kind, field), 0))
        self.written[value] = offset = self._finish_table(tuple(cells))
        return offset

    def _finish_table(self, cells: tuple[tuple[int, str, int, int], ...]) -> int:
        if cells in self.tables:
            return self.tables[cells]
        builder = self.builder
        builder.StartObject(max((slot for slot, *_ in cells), default=-1) + 1)
        # widest first: no padding between the fields
        for slot, code, number, default in sorted(cells, key=lambda cell: -_width(cell[1])):
            if code == "offset":
                builder.PrependUOffsetTRelativeSlot(slot, number, 0)
            else:
                _PREPEND[code](builder, slot, number, default)
        offset = int(builder.EndObject())
        self.tables[cells] = offset
        return offset

    def _offset(self, kind: Kind, field: Any) -> int:
        match kind:
            case Bytes() | Numbers():
                return self._vector(_vector_of(kind, field))
            case Nested(_, vector):
                if not vector:
                    return self._table(field)
                return self._table_vector([self._table(entry) for entry in field])
            case Opaque():
                return self._opaque(field)
            case _:
                raise ExportError(
                    f"the file holds {getattr(field, 'meaning', 'a field')}, which cannot be kept; "
                    "it cannot be rewritten"
                )

    def _vector(self, vector: _Vector) -> int:
        if vector not in self.vectors:
            data, size, builder = vector.data, vector.size, self.builder
            if vector.text:
                self.vectors[vector] = int(builder.CreateString(data))
            else:
                builder.StartVector(size, len(data) // size, vector.alignment)
                builder.head = builder.head - len(data)
                builder.Bytes[builder.head : builder.head + len(data)] = data
                self.vectors[vector] = int(builder.EndVector())
        return self.vectors[vector]

    def _table_vector(self, offsets: list[int]) -> int:
        builder = self.builder
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    def _opaque(self, value: OpaqueTable) -> int:
        # a vector of bytes may be a string, whose readers look for the zero after it
        offsets = {
            slot: self._vector(_Vector(data, size, max(COUNT_BYTES, size), text=size == 1))
            for slot, size, data in value.vectors
        }
        key = (value.fields, tuple(offsets.items()))
        if key in self.tables:
            return self.tables[key]
        builder = self.builder
        slots = [slot for slot, _ in value.fields] + list(offsets)
        builder.StartObject(max(slots, default=-1) + 1)
        for slot, offset in offsets.items():
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        for slot, data in sorted(value.fields, key=lambda field: -len(field[1])):
            _PREPEND[_UNSIGNED[len(data)]](builder, slot, int.from_bytes(data, "little"), None)
        offset = int(builder.EndObject())
        self.tables[key] = offset
        return offset


_UNSIGNED = {1: "B", 2: "H", 4: "I", 8: "Q"}


def _width(code: str) -> int:
    return 4 if code == "offset" else struct.calcsize(code)


_PREPEND: dict[str, Callable[[Any, int, int, int | None], None]] = {
    "?": lambda builder, *cell: builder.PrependBoolSlot(*cell),
    "b": lambda builder, *cell: builder.PrependInt8Slot(*cell),
    "B": lambda builder, *cell: builder.PrependUint8Slot(*cell),
    "H": lambda builder, *cell: builder.PrependUint16Slot(*cell),
    "i": lambda builder, *cell: builder.PrependInt32Slot(*cell),
    "I": lambda builder, *cell: builder.PrependUint32Slot(*cell),
    "Q": lambda builder, *cell: builder.PrependUint64Slot(*cell),
}
