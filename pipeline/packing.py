"""`edgepalette pack` and `unpack`: a file packed for transport, and the same file again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError
from ..export.transport import SUFFIX, pack, unpack
from .files import write_bytes


@dataclass(frozen=True)
class Packing:
    """The file written, and the sizes of both."""

    file: Path
    file_bytes: int
    packed_bytes: int


def pack_file(path: Path, out: Path | None) -> Packing:
    """Write FILE.xz beside a file if `out` is None. Raises FormatError for what is no file, ExportError as `pack` does."""
    data = _read(path)
    packed = pack(data)
    out = out or path.with_name(path.name + SUFFIX)
    write_bytes(out, packed)
    return Packing(out, len(data), len(packed))


def unpack_file(path: Path, out: Path | None) -> Packing:
    """Write the file a packed one holds, under its name without .xz if `out` is None.

    Raises FormatError as `unpack` does, and rather than write over a file that holds something else.
    """
    packed = _read(path)
    if out is None and path.suffix != SUFFIX:
        raise FormatError(
            f"a packed file must end in {SUFFIX}, got {path}; or name the other by --out"
        )
    data = unpack(packed)
    out = out or path.with_suffix("")
    if out.exists() and (not out.is_file() or out.read_bytes() != data):
        raise FormatError(
            f"unpack writes no other file over, got {out}, which holds something else; name one by --out"
        )
    write_bytes(out, data)
    return Packing(out, len(data), len(packed))


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise FormatError(f"pack and unpack read a file, got {path}, which is no file")
    return path.read_bytes()
