"""Firmware from the command: what `firmware`, `export --format c` and targets of microcontrollers give, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from edgepalette.evaluate.cortex_m import emulator
from edgepalette.evaluate.cortex_m.device import DEVICES

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
        ("palette.tflite", ("--device", "z80"), "--device must be one of samd21, rp2040, "),
    ],
)
def test_what_it_cannot_run_is_told_with_exit_code_2(
    file: str, options: tuple[str, ...], said: str, command: Callable[..., Result], tmp_path: Path
) -> None:
    result = command("firmware", CORPUS / file, "--out", tmp_path / "c", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert not (tmp_path / "c").exists()


def test_a_model_too_large_for_the_device_is_told_by_its_bytes(
    command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = (CORPUS / "palette.tflite", "--out", tmp_path / "c", "--json")
    found = json.loads(command("firmware", *options).stdout)
    constants, arena = sum(found["constant_bytes"].values()), found["arena_bytes"]
    for flash, ram, said in (
        (constants - 1, arena, f"got {constants:,} B of constants for {constants - 1:,}, 1 too many;"),
        (constants, arena - 2, f"got {arena:,} B of arena for {arena - 2:,}, 2 too many;"),
        (0, 0, " and "),
    ):  # fmt: skip
        small = replace(DEVICES["samd21"], flash_bytes=flash, ram_bytes=ram)
        monkeypatch.setitem(DEVICES, "samd21", small)
        refused = command("firmware", CORPUS / "palette.tflite", "--out", tmp_path / "d", "--device", "samd21")  # fmt: skip
        assert refused.exit_code == 2
        assert "the model must fit samd21 (Microchip SAM D21" in refused.stderr
        assert said in refused.stderr
        assert not (tmp_path / "d").exists()
    exact = replace(DEVICES["samd21"], flash_bytes=constants, ram_bytes=arena)
    monkeypatch.setitem(DEVICES, "samd21", exact)
    assert command("firmware", *options, "--device", "samd21").exit_code == 0


@pytest.mark.slow
def test_export_writes_what_the_command_firmware_writes_of_the_palette_file(
    command: Callable[..., Result],
    finished: Any,
    tmp_path: Path,
    snapshot: Callable[[Path], dict[str, bytes]],
) -> None:
    run = finished.copy(tmp_path)
    result = command("export", "--out", run.path, "--format", "c", "--clusters", "4")
    assert result.exit_code == 0, result.stderr
    folder = run.path / "clusters-4"
    assert json.loads((run.path / "recipe.json").read_text())["export"]["formats"] == ["tflite", "c"]  # fmt: skip
    made = command("firmware", folder / "palette.tflite", "--out", tmp_path / "c")
    assert made.exit_code == 0
    assert snapshot(folder / "firmware") == snapshot(tmp_path / "c")
    again = command("run", "--out", run.path, "--dry-run", *run.options[:-2], "--format", "c", "--clusters", "4")  # fmt: skip
    assert "export-4: done" in again.stdout.splitlines()
    (folder / "firmware" / "model.c").unlink()
    again = command("run", "--out", run.path, "--dry-run", *run.options[:-2], "--format", "c", "--clusters", "4")  # fmt: skip
    assert "export-4: would run" in again.stdout.splitlines()


def test_missing_tools_are_told_before_training(
    command: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(emulator.shutil, "which", lambda tool: None)
    result = command("run", "--targets", "rp2040", "--out", tmp_path / "r")
    assert result.exit_code == 2
    assert "target rp2040 is not installed here: needs arm-none-eabi-gcc, " in result.stderr
    assert "apt install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm" in result.stderr
    assert not (tmp_path / "r").exists()


@pytest.mark.slow
def test_microcontrollers_stand_in_one_table_and_in_the_report(
    command: Callable[..., Result], finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = emulator.missing()
    if absent is not None:
        pytest.skip(absent)
    monkeypatch.setitem(DEVICES, "samd21", replace(DEVICES["samd21"], ram_bytes=100))
    run = finished.copy(tmp_path)
    asked = ("--targets", "cortex-m4,samd21,tflm", "--clusters", "4")
    result = command("run", *run.options, *asked)
    # a device that cannot hold the model is told at the end, like any target that failed; the rest is measured and shown
    assert result.exit_code == 2
    assert "M instr" in result.stdout
    assert "every target must run the files, got failures" in result.stderr
    assert "samd21, 4 clusters: Microchip SAM D21" in result.stderr
    assert "B of RAM for 100, " in result.stderr
    shown = command("compare", run.path, "--picture", tmp_path / "p.svg").stdout
    assert "M instr" in shown
    assert "0 of 400 output bytes differ from TFLM's" not in shown
    assert "0 of 200 output bytes differ from TFLM's" in shown
    rows = json.loads((run.path / "measurements.json").read_text())
    counted = [row for row in rows if row["instructions"] is not None]
    assert [(row["target"], row["model"]) for row in counted] == [("cortex-m4", "dense"), ("cortex-m4", "palette")]  # fmt: skip
    assert all(row["operators"] and row["flash_split"] and row["ram_split"] for row in counted)
    assert ["DECODE of" in row["notes"] for row in rows if row["target"] == "tflm"] == [False, True]
    report = (run.path / "report.html").read_text()
    assert "On microcontrollers" in report
    assert "million instructions" in report


@pytest.mark.slow  # starts the converter
def test_an_operator_without_a_kernel_is_told_and_nothing_is_written(
    command: Callable[..., Result], npz: Path, own_folder: Path
) -> None:
    (own_folder / "own_leaky.py").write_text(
        "import keras\nfrom keras import layers\n\n"
        "def make():\n"
        "    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(32), layers.LeakyReLU(),\n"
        "        layers.Dense(10, activation='softmax')])\n"
    )
    options = ("run", "--model", "own_leaky:make", "--data", npz, "--out", "r", "--baseline-epochs", 0, "--epochs", 0)  # fmt: skip
    result = command(*options, "--format", "c")
    assert result.exit_code == 2, result.output
    assert "got builtin operator 98 for tensor" in result.stderr
    assert "Traceback" not in result.stderr
    left = {path.name for path in (own_folder / "r" / "clusters-16").iterdir()}
    assert left == {"clustered.keras", "outputs.npy", "cluster.json"}
