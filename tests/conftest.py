"""What tests share: quiet TensorFlow, the shared data where it exists, small models."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

SHARED = os.environ.get("EDGEPALETTE_DATA") or str(Path(__file__).parents[2] / "shared")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with data/ and models/ for tests on real files; not part of a clone."""
    folder = Path(SHARED)
    if not (folder / "data").is_dir():
        pytest.skip("EDGEPALETTE_DATA names no folder with data/ and models/")
    return folder
