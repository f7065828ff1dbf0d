"""Proof that two files give the same outputs: `edgepalette verify`, and what no export is left without."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError, TargetError
from ..evaluate.comparison import Check, compare_files
from .data import load_inputs

# of each kind, random and real: every export waits for them
EXPORT_SAMPLES = 4


def verify_files(
    first: Path, second: Path, data: str | None, samples: int, seed: int, tolerance: float | None
) -> list[Check]:
    """The checks of `compare_files` on `samples` random inputs and, with data, as many of its test inputs."""
    real = None if data is None else load_inputs(data)[:samples]
    return compare_files(first, second, real, samples, seed, tolerance)


def said_of(checks: list[Check], first: Path, second: Path) -> str:
    """The verdict in a line."""
    ran = [check for check in checks if check.same is not None]
    different = [check.engine for check in ran if not check.same]
    if different:
        return f"{first} and {second} differ on {', '.join(different)}"
    return f"{first} and {second} agree on {', '.join(check.engine for check in ran)}"


def prove_palette(
    palette: bytes, dense: bytes, form: str, inputs: NDArray[np.float32] | None = None
) -> list[Check] | str:
    """The checks of a palette file, all passed; or why no runtime here could make one.

    Raises ExportError if a runtime gives other bytes for the palette file than for the dense one.
    """
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as folder:
        files = [Path(folder, f"{name}.{form}") for name in ("palette", "dense")]
        for file, data in zip(files, (palette, dense), strict=True):
            file.write_bytes(data)
        try:
            real = None if inputs is None else inputs[:EXPORT_SAMPLES]
            checks = compare_files(files[0], files[1], real, EXPORT_SAMPLES)
        except TargetError as error:
            return str(error)
    for check in checks:
        if check.same is False:
            raise ExportError(
                f"the palette .{form} must give the dense file's outputs, but on {check.engine} {check.differing} of "
                f"{check.compared} bytes differ ({check.note}); this is a fault of edgepalette or of the runtime, please "
                "report it with the model"
            )
    return checks
