"""Load a palette .tflite on any TFLite runtime: expand it to a plain one in memory. One file, numpy and flatbuffers only.

    from loader import load
    interpreter = Interpreter(model_content=load("palette.tflite"))

A palette file stores a weight as packed indices and a value table, read by the custom operator TFLM_DECODE of
TensorFlow Lite Micro (decode type LUT; source: tflite-micro, tensorflow/lite/micro/compression/lut.py). Its second
input, the ancillary tensor, is

    byte 0      decode type, 0 = LUT            byte 1   header version, 1
    byte 4      LUT version, 1
    byte 5      high nibble: channel axis, 15 = one table for all; low 3 bits: index width, 1-7
    byte 6      stride: table entries from one channel's table to the next; 0 = all channels share one table
    bytes 2-3, 7-15   reserved, 0               from byte 16: values in the tensor's type

and its first the indices, most significant bit first, in the tensor's own order, zero-padded to a byte.

The expanded file is the palette file, kept whole at the end, behind new tables that point into it: nothing it holds
needs to be understood. DECODE operators are dropped and their outputs become constants. That takes the palette file,
at most three times the expanded one and a few MB of memory; a file that expands to more than 64 times its size is
refused before it does.
"""

from __future__ import annotations

import hashlib
import os
import struct
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
from numpy.typing import NDArray

try:
    from ..errors import FormatError
except ImportError:  # copied to a device, alone

    class FormatError(ValueError):  # type: ignore[no-redef] # the same name on a device
        """A file's bytes are not what its format requires."""


IDENTIFIER = b"TFL3"
DECODE_NAME = b"TFLM_DECODE"
HEADER_SIZE = 16
ONE_TABLE = 15
MAX_BITS = 7
MAX_STRIDE = 128
# a byte of packed indices gives at most 8 one-byte values, or 8 four-byte ones
MAX_EXPANSION = 64
# what is read in all, lists that are named again counted again: an honest file is read a few times over
MAX_READING = 64
# bytes of data that are as much work as a table of a list
TABLE_WORK = 64
# indices unpacked at a time, a multiple of 8: what decoding takes beside its result
BLOCK = 1 << 17
# raised whenever the same palette file is expanded to other bytes
CACHE_VERSION = 1
CACHE_SUFFIX = ".expanded"

# numpy types of the tensor types a palette may stand for, by their number in the schema
_TYPES = {0: "<f4", 1: "<f2", 2: "<i4", 3: "u1", 4: "<i8", 7: "<i2", 9: "i1"}
_INT32 = 2
# position of (input, weights, bias) among the inputs of the operators whose bias has a scale, by builtin code
_BIASED = {3: (0, 1, 2), 4: (0, 1, 2), 9: (0, 1, 2), 67: (2, 1, 3)}


def pack_codes(codes: NDArray[np.uint8], bits: int) -> bytes:
    """Indices below 2^bits as packed bytes, most significant bit first, zero-padded."""
    groups = _padded(codes.reshape(-1), 8)
    packed = np.zeros((len(groups), bits), np.uint8)
    for code, byte, shift in _places(bits):
        packed[:, byte] |= _shifted(groups[:, code], shift)
    return packed.tobytes()[: (codes.size * bits + 7) // 8]


def unpack_codes(packed: bytes | memoryview, bits: int, count: int) -> NDArray[np.uint8]:
    """The first `count` indices of `pack_codes`. Raises FormatError if there are fewer."""
    needed = _needed(packed, bits, count)
    groups = _padded(np.frombuffer(packed, np.uint8, needed), bits)
    codes = np.zeros((len(groups), 8), np.uint8)
    for code, byte, shift in _places(bits):
        codes[:, code] |= _shifted(groups[:, byte], -shift)
    codes &= (1 << bits) - 1
    return codes.reshape(-1)[:count]


def _needed(packed: bytes | memoryview, bits: int, count: int) -> int:
    needed = (count * bits + 7) // 8
    if len(packed) < needed:
        raise FormatError(f"{count} indices of {bits} bits need {needed} bytes, got {len(packed)}")
    return needed


def _places(bits: int) -> Iterator[tuple[int, int, int]]:
    """(code, byte, left shift that moves the code there) of 8 indices in `bits` bytes; some lie in two of them."""
    for code in range(8):
        end = (code + 1) * bits
        for byte in range(code * bits // 8, (end + 7) // 8):
            yield code, byte, 8 * (byte + 1) - end


def _shifted(column: NDArray[np.uint8], left: int) -> NDArray[np.uint8]:
    """What leaves the byte is lost."""
    return np.asarray(column << left if left >= 0 else column >> -left, np.uint8)


def _padded(values: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """(groups, width), zeros at the end."""
    return np.pad(values, (0, -len(values) % width)).reshape(-1, width)


@dataclass(frozen=True)
class LutRecord:
    """The ancillary tensor: how indices are read and the values they name."""

    bits: int
    axis: int
    stride: int
    values: bytes

    def to_bytes(self) -> bytes:
        """Header and value table(s)."""
        header = struct.pack("<4B3B9x", 0, 1, 0, 0, 1, self.axis << 4 | self.bits, self.stride)
        return header + self.values

    @classmethod
    def from_bytes(cls, data: bytes) -> LutRecord:
        """The record of an ancillary tensor. Raises FormatError for another decode type or version."""
        if len(data) < HEADER_SIZE:
            raise FormatError(f"a DECODE header has {HEADER_SIZE} bytes, got {len(data)}")
        decode_type, version, _, _, lut_version, packed, stride = struct.unpack_from("<7B", data)
        if (decode_type, version, lut_version) != (0, 1, 1):
            raise FormatError(
                "DECODE must be of type 0 (LUT), version 1, LUT version 1, "
                f"got {decode_type}, {version}, {lut_version}"
            )
        bits, axis = packed & 7, packed >> 4
        if not 1 <= bits <= MAX_BITS or stride > MAX_STRIDE:
            raise FormatError(
                f"DECODE needs 1-{MAX_BITS} bits and a stride up to {MAX_STRIDE}, got {bits} and {stride}"
            )
        return cls(bits, axis, stride, data[HEADER_SIZE:])

    def decode(
        self, packed: bytes | memoryview, shape: tuple[int, ...], dtype: str, channel_axis: int
    ) -> NDArray[Any]:
        """The dense tensor. channel_axis: whose tables follow each other when the stride is not 0."""
        itemsize = np.dtype(dtype).itemsize
        table = np.frombuffer(self.values[: len(self.values) // itemsize * itemsize], dtype)
        dense = np.empty(shape, dtype)
        values = dense.reshape(-1)
        _needed(packed, self.bits, values.size)
        rest = memoryview(packed)
        several = self.axis != ONE_TABLE and self.stride
        # elements from one channel to the next
        inner = int(np.prod(shape[channel_axis + 1 :], dtype=np.int64)) if several else 1
        for start in range(0, values.size, BLOCK):
            count = min(BLOCK, values.size - start)
            codes = unpack_codes(rest[start * self.bits // 8 :], self.bits, count)
            positions: NDArray[Any] = codes
            if several:
                channels = np.arange(start, start + count) // inner % shape[channel_axis]
                positions = codes + self.stride * channels
            if int(positions.max()) >= len(table):
                raise FormatError(
                    f"an index names value {int(positions.max())} of {len(table)}; the file is damaged"
                )
            values[start : start + count] = table[positions]
        return dense


def load(path: str | os.PathLike[str], cache: str | os.PathLike[str] | None = None) -> bytes:
    """A .tflite file, with palettes or without, as any TFLite runtime takes it and runs it fastest.

    cache: a folder where what was expanded is kept for the next time; it is made if it is missing. Whoever can write
    there can change what runs, so it must belong to this user or root and be writable by no one else. Where it cannot
    be used, a RuntimeWarning says why and the file is expanded as without it.
    """
    with open(path, "rb") as file:
        data = file.read()
    return runnable(data) if cache is None else _cached(data, os.fspath(cache))


def runnable(data: bytes) -> bytes:
    """The file's bytes with palettes expanded and bias scales stated (fast kernels ask for them)."""
    return _rebuild(data, bias_scales=True)


def expand(data: bytes) -> bytes:
    """The file's bytes with palettes expanded and everything else as it was.

    Takes at most 512 times the file's size of memory: a result of up to 64 times, and what making it takes.
    Raises FormatError for a file that is damaged or whose DECODE is of another kind.
    """
    return _rebuild(data, bias_scales=False)


def _rebuild(data: bytes, bias_scales: bool) -> bytes:
    try:
        return _Expansion(data, bias_scales).run()
    except (struct.error, ValueError, IndexError, OverflowError, MemoryError) as error:
        if isinstance(error, FormatError):
            raise
        raise FormatError(f"the file points outside itself ({error}); it is damaged") from None


def _cached(data: bytes, folder: str) -> bytes:
    """`runnable(data)`, kept in `folder` as a file named by the hash of `data` that ends in its own hash."""
    key = _digest(str(CACHE_VERSION).encode(), data)
    path = os.path.join(folder, key.hex() + CACHE_SUFFIX)
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        _check_trusted(os.stat(folder), folder)
        kept = _read_entry(path, key)
        if kept is not None:
            return kept
    except OSError as error:
        warnings.warn(f"the model is not cached: {error}", RuntimeWarning, stacklevel=3)
        return runnable(data)
    expanded = runnable(data)
    if expanded == data:
        return data
    try:
        _write_entry(path, expanded, _digest(key, expanded))
    except OSError as error:
        warnings.warn(f"the model is not cached: {error}", RuntimeWarning, stacklevel=3)
    return expanded


def _digest(key: bytes, data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=32, key=key).digest()


def _check_trusted(status: os.stat_result, path: str) -> None:
    """Raises OSError unless only this user and root can write there."""
    if not hasattr(os, "geteuid"):  # Windows has no such modes
        return
    if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
        raise OSError(f"{path} must belong to this user and be writable by no one else")


def _read_entry(path: str, key: bytes) -> bytes | None:
    """What `_write_entry` wrote, None if there is nothing or it is damaged. Raises OSError for a file of someone else's."""
    try:
        # a link would lead out of the folder that was checked
        file = os.open(
            path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        )
    except FileNotFoundError:
        return None
    with open(file, "rb") as opened:
        status = os.fstat(file)
        _check_trusted(status, path)
        data, digest = opened.read(max(0, status.st_size - 32)), opened.read(32)
    return data if digest == _digest(key, data) else None


def _write_entry(path: str, data: bytes, digest: bytes) -> None:
    """Write whole or not at all: a power cut leaves no half of it under its name."""
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), suffix=".part")
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.write(digest)
            file.flush()
            os.fsync(handle)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class _File:
    """Positions in a flatbuffer; every read stays inside it (struct raises otherwise)."""

    def __init__(self, data: bytes) -> None:
        if len(data) < 8 or data[4:8] != IDENTIFIER:
            raise FormatError(
                f"a .tflite file carries the identifier {IDENTIFIER.decode()}, got {data[4:8]!r}"
            )
        self.data = data
        self.budget = MAX_READING * len(data)

    def number(self, code: str, position: int) -> int:
        if position < 0:
            raise FormatError("the file points outside itself; it is damaged")
        return int(struct.unpack_from("<" + code, self.data, position)[0])

    def follow(self, position: int) -> int:
        return position + self.number("I", position)

    def field(self, table: int, slot: int) -> int:
        """Position of a field's inline part, 0 if absent."""
        vtable = table - self.number("i", table)
        if 4 + 2 * slot >= self.number("H", vtable):
            return 0
        offset = self.number("H", vtable + 4 + 2 * slot)
        return table + offset if offset else 0

    def scalar(self, table: int, slot: int, code: str) -> int:
        position = self.field(table, slot)
        return self.number(code, position) if position else 0

    def target(self, table: int, slot: int) -> int:
        """Position of what an offset field points to, 0 if absent."""
        position = self.field(table, slot)
        return self.follow(position) if position else 0

    def array(self, vector: int, dtype: str) -> NDArray[Any]:
        if not vector:
            return np.zeros(0, dtype)
        count = self.number("I", vector)
        if vector + 4 + count * np.dtype(dtype).itemsize > len(self.data):
            raise FormatError("the file has a vector that passes its end; it is damaged")
        self._spend(count * np.dtype(dtype).itemsize)
        return np.frombuffer(self.data, dtype, count, vector + 4)

    def tables(self, vector: int) -> list[int]:
        """Positions of a vector's tables."""
        offsets = self.array(vector, "<u4").astype(np.int64)
        self._spend(TABLE_WORK * len(offsets))
        return [int(p) for p in vector + 4 + 4 * np.arange(len(offsets)) + offsets]

    def _spend(self, work: int) -> None:
        self.budget -= work
        if self.budget < 0:
            raise FormatError("the file names its parts too often; it is damaged")


class _Expansion:
    """One run of `expand`: reads the old file, writes new tables in front of it."""

    def __init__(self, data: bytes, bias_scales: bool) -> None:
        self.file = _File(data)
        self.bias_scales = bias_scales
        self.model = self.file.follow(0)
        self.codes = self.file.tables(self.file.target(self.model, 1))
        self.buffers = self.file.tables(self.file.target(self.model, 4))
        self.decode_codes = {n for n, code in enumerate(self.codes) if self._is_decode(code)}
        # behind the new tables, on a 16-byte border, so that its own alignment holds
        self.tail = -(-len(data) // 16) * 16
        self.budget = MAX_EXPANSION * len(data)
        self.builder = flatbuffers.Builder(self.tail + 1024)
        self.builder.Prep(16, self.tail)
        self.builder.head = self.builder.head - self.tail
        self.builder.Bytes[self.builder.head : self.builder.head + len(data)] = data
        self.new_buffers: list[int] = []

    def run(self) -> bytes:
        file, builder = self.file, self.builder
        old_graphs = file.tables(file.target(self.model, 2))
        new_graphs = {graph: self._graph(graph) for graph in dict.fromkeys(old_graphs)}
        graphs = [new_graphs[graph] for graph in old_graphs]
        if graphs == [self._kept(graph) for graph in old_graphs]:
            return file.data
        graph_vector = self._vector(graphs)
        # a runtime refuses the DECODE entry even unused: another entry takes its place
        plain = [n for n in range(len(self.codes)) if n not in self.decode_codes] or [0]
        code_vector = self._vector(
            [
                self._kept(self.codes[plain[0] if n in self.decode_codes else n])
                for n in range(len(self.codes))
            ]
        )
        buffer_vector = self._vector([*map(self._kept, self.buffers), *self.new_buffers])
        builder.StartObject(8)
        builder.PrependUint32Slot(0, file.scalar(self.model, 0, "I"), 0)
        for slot, offset in [(1, code_vector), (2, graph_vector), (4, buffer_vector)]:
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        for slot in (3, 5, 6, 7):
            self._keep_offset(self.model, slot)
        builder.Finish(builder.EndObject(), file_identifier=IDENTIFIER)
        return bytes(memoryview(builder.Bytes)[builder.head :])

    def _is_decode(self, code: int) -> bool:
        name = self.file.target(code, 1)
        return bool(name) and self.file.array(name, "u1").tobytes() == DECODE_NAME

    def _kept(self, position: int) -> int:
        """The builder's offset of a part of the old file."""
        if not 0 < position < len(self.file.data):
            raise FormatError("the file points outside itself; it is damaged")
        return self.tail - position

    def _keep_offset(self, table: int, slot: int) -> None:
        target = self.file.target(table, slot)
        if target:
            self.builder.PrependUOffsetTRelativeSlot(slot, self._kept(target), 0)

    def _vector(self, offsets: list[int]) -> int:
        self.builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self.builder.PrependUOffsetTRelative(offset)
        return int(self.builder.EndVector())

    def _graph(self, graph: int) -> int:
        file, builder = self.file, self.builder
        tensors = file.tables(file.target(graph, 0))
        operators = file.tables(file.target(graph, 3))
        decodes = [op for op in operators if file.scalar(op, 0, "I") in self.decode_codes]
        others = [op for op in operators if file.scalar(op, 0, "I") not in self.decode_codes]
        new: dict[int, tuple[int | None, NDArray[Any] | None]] = {
            number: (self._buffer(values), None)
            for op in decodes
            for number, values in self._decoded(op, tensors)
        }
        if self.bias_scales:
            for number, scales in self._bias_scales(others, tensors):
                new[number] = (None, scales)
        if not new:
            return self._kept(graph)
        last = self._last_used(graph, others)
        offsets = [
            self._tensor(tensors[n], *new[n]) if n in new else self._kept(tensors[n])
            for n in range(last + 1)
        ]
        tensor_vector = self._vector(offsets)
        operator_vector = self._vector([self._kept(op) for op in others])
        builder.StartObject(5)
        builder.PrependUOffsetTRelativeSlot(0, tensor_vector, 0)
        builder.PrependUOffsetTRelativeSlot(3, operator_vector, 0)
        for slot in (1, 2, 4):
            self._keep_offset(graph, slot)
        return int(builder.EndObject())

    def _last_used(self, graph: int, operators: list[int]) -> int:
        """The last tensor anything but a DECODE names: palettes stand at the end and are dropped."""
        parts = [self.file.array(self.file.target(graph, slot), "<i4") for slot in (1, 2)]
        for op in operators:
            parts += [self.file.array(self.file.target(op, slot), "<i4") for slot in (1, 2, 8)]
        return max((int(part.max()) for part in parts if part.size), default=-1)

    def _decoded(self, op: int, tensors: list[int]) -> Iterator[tuple[int, NDArray[Any]]]:
        """(output tensor, its values): a DECODE takes pairs of inputs, one output each."""
        inputs = self.file.array(self.file.target(op, 1), "<i4")
        outputs = self.file.array(self.file.target(op, 2), "<i4")
        if len(inputs) != 2 * len(outputs):
            raise FormatError(
                f"DECODE takes two inputs per output, got {len(inputs)} for {len(outputs)}"
            )
        for pair, output in zip(inputs.reshape(-1, 2), outputs, strict=True):
            packed, ancillary = (self._data(_entry(tensors, n)) for n in pair)
            tensor = _entry(tensors, output)
            shape = tuple(int(n) for n in self.file.array(self.file.target(tensor, 0), "<i4"))
            dtype = _TYPES.get(self.file.scalar(tensor, 1, "b"))
            record = LutRecord.from_bytes(ancillary)
            if dtype is None or any(size < 0 for size in shape):
                raise FormatError(f"DECODE cannot give a tensor of shape {shape} and this type")
            self._spend(shape, dtype)
            yield (
                int(output),
                record.decode(packed, shape, dtype, self._axis(record, tensor, shape)),
            )

    def _spend(self, shape: tuple[int, ...], dtype: str) -> None:
        size = np.dtype(dtype).itemsize
        for extent in shape:
            size *= extent
        self.budget -= size
        if self.budget < 0:
            raise FormatError(f"the file expands to more than {MAX_EXPANSION} times its size")

    def _axis(self, record: LutRecord, tensor: int, shape: tuple[int, ...]) -> int:
        """The channel axis: the quantization's where there is one (what TFLM reads), else the header's."""
        quantization = self.file.target(tensor, 4)
        axis = record.axis
        if quantization and len(self.file.array(self.file.target(quantization, 2), "<f4")) > 1:
            axis = self.file.scalar(quantization, 6, "i")
        if record.axis != ONE_TABLE and record.stride and not 0 <= axis < len(shape):
            raise FormatError(f"DECODE names axis {axis} of a tensor of shape {shape}")
        return axis

    def _data(self, tensor: int) -> bytes:
        buffer = _entry(self.buffers, self.file.scalar(tensor, 2, "I"))
        return self.file.array(self.file.target(buffer, 0), "u1").tobytes()

    def _bias_scales(
        self, operators: list[int], tensors: list[int]
    ) -> Iterator[tuple[int, NDArray[Any]]]:
        """(bias tensor, its scales s_input · s_weights) for every int32 bias that states none."""
        for op in operators:
            code = _entry(self.codes, self.file.scalar(op, 0, "I"))
            builtin = max(self.file.scalar(code, 3, "i"), self.file.scalar(code, 0, "b"))
            inputs = self.file.array(self.file.target(op, 1), "<i4")
            places = _BIASED.get(builtin)
            if places is None or len(inputs) <= places[2] or inputs[places[2]] < 0:
                continue
            data, weights, bias = (_entry(tensors, inputs[n]) for n in places)
            if self.file.scalar(bias, 1, "b") != _INT32 or self._scales(bias).size:
                continue
            with np.errstate(invalid="ignore", over="ignore"):
                scales = self._scales(data)[:1] * self._scales(weights)
            if not np.isfinite(scales).all():
                raise FormatError(
                    f"scales of tensors {inputs[places[0]]} and {inputs[places[1]]} must give finite products"
                )
            if scales.size:
                yield int(inputs[places[2]]), scales.astype(np.float32)

    def _scales(self, tensor: int) -> NDArray[Any]:
        quantization = self.file.target(tensor, 4)
        return self.file.array(self.file.target(quantization, 2) if quantization else 0, "<f4")

    def _buffer(self, values: NDArray[Any]) -> int:
        """Number of a new buffer that holds `values`."""
        data = values.tobytes()
        vector = self._bytes(data, 1, 16)
        self.builder.StartObject(1)
        self.builder.PrependUOffsetTRelativeSlot(0, vector, 0)
        self.new_buffers.append(int(self.builder.EndObject()))
        return len(self.buffers) + len(self.new_buffers) - 1

    def _bytes(self, data: bytes, size: int, alignment: int) -> int:
        builder = self.builder
        builder.StartVector(size, len(data) // size, alignment)
        builder.head = builder.head - len(data)
        builder.Bytes[builder.head : builder.head + len(data)] = data
        return int(builder.EndVector())

    def _tensor(self, tensor: int, buffer: int | None, scales: NDArray[Any] | None) -> int:
        """The tensor's table again, with another buffer or with scales."""
        file, builder = self.file, self.builder
        quantization = None if scales is None else self._quantization(scales)
        builder.StartObject(10)
        for slot in (0, 3, 4, 6, 7, 9):
            if slot == 4 and quantization is not None:
                builder.PrependUOffsetTRelativeSlot(slot, quantization, 0)
            else:
                self._keep_offset(tensor, slot)
        number = file.scalar(tensor, 2, "I") if buffer is None else buffer
        builder.PrependUint32Slot(2, number, 0)
        for slot in (1, 5, 8):
            builder.PrependInt8Slot(slot, file.scalar(tensor, slot, "b"), 0)
        return int(builder.EndObject())

    def _quantization(self, scales: NDArray[Any]) -> int:
        scale_vector = self._bytes(scales.astype("<f4").tobytes(), 4, 4)
        zero_vector = self._bytes(np.zeros(len(scales), "<i8").tobytes(), 8, 8)
        self.builder.StartObject(7)
        self.builder.PrependUOffsetTRelativeSlot(2, scale_vector, 0)
        self.builder.PrependUOffsetTRelativeSlot(3, zero_vector, 0)
        return int(self.builder.EndObject())


def _entry(positions: list[int], number: Any) -> int:
    """What a number read from the file names. Raises FormatError if it names nothing."""
    if not 0 <= number < len(positions):
        raise FormatError(f"the file names part {number} of {len(positions)}; it is damaged")
    return positions[int(number)]
