"""Packed files: the same bytes again, FormatError for all else, and no better container to be had."""

from __future__ import annotations

import lzma
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgepalette.errors import ExportError, FormatError
from edgepalette.export import transport
from edgepalette.export.cluster_tflite import cluster_tflite
from edgepalette.export.entropy import shannon_bound
from edgepalette.export.lean import lean
from edgepalette.export.loader import unpack_codes
from edgepalette.export.palette_tflite import palettize
from edgepalette.export.tflite_bytes import decoded_tensors
from edgepalette.export.tflite_schema import read_model
from edgepalette.export.transport import MAX_RATIO, pack, unpack

# from where a container of our own would be worth having
WORTH = 1.05
RANDOM = np.random.default_rng(0).integers(0, 5, 3000).astype(np.uint8).tobytes()
PACKED = pack(RANDOM)


@given(st.binary(max_size=2000))
def test_a_packed_file_is_restored(data: bytes) -> None:
    packed = pack(data)
    assert unpack(packed) == data
    assert len(packed) <= len(data) + 100


def test_the_stream_is_one_that_others_open() -> None:
    assert lzma.decompress(PACKED, lzma.FORMAT_XZ) == RANDOM
    assert PACKED[:6] == b"\xfd7zXZ\x00"
    # stream flags: CRC-32, which every decoder knows
    assert PACKED[6:8] == b"\x00\x01"


def test_a_large_file_is_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[int, ...]] = []

    def compressed(_: bytes, *setting: int) -> bytes:
        calls.append(setting)
        return PACKED

    monkeypatch.setattr(transport, "TRIED_UP_TO", len(RANDOM) - 1)
    monkeypatch.setattr(transport, "_compressed", compressed)
    assert unpack(pack(RANDOM)) == RANDOM
    assert len(calls) == 1


@given(st.integers(0, len(PACKED) - 1), st.integers(1, 255))
def test_a_damaged_byte_is_told(place: int, change: int) -> None:
    damaged = bytearray(PACKED)
    damaged[place] ^= change
    with pytest.raises(FormatError, match="packed file"):
        unpack(bytes(damaged))


@given(st.integers(0, len(PACKED) - 1))
def test_a_file_cut_short_is_told(length: int) -> None:
    with pytest.raises(FormatError, match="packed file"):
        unpack(PACKED[:length])


@given(st.binary(max_size=200))
def test_anything_else_is_told(data: bytes) -> None:
    with pytest.raises(FormatError, match="packed file"):
        unpack(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (PACKED + b"\0\0\0\0", "4 bytes behind its end"),
        (PACKED + PACKED, "bytes behind its end"),
        (lzma.compress(RANDOM, check=lzma.CHECK_NONE), "must hold a check"),
        (lzma.compress(bytes(10**7)), f"within {MAX_RATIO} times its size"),
        (lzma.compress(RANDOM, lzma.FORMAT_ALONE), "undamaged .xz stream"),
    ],
)
def test_streams_that_are_not_taken(data: bytes, said: str) -> None:
    with pytest.raises(FormatError, match=said):
        unpack(data)


def test_what_could_not_be_unpacked_is_not_packed() -> None:
    with pytest.raises(ExportError, match=f"to {MAX_RATIO} times its size, got 10000000 bytes"):
        pack(bytes(10**7))


@pytest.mark.parametrize("clusters", [16, 4])
@pytest.mark.parametrize("name", ["ic", "kws"])
def test_coding_each_index_by_its_frequency_would_not_pay(
    shared: Path, name: str, clusters: int
) -> None:
    original = (shared / "models" / f"mlperf_tiny_{name}_int8.tflite").read_bytes()
    model, _ = cluster_tflite(read_model(original), clusters)
    data = palettize(lean(model)).data
    made = read_model(data)
    rest, bound = data, 0
    for (_, output), decoded in decoded_tensors(made).items():
        assert rest.count(decoded.packed) == 1
        rest = rest.replace(decoded.packed, b"")
        count = int(np.prod(made.subgraphs[0].tensors[output].dims))
        bound += shannon_bound(unpack_codes(decoded.packed, decoded.record.bits, count))
    assert len(pack(data)) < WORTH * (bound + len(pack(rest)))
