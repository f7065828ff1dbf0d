"""`edgepalette firmware`: what it writes, and what it refuses without writing anything."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

CORPUS = Path(__file__).parents[2] / "scripts" / "fuzz_corpus"


def test_a_folder_of_c_is_written(command: Callable[..., Result], tmp_path: Path) -> None:
    result = command("firmware", CORPUS / "palette.tflite", "--out", tmp_path / "c", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert found["operators"][0] == "CONV_2D"
    names = {path.name for path in (tmp_path / "c").iterdir()}
    assert {"model.c", "model.h", "main.c", "Makefile", "CMakeLists.txt", "README.md", "ep_conv_2d.c"} <= names  # fmt: skip
    assert f"MODEL_ARENA_BYTES {found['arena_bytes']}" in (tmp_path / "c" / "model.h").read_text()
    assert "SHA-256" in (tmp_path / "c" / "model.c").read_text()


@pytest.mark.parametrize(
    ("file", "options", "said"),
    [
        ("float.tflite", (), "CONV_2D (operator 0): tensor 0 (serving_default"),
        ("loop.tflite", (), "got builtin operator 119 for tensor"),
        ("dense.onnx", (), "firmware needs an int8 .tflite"),
        ("palette.tflite", ("--name", "Two Words"), "--name must be lower-case letters"),
        ("palette.tflite", ("--scratch", "1"), "--scratch must be at least"),
    ],
)
def test_what_it_cannot_run_is_told_with_exit_code_2(
    file: str, options: tuple[str, ...], said: str, command: Callable[..., Result], tmp_path: Path
) -> None:
    result = command("firmware", CORPUS / file, "--out", tmp_path / "c", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "c").exists()
