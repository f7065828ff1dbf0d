"""Proof that two files give the same outputs: `edgepalette verify`, and what no export is left without."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError, FormatError, TargetError
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


@dataclass(frozen=True)
class Proof:
    """What shows that a palette file runs as its dense form. obstacle: why nothing here could show it, or None."""

    checks: tuple[Check, ...]
    obstacle: str | None = None

    def to_json(self) -> dict[str, Any]:
        """For --json and the report."""
        return {
            "verified": [check.to_json() for check in self.checks],
            "unverified": self.obstacle,
        }

    def lines(self) -> Iterator[str]:
        """For people."""
        if self.obstacle is not None:
            yield f"not verified: {self.obstacle}"
            return
        yield f"runs as its dense form on {', '.join(c.engine for c in self.checks if c.same)}"
        for check in self.checks:
            if check.same is None:
                yield f"not verified on {check.engine}: {check.note}"


def prove_palette(
    palette: bytes, dense: bytes, form: str, inputs: NDArray[np.float32] | None = None
) -> Proof:
    """That a palette file gives the dense one's outputs on every runtime here that runs them.

    Raises ExportError if a runtime gives other bytes for it, or runs the dense file only.
    """
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as folder:
        files = [Path(folder, f"{name}.{form}") for name in ("palette", "dense")]
        for file, data in zip(files, (palette, dense), strict=True):
            file.write_bytes(data)
        try:
            real = None if inputs is None else inputs[:EXPORT_SAMPLES]
            checks = compare_files(files[0], files[1], real, EXPORT_SAMPLES)
        except TargetError as error:
            return Proof((), str(error))
    for check in checks:
        if check.same is False:
            raise ExportError(
                f"the palette .{form} must give the dense file's outputs on {check.engine}, but {check.differing or 0} "
                f"of {check.compared} bytes differ ({check.note}); this is a fault of edgepalette or of the runtime, "
                "please report it with the model"
            )
    return Proof(tuple(checks))


def named_beside(path: Path, word: str, out: Path | None) -> Path:
    """`out`, or NAME-word beside a file. Raises FormatError if `out` names another format."""
    if out is not None and out.suffix != path.suffix:
        raise FormatError(f"a file made of {path} must end in {path.suffix}, got {out}")
    return out or path.with_stem(f"{path.stem}-{word}")
