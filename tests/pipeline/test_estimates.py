"""Rows that only estimate: in one table with measured ones, each group of figures with its origin, no quality drawn."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from edgepalette.evaluate.measurement import Measurement
from edgepalette.pipeline.picture import size_quality_svg
from edgepalette.pipeline.table import (
    COLUMNS,
    CYCLES,
    FLASH,
    INSTRUCTIONS,
    cells,
    columns_of,
    origins,
)

Command = Callable[..., Result]
MEASURED = Measurement(
    run="r",
    model="palette",
    clusters=4,
    target="host-tflite",
    origin="measured on this host",
    metric="accuracy",
    value=0.5,
    agreement=0.75,
    mismatched_bytes=0,
    file_bytes=100,
    flash_bytes=None,
    ram_bytes=None,
    latency_ms_median=None,
    latency_ms_p95=None,
    instructions=None,
    cycles_model=None,
    samples=8,
    notes="n",
)
ESTIMATED = replace(
    MEASURED, target="ethos-u55-128", value=None, agreement=None, samples=0, flash_bytes=2500
)


@pytest.mark.slow
def test_a_run_puts_estimates_and_measurements_into_one_table(
    command: Command, finished: Any, tmp_path: Path
) -> None:
    run = finished.copy(tmp_path)
    result = command("run", *run.options, "--targets", "ethos-u55-128,tflm,host-tflite")
    assert result.exit_code == 0, result.stderr
    rows = json.loads((run.path / "measurements.json").read_text())
    files = [(row["model"], row["target"]) for row in rows if row["target"] != "host-keras"]
    assert files == [
        (model, target)
        for _ in (16, 4)
        for target in ("ethos-u55-128", "tflm", "host-tflite")
        for model in ("dense", "palette")
    ]
    for row in rows:
        estimated = row["target"] == "ethos-u55-128"
        assert (row["value"] is None) is estimated
        assert (row["flash_bytes"] is not None) is estimated
        assert row["origin"].startswith("vendor's estimate") is estimated
    assert FLASH in result.stdout
    assert "100 % of operators on the NPU" in result.stdout
    report = (run.path / "report.html").read_text()
    assert "vendor&#39;s estimate" in report
    assert FLASH in report
    assert json.loads((run.path / "provenance.json").read_text())["packages"]["ethos-u-vela"]


def test_a_target_that_is_not_installed_is_said_before_training(
    command: Command, npz: Path, keras_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepalette.evaluate.target.importlib.util.find_spec", lambda name: None)
    options: list[Any] = ["--model", keras_file, "--data", npz, "--out", tmp_path / "r"]
    result = command("run", *options, "--targets", "ethos-u55-128")
    assert result.exit_code == 2
    assert "ethos-u55-128 is not installed here: pip install ethos-u-vela" in result.stderr
    assert not (tmp_path / "r").exists()


def test_flash_is_a_column_only_where_it_is_known() -> None:
    assert FLASH not in columns_of([MEASURED])
    columns = columns_of([MEASURED, ESTIMATED])
    assert columns == tuple(name for name in COLUMNS if name not in (INSTRUCTIONS, CYCLES))
    texts = dict(zip(columns, cells(ESTIMATED, columns), strict=True))
    assert (texts[FLASH], texts["value"], texts["n"]) == ("2.5", "–", "–")
    texts = dict(zip(columns, cells(MEASURED, columns), strict=True))
    assert (texts[FLASH], texts["value"], texts["n"]) == ("–", "0.5000", "8")


def test_instructions_and_cycles_are_columns_only_where_they_are_known() -> None:
    counted = replace(MEASURED, instructions=14_090_000)
    assert columns_of([MEASURED, counted]) == tuple(
        name for name in COLUMNS if name not in (FLASH, CYCLES)
    )
    modelled = replace(counted, cycles_model=21_000_000)
    texts = dict(zip(COLUMNS, cells(modelled, COLUMNS), strict=True))
    assert (texts[INSTRUCTIONS], texts[CYCLES]) == ("14.09", "21.00")
    assert CYCLES in columns_of([modelled])


def test_an_origin_names_its_rows_where_a_target_has_several() -> None:
    dense = replace(ESTIMATED, model="dense")
    assert origins([MEASURED, dense, ESTIMATED]) == [
        "host-tflite: measured on this host; n",
        "ethos-u55-128: measured on this host; n",
    ]
    other = replace(ESTIMATED, clusters=16, notes="m")
    assert origins([dense, ESTIMATED, other]) == [
        "ethos-u55-128 (dense 4, palette 4): measured on this host; n",
        "ethos-u55-128 (palette 16): measured on this host; m",
    ]
    elsewhere = replace(other, run="s")
    assert origins([ESTIMATED, elsewhere])[1].startswith("ethos-u55-128 (s palette 16): ")


def test_emulated_rows_are_drawn_where_there_are_no_others() -> None:
    few = replace(MEASURED, target="cortex-m4", instructions=5000, value=1.0)
    assert size_quality_svg([MEASURED, few]) == size_quality_svg([MEASURED])
    assert "cortex-m4, palette" in size_quality_svg([few])


def test_rows_without_quality_are_left_out_of_the_picture() -> None:
    baseline = replace(MEASURED, model="baseline", clusters=None, target="host-keras")
    assert size_quality_svg([baseline, MEASURED, ESTIMATED]) == size_quality_svg(
        [baseline, MEASURED]
    )
    assert "float baseline" in size_quality_svg([baseline, ESTIMATED])


def test_the_axis_of_accuracies_ends_at_1() -> None:
    perfect = replace(MEASURED, value=1.0)
    labels = re.findall(r">([01]\.\d+)<", size_quality_svg([perfect]))
    assert max(map(float, labels)) == 1.0
