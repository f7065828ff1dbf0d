"""Where a run's figures come from: versions, machine, seed, data and model."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from .. import __version__
from .data import fingerprint
from .models import model_fingerprint
from .recipe import Recipe

PACKAGES = (
    "tensorflow",
    "keras",
    "numpy",
    "onnx",
    "tf2onnx",
    "onnxruntime",
    "tflite-runtime",
    "ai-edge-litert",
    "tflite-micro",
    "ethos-u-vela",
    "scikit-learn",
)


def provenance(recipe: Recipe) -> dict[str, Any]:
    """As plain values; no times, so that the same run writes the same file."""
    return {
        "edgepalette": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "packages": {name: version for name in PACKAGES if (version := installed(name))},
        "seed": recipe.seed,
        "data": {"source": recipe.data.source, "fingerprint": fingerprint(recipe.data.source)},
        "model": {
            "source": recipe.model.source,
            "fingerprint": model_fingerprint(recipe.model.source),
        },
    }


def installed(package: str) -> str | None:
    """A package's version, None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The CPU's name."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
