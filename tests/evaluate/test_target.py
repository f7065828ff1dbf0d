"""Targets: rows with what each can know, and nothing it cannot."""

from __future__ import annotations

from typing import Any

import pytest

from edgepalette.errors import RecipeError
from edgepalette.evaluate import target as targets
from edgepalette.evaluate.measurement import Measurement
from edgepalette.evaluate.target import TARGETS, Effort, TestSet, get_target, measure

RUNS = 5


@pytest.fixture(scope="module")
def rows(exported: Any) -> dict[str, list[Measurement]]:
    """Dense and palette file on every target that runs them."""
    tests = TestSet(
        exported.inputs, exported.labels, exported.float_outputs, classifies=True, metric="accuracy"
    )
    return {
        name: measure(
            target,
            "run",
            4,
            {model: exported.file(f"{model}.{target.format}") for model in ("dense", "palette")},
            tests,
            Effort(1, RUNS),
        )
        for name, target in TARGETS.items()
        if target.runtime not in (targets.VELA, targets.EMULATOR)
    }


def test_every_target_gives_a_row_per_file_with_its_origin(
    rows: dict[str, list[Measurement]], exported: Any
) -> None:
    for name, found in rows.items():
        assert [row.model for row in found] == ["dense", "palette"]
        for row in found:
            file = exported.file(f"{row.model}.{TARGETS[name].format}")
            assert row.target == name
            assert row.origin == TARGETS[name].origin
            assert row.samples == len(exported.labels)
            assert row.file_bytes == file.stat().st_size
            assert row.value > 0.6
            assert row.agreement is not None
            assert row.agreement > 0.9


def test_the_palette_file_gives_the_dense_files_bytes(rows: dict[str, list[Measurement]]) -> None:
    for name in ("host-tflite", "tflm"):
        assert [row.mismatched_bytes for row in rows[name]] == [0, 0]
        dense, palette = rows[name]
        assert (dense.value, dense.agreement) == (palette.value, palette.agreement)


def test_float_outputs_are_not_compared_byte_by_byte(rows: dict[str, list[Measurement]]) -> None:
    for name in ("host-onnx", "host-onnx-int8"):
        assert [row.mismatched_bytes for row in rows[name]] == [None, None]


def test_host_targets_tell_latency_with_runs_and_threads(
    rows: dict[str, list[Measurement]],
) -> None:
    for name in ("host-tflite", "host-onnx", "host-onnx-int8"):
        for row in rows[name]:
            assert row.latency_ms_median is not None
            assert row.latency_ms_p95 is not None
            assert 0 < row.latency_ms_median <= row.latency_ms_p95
            assert "1 thread" in row.notes
            assert f"{RUNS} runs" in row.notes
            assert row.ram_bytes is None


def test_tflm_tells_an_arena_said_to_be_of_another_machine_and_no_latency(
    rows: dict[str, list[Measurement]],
) -> None:
    for row in rows["tflm"]:
        assert row.ram_bytes is not None
        assert row.latency_ms_median is None
        assert row.latency_ms_p95 is None
        assert "x86-64" in row.origin
        assert "tflite-micro" in row.notes


def test_tflm_runs_a_stated_sample_of_a_large_test_set(
    exported: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "run_file", lambda request: requests.append(request) or 1 / 0)
    requests: list[targets.Request] = []
    labels = exported.labels.repeat(10)
    tests = TestSet(exported.inputs, labels, exported.float_outputs, True, "accuracy")
    for name, expected in [("tflm", targets.TFLM_SAMPLES), ("host-tflite", len(labels))]:
        with pytest.raises(ZeroDivisionError):
            measure(
                TARGETS[name], "r", 4, {"dense": exported.file("dense.tflite")}, tests, Effort()
            )
        assert requests[-1].samples == expected


def test_an_unknown_target_names_the_ones_there_are() -> None:
    with pytest.raises(RecipeError, match=r"host-tflite, .*, tflm, ethos-u55-32, .* got 'pi'"):
        get_target("pi")


def test_a_target_without_its_runtime_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets.importlib.util, "find_spec", lambda name: None)
    for target in TARGETS.values():
        if target.runtime != targets.EMULATOR:
            assert (target.missing() or "").startswith("pip install ")
