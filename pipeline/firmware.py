"""`edgepalette firmware`: C for microcontrollers from an int8 .tflite."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ..errors import ExportError, FormatError, RecipeError
from ..evaluate.cortex_m.device import DEVICES
from ..evaluate.signature import format_of
from ..export.firmware.firmware import Firmware, generate_firmware
from .files import write_text


@dataclass(frozen=True, eq=False)
class Written:
    """A firmware and the folder it lies in."""

    folder: Path
    firmware: Firmware


def write_firmware(
    path: Path, out: Path | None, scratch: int | None, name: str, device: str | None = None
) -> Written:
    """Write the C of an int8 .tflite into a folder, NAME-firmware beside the file if `out` is None.

    device: of DEVICES, which must have room for it.
    Raises FormatError for a damaged file or another format, ExportError for a model firmware does not run or the device
    cannot hold: then nothing is written.
    """
    if format_of(path) != "tflite":
        raise FormatError(f"firmware needs an int8 .tflite, got {path}")
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "main" or name.startswith("ep_"):
        raise RecipeError(
            f"--name must be lower-case letters, digits and _, not main and not ep_…, got {name!r}"
        )
    if device is not None and device not in DEVICES:
        raise RecipeError(f"--device must be one of {', '.join(DEVICES)}, got {device!r}")
    firmware = generate_firmware(path.read_bytes(), name, scratch)
    if device is not None:
        _check_room(firmware, device)
    folder = out or path.with_name(f"{path.stem}-firmware")
    write_folder(firmware, folder)
    return Written(folder, firmware)


def write_folder(firmware: Firmware, folder: Path) -> None:
    """Its files, each whole or not at all."""
    for file, text in firmware.files.items():
        write_text(folder / file, text)


def said_of(firmware: Firmware) -> str:
    """Its sizes in a line."""
    sizes = ", ".join(f"{share.value} {size} B" for share, size in firmware.flash.items())
    return f"arena {firmware.arena} B; flash beside code: {sizes}"


def _check_room(firmware: Firmware, name: str) -> None:
    """Raises ExportError for what lacks room even without its code and stack."""
    device = DEVICES[name]
    needs = [
        f"{needed:,} B of {kind} for {there:,}, {needed - there:,} too many"
        for kind, needed, there in (
            ("constants", sum(firmware.flash.values()), device.flash_bytes),
            ("arena", firmware.arena, device.ram_bytes),
        )
        if needed > there
    ]
    if needs:
        raise ExportError(
            f"the model must fit {name} ({device.title}), got {' and '.join(needs)}; "
            "fewer clusters take less flash, a smaller --scratch less arena"
        )
