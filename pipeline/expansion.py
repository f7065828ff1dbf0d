"""`edgepalette expand`: a palette file as a plain one, for tools that know no palettes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError
from ..evaluate.signature import format_of
from ..export.loader import expand
from .files import write_bytes
from .verification import Proof, named_beside, prove_palette


@dataclass(frozen=True)
class Expansion:
    """A plain file and its size beside the palette file's."""

    file: Path
    palette_bytes: int
    plain_bytes: int
    proof: Proof


def expand_file(path: Path, out: Path | None) -> Expansion:
    """Write the plain form of a palette .tflite or .onnx, as NAME-plain beside it if `out` is None.

    Raises FormatError for a file without palettes, damaged or of another format; ExportError if a runtime gives other
    outputs for it.
    """
    form = format_of(path)
    out = named_beside(path, "plain", out)
    palette = path.read_bytes()
    if form == "tflite":
        plain = expand(palette)
    else:
        from ..export.expand_onnx import expand_onnx

        plain = expand_onnx(palette)
    if plain == palette:
        raise FormatError(f"expand needs a file with palettes, got {path}, which has none")
    proof = prove_palette(palette, plain, form)
    write_bytes(out, plain)
    return Expansion(out, len(palette), len(plain), proof)
