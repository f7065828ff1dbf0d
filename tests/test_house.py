"""The house itself: what is importable, what is installed."""

from __future__ import annotations

import subprocess
import sys

import edgepalette


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, edgepalette; print(sorted({'tensorflow', 'keras', 'numpy'} & set(sys.modules)))"
    found = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "[]"


def test_every_public_name_resolves() -> None:
    for name in edgepalette.__all__:
        assert getattr(edgepalette, name) is not None
