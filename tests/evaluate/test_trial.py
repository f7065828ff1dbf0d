"""Firmware on emulated microcontrollers: one row a file, whose parts add up, and one clear message for what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepalette.errors import TargetError
from edgepalette.evaluate import target as targets
from edgepalette.evaluate.cortex_m import emulator
from edgepalette.evaluate.cortex_m.device import DEVICES
from edgepalette.evaluate.cortex_m.trial import PLACES, Trial, try_firmware
from edgepalette.evaluate.measurement import FlashSplit, Measurement, OperatorCost, RamSplit
from edgepalette.evaluate.target import TARGETS, Effort, TestSet, get_target, measure

SAMPLES = 3
RUN_ON = ("cortex-m4", "samd21", "corstone-300")
CORPUS = Path(__file__).parents[2] / "scripts" / "fuzz_corpus"


def sample_of(exported: Any) -> TestSet:
    return TestSet(
        exported.inputs, exported.labels, exported.float_outputs, classifies=True, metric="accuracy"
    )


def measured(name: str, exported: Any) -> list[Measurement]:
    files = {model: exported.file(f"{model}.tflite") for model in ("dense", "palette")}
    return measure(
        get_target(name), "run", 4, files, sample_of(exported), Effort(emulated_samples=SAMPLES)
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN_ON)
def test_firmware_gives_tflms_bytes_and_figures_that_add_up(name: str, exported: Any) -> None:
    absent = emulator.missing()
    if absent is not None:
        pytest.skip(absent)
    dense, palette = measured(name, exported)
    for row in (dense, palette):
        assert (row.target, row.samples, row.mismatched_bytes) == (name, SAMPLES, 0)
        assert row.origin == "counted in an emulator (QEMU), time modelled"
        assert f"0 of {10 * SAMPLES} output bytes differ from TFLM's" in row.notes
        assert row.value is not None
        assert row.value > 0.6
        assert row.flash_split is not None
        assert row.ram_split is not None
        assert (row.flash_bytes, row.ram_bytes) == (row.flash_split.total, row.ram_split.total)
        assert min(row.flash_split.code, row.flash_split.other, row.ram_split.stack) > 0
        # the first activation
        assert row.ram_split.arena >= 8 * 8 * 8
        assert row.operators is not None
        assert [cost.operator for cost in row.operators if cost.macs] == ["CONV_2D", "FULLY_CONNECTED"]  # fmt: skip
        assert [cost.macs for cost in row.operators if cost.macs] == [8 * 8 * 8 * 9, 512 * 10]
        parts = sum(cost.instructions for cost in row.operators)
        assert row.instructions == pytest.approx(parts, rel=0.05)
        limits = row.flash_split.limit, row.ram_split.limit
        cycles = sum(cost.cycles_model or 0 for cost in row.operators)
        assert row.cycles_model == pytest.approx(cycles, rel=0.05)
        assert row.instructions is not None
        assert row.cycles_model > 0.3 * row.instructions
        device = DEVICES.get(name)
        milliseconds = row.cycles_model / device.clock_hz * 1e3 if device else None
        assert row.latency_ms_median == pytest.approx(milliseconds, abs=1e-4)
        assert limits == ((device.flash_bytes, device.ram_bytes) if device else (None, None))
        assert row.notes.endswith(": fits") is (device is not None)
        assert Measurement.from_json(json.loads(json.dumps(row.to_json()))) == row
    assert palette.flash_split is not None
    assert dense.flash_split is not None
    assert dense.flash_split.weights > 3 * palette.flash_split.weights > 0
    assert palette.flash_split.tables > dense.flash_split.tables == 0
    assert (palette.value, palette.agreement) == (dense.value, dense.agreement)


def trial(raw: Any, flash: int = 1000, device: str | None = None, cycles: int | None = None) -> Trial:  # fmt: skip
    limits = (DEVICES[device].flash_bytes, DEVICES[device].ram_bytes) if device else (None, None)
    return Trial(
        raw,
        raw.astype(np.float32),
        5000,
        cycles,
        (OperatorCost("CONV_2D", "1×8", 4000, cycles, 64),),
        FlashSplit(0, flash, 0, 0, limits[0]),
        RamSplit(0, 0, 100, limits[1]),
        DEVICES.get(device or ""),
        "gcc 1",
    )


def pretending(monkeypatch: pytest.MonkeyPatch, *trials: Trial) -> None:
    """Trials without an emulator, and no TFLM beside them."""
    given = iter(trials)
    monkeypatch.setattr(targets, "try_firmware", lambda *_: next(given))
    tflm = replace(TARGETS["tflm"], modules=("no_such_module",))
    monkeypatch.setitem(TARGETS, "tflm", tflm)


def test_without_tflm_bytes_are_the_dense_files_and_that_is_said(
    exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = np.zeros((SAMPLES, 10), np.int8)
    other = raw.copy()
    other[1, :2] = 1
    pretending(monkeypatch, trial(raw), trial(other))
    dense, palette = measured("cortex-m4", exported)
    assert (dense.mismatched_bytes, palette.mismatched_bytes) == (0, 2)
    assert "2 of 30 output bytes differ from the dense file's firmware's" in palette.notes
    assert "pip install tflite-micro" in palette.notes
    assert dense.origin == "counted in an emulator (QEMU)"
    assert dense.latency_ms_median is None


def test_cycles_become_milliseconds_at_a_devices_clock_and_are_said_to_be_modelled(
    exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = np.zeros((SAMPLES, 10), np.int8)
    bare, device = trial(raw, cycles=6400), trial(raw, device="nrf52840", cycles=6400)
    pretending(monkeypatch, bare, bare, device, device)
    for name, milliseconds in (("cortex-m4", None), ("nrf52840", 0.1)):
        for row in measured(name, exported):
            assert row.cycles_model == 6400
            assert row.latency_ms_median == milliseconds
            assert row.origin == "counted in an emulator (QEMU), time modelled"


def test_a_metric_that_few_examples_do_not_give_is_left_out_and_said(
    exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = np.zeros((SAMPLES, 10), np.int8)
    pretending(monkeypatch, trial(raw), trial(raw))
    files = {model: exported.file(f"{model}.tflite") for model in ("dense", "palette")}
    few = replace(sample_of(exported), metric="auc")
    rows = measure(get_target("cortex-m3"), "run", 4, files, few, Effort(emulated_samples=SAMPLES))
    assert [row.value for row in rows] == [None, None]
    assert "; no auc: auc needs test examples of every class" in rows[0].notes


def test_a_palette_that_fits_where_the_dense_file_does_not_is_told_so(
    exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw, there = np.zeros((SAMPLES, 10), np.int8), DEVICES["stm32f103"].flash_bytes
    large, small = trial(raw, there + 1, "stm32f103"), trial(raw, there, "stm32f103")
    pretending(monkeypatch, large, small)
    dense, palette = measured("stm32f103", exported)
    assert dense.notes.endswith("does not fit, 131,073 B of flash for 131,072, 1 too many")
    assert palette.notes.endswith("72 MHz: fits")
    pretending(monkeypatch, large, large)
    with pytest.raises(TargetError, match=r"STM32F103RB.* must hold the model, but dense: .* 1 too many; palette: "):  # fmt: skip
        measured("stm32f103", exported)


@pytest.mark.parametrize(
    ("file", "said"),
    [
        ("float.tflite", r"CONV_2D \(operator 0\): tensor 0 \(serving_default"),
        ("loop.tflite", "got builtin operator 119 for tensor"),
        ("dense.onnx", "identifier"),
    ],
)
def test_what_firmware_does_not_run_is_a_failure_of_the_target(file: str, said: str) -> None:
    with pytest.raises(TargetError, match=f"cortex-m4 takes an int8 .tflite .*{said}"):
        try_firmware(CORPUS / file, "cortex-m4", np.zeros((1, 8), np.float32))


def test_a_model_beyond_the_emulated_board_is_told_by_its_bytes(
    monkeypatch: pytest.MonkeyPatch, exported: Any
) -> None:
    absent = emulator.missing()
    if absent is not None:
        pytest.skip(absent)
    monkeypatch.setitem(emulator.CORES, "cortex-m4", replace(emulator.CORES["cortex-m4"], memory=4096))  # fmt: skip
    inputs = np.load(exported.inputs)[:1]
    with pytest.raises(TargetError, match=r"its (FLASH|RAM) is [\d,]+ B too small"):
        try_firmware(exported.file("dense.tflite"), "cortex-m4", inputs)


def test_missing_tools_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emulator.shutil, "which", lambda tool: None if "gcc" in tool else tool)
    for name in PLACES:
        said = TARGETS[name].missing()
        assert said == f"needs arm-none-eabi-gcc: {emulator.PACKAGES}"
        assert TARGETS[name].only_named
