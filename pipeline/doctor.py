"""What is installed, what is missing and how to get it."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path
from typing import Any

from ..evaluate.target import TARGETS
from .data import DATA_VARIABLE
from .provenance import installed

NEEDED = (
    "tensorflow",
    "keras",
    "numpy",
    "onnx",
    "tf2onnx",
    "onnxruntime",
    "scikit-learn",
    "flatbuffers",
)


def examine() -> list[dict[str, Any]]:
    """One row per thing: what was found, whether it will do, how to get it. Imports nothing heavy."""
    version = sys.version_info[:2]
    rows = [
        _row(
            "Python",
            platform.python_version(),
            (3, 11) <= version < (3, 14),
            "Python 3.11, 3.12 or 3.13",
            True,
        )
    ]
    rows += [
        _row(name, found, found is not None, "pip install edgepalette", True)
        for name in NEEDED
        for found in [installed(name)]
    ]
    rows.append(_numpy_row())
    rows += [
        _row(f"target {target.name}", "installed" if not target.missing() else None, not target.missing(), target.install, False)
        for target in TARGETS.values()
    ]  # fmt: skip
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    rows.append(
        _row("KERAS_BACKEND", backend, backend == "tensorflow", "unset KERAS_BACKEND", True)
    )
    folder = os.environ.get(DATA_VARIABLE)
    present = bool(folder) and Path(folder or ".", "data").is_dir()
    rows.append(
        _row(
            DATA_VARIABLE,
            folder,
            present,
            "a folder with data/cifar10_jpeg.npz and data/fsdd.npz; the digits need none",
            False,
        )
    )
    return rows


def _numpy_row() -> dict[str, Any]:
    """tflite-runtime is built against numpy 1."""
    numpy, runtime = installed("numpy"), installed("tflite-runtime")
    fits = runtime is None or (numpy or "").startswith("1.")
    return _row("numpy for tflite-runtime", numpy, fits, "pip install 'numpy<2'", True)


def _row(what: str, found: str | None, ok: bool, remedy: str, needed: bool) -> dict[str, Any]:
    return {
        "what": what,
        "found": found,
        "ok": ok,
        "needed": needed,
        "how_to_get_it": "" if ok else remedy,
    }
