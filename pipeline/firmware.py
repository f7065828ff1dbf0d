"""`edgepalette firmware`: C for microcontrollers from an int8 .tflite."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError, RecipeError
from ..evaluate.signature import format_of
from ..export.firmware.firmware import Firmware, generate_firmware
from .files import write_text


@dataclass(frozen=True, eq=False)
class Written:
    """A firmware and the folder it lies in."""

    folder: Path
    firmware: Firmware


def write_firmware(path: Path, out: Path | None, scratch: int | None, name: str) -> Written:
    """Write the C of an int8 .tflite into a folder, NAME-firmware beside the file if `out` is None.

    Raises FormatError for a damaged file or another format, ExportError for a model firmware does not run: then nothing
    is written.
    """
    if format_of(path) != "tflite":
        raise FormatError(f"firmware needs an int8 .tflite, got {path}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "main" or name.startswith("ep_"):
        raise RecipeError(
            f"--name must be lower-case letters, digits and _, not main and not ep_…, got {name!r}"
        )
    firmware = generate_firmware(path.read_bytes(), name, scratch)
    folder = out or path.with_name(f"{path.stem}-firmware")
    for file, text in firmware.files.items():
        write_text(folder / file, text)
    return Written(folder, firmware)
