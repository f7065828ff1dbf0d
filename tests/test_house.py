"""The house itself: what is installed, what importing costs, which way imports run."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgepalette

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = Path(edgepalette.__file__).parent
# each may import those before it, and itself
FLOORS = ("cluster", "export", "evaluate", "pipeline")
SHIPPED = {".py", ".c", ".h", ".j2"}


def sources() -> Iterator[Path]:
    for floor in FLOORS:
        for path in (ROOT / floor).rglob("*"):
            if path.suffix in SHIPPED and "__pycache__" not in path.parts:
                yield path.relative_to(ROOT)


def python(code: str) -> str:
    """What `code` prints in a fresh interpreter whose search path leaves out the current folder."""
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, edgepalette; print(sorted({'tensorflow', 'keras', 'numpy'} & set(sys.modules)))"
    assert python(code) == "[]"


def test_every_public_name_resolves() -> None:
    for name in edgepalette.__all__:
        assert getattr(edgepalette, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = edgepalette.nothing


def test_nothing_generic_is_installed_at_top_level() -> None:
    code = "import importlib.util as u; print([n for n in {names} if u.find_spec(n)])"
    assert python(code.format(names=[*FLOORS, "errors"])) == "[]"


def test_every_file_of_the_package_is_installed_as_it_is() -> None:
    found = list(sources())
    assert len(found) > 40
    for path in [*found, Path("__init__.py"), Path("errors.py"), Path("py.typed")]:
        assert (INSTALLED / path).read_bytes() == (ROOT / path).read_bytes(), path


def test_imports_inside_the_package_are_relative_and_run_one_way() -> None:
    for path in sources():
        if path.suffix != ".py":
            continue
        allowed = FLOORS[: FLOORS.index(path.parts[0]) + 1]
        for node in ast.walk(ast.parse((ROOT / path).read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
                assert not any(n.split(".")[0] in (*FLOORS, "edgepalette") for n in names), path
            if isinstance(node, ast.ImportFrom):
                module = node.module or ""
                assert node.level or module.split(".")[0] not in (*FLOORS, "edgepalette"), path
                if node.level == 2 and module.split(".")[0] in FLOORS:
                    assert module.split(".")[0] in allowed, path


def test_what_runs_on_a_device_imports_neither_tensorflow_nor_keras() -> None:
    modules = (
        "edgepalette.export.loader, edgepalette.evaluate.target, edgepalette.evaluate.runtimes"
    )
    code = f"import sys, {modules}; print(sorted({{'tensorflow', 'keras', 'onnx'}} & set(sys.modules)))"
    assert python(code) == "[]"
