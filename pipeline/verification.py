"""`edgepalette verify`: two files on the same inputs, and how many of them are real."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..evaluate.comparison import Check, compare_files
from .data import load_inputs


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


def rows_of(checks: list[Check]) -> list[dict[str, Any]]:
    """For tables."""
    return [check.to_json() for check in checks]
