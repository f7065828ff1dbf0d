"""Vela's estimates: what its summary says, what stays on the CPU by name, and one clear message for what it refuses."""

from __future__ import annotations

import importlib.metadata
import math
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgepalette.errors import TargetError
from edgepalette.evaluate.ethos_u import (
    ACCELERATORS,
    MOST_NAMED,
    Estimate,
    _flash,
    _milliseconds,
    _read_summary,
    _system,
    _whole,
    estimate,
)
from edgepalette.evaluate.measurement import Measurement
from edgepalette.evaluate.target import TARGETS, Effort, TestSet, measure
from edgepalette.export.tflite_schema import Model, Op, OperatorCode, read_model, write_model

U55, U85 = "ethos-u55-128", "ethos-u85-256"
SOFTMAX, SIN = 25, 66
# a float model of three operators, from the corpus of damaged files
FLOAT = Path(__file__).parents[2] / "scripts" / "fuzz_corpus" / "float.tflite"


@pytest.fixture(scope="module")
def estimates(exported: Any) -> dict[tuple[str, str], Estimate]:
    """Dense and palette file on a processor with flash and one without."""
    return {
        (model, name): estimate(exported.file(f"{model}.tflite"), name)
        for model in ("dense", "palette")
        for name in (U55, U85)
    }


def without_softmax(model: Model, **fields: Any) -> Model:
    """The model with another operator in softmax's place."""
    codes = tuple(
        OperatorCode(**fields) if code.code == SOFTMAX else code for code in model.operator_codes
    )
    return replace(model, operator_codes=codes)


def test_the_targets_are_all_that_vela_knows() -> None:
    asked = [sys.executable, "-P", "-m", "ethosu.vela", "--help"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    listed = re.search(r"--accelerator-config \{([^}]*)\}", said)
    assert listed is not None
    assert tuple(re.sub(r"\s", "", listed[1]).split(",")) == ACCELERATORS
    assert [name for name in TARGETS if name.startswith("ethos")] == list(ACCELERATORS)


def test_a_palette_file_is_worth_to_the_npu_what_the_dense_one_of_its_weights_is(
    estimates: dict[tuple[str, str], Estimate],
) -> None:
    for name in (U55, U85):
        assert estimates["palette", name] == estimates["dense", name]


def test_an_int8_model_lies_whole_on_the_npu_with_every_figure(
    estimates: dict[tuple[str, str], Estimate], exported: Any
) -> None:
    operators = len(read_model(exported.file("dense.tflite").read_bytes()).subgraphs[0].operators)
    for (_, name), found in estimates.items():
        assert (found.operators, found.cpu_operators) == (operators, ())
        assert f"100 % of operators on the NPU ({operators} of {operators})" in found.notes()
        assert f"encoded weights {found.encoded_weights:,} B" in found.notes()
        assert importlib.metadata.version("ethos-u-vela") in found.notes()
        # conv 3×3×1×8 and dense 512×10, each up to a multiple of 16
        assert found.original_weights == 80 + 5120
        assert found.encoded_weights is not None
        assert 0 < found.encoded_weights < found.original_weights
        assert found.latency_ms is not None
        assert 0 < found.latency_ms < 1
        # input 64 B and the first activation 512 B are alive at once
        assert (found.sram_bytes or 0) >= 576 or name == U85


def test_flash_is_told_where_the_memory_mode_has_it(
    estimates: dict[tuple[str, str], Estimate],
) -> None:
    with_flash, without = estimates["palette", U55], estimates["palette", U85]
    assert with_flash.flash_bytes is not None
    assert with_flash.encoded_weights is not None
    assert with_flash.encoded_weights < with_flash.flash_bytes < with_flash.compiled_bytes
    assert with_flash.dram_bytes == 0
    assert "Shared_Sram, 500 MHz" in with_flash.notes()
    assert without.flash_bytes is None
    assert without.dram_bytes
    assert f"DRAM {without.dram_bytes:,} B" in without.notes()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"builtin_code": SIN, "deprecated_builtin_code": SIN}, "SIN 1×10"),
        (
            {"builtin_code": Op.CUSTOM, "deprecated_builtin_code": 32, "custom_code": b"Own"},
            "Own 1×10",
        ),
    ],
)
def test_an_operator_left_to_the_cpu_is_named_and_its_time_unknown(
    fields: dict[str, Any], said: str, exported: Any, tmp_path: Path
) -> None:
    model = read_model(exported.file("palette.tflite").read_bytes())
    path = tmp_path / "mixed.tflite"
    path.write_bytes(write_model(without_softmax(model, **fields)))
    found = estimate(path, U55)
    assert found.cpu_operators == (said,)
    assert found.latency_ms is None
    assert found.npu_ms
    assert found.encoded_weights
    rest = found.operators - 1
    assert f"on the CPU: {said}; {found.npu_ms:.3f} ms on the NPU" in found.notes()
    assert f"({rest} of {found.operators})" in found.notes()


def test_a_float_model_is_left_to_the_cpu_whole_and_nothing_is_known(tmp_path: Path) -> None:
    found = estimate(FLOAT, U55)
    assert len(found.cpu_operators) == found.operators > 0
    figures = (found.encoded_weights, found.flash_bytes, found.sram_bytes, found.npu_ms)
    assert figures == (None,) * 4
    assert found.latency_ms is None
    assert "0 % of operators on the NPU" in found.notes()


def test_many_operators_on_the_cpu_are_counted_and_cut_with_how_many_more(
    estimates: dict[tuple[str, str], Estimate],
) -> None:
    names = ("SIN 1×8", "SIN 1×8", *(f"COS 1×{size}" for size in range(MOST_NAMED + 4)))
    said = replace(estimates["dense", U55], operators=9999, cpu_operators=names).notes()
    assert "; 99 % of operators on the NPU" in said
    assert "on the CPU: 2 × SIN 1×8, COS 1×0" in said
    assert f"COS 1×{MOST_NAMED - 2}, and 5 other kinds" in said


def test_a_file_vela_refuses_is_one_line_with_its_reason(exported: Any, tmp_path: Path) -> None:
    model = read_model(exported.file("dense.tflite").read_bytes())
    graph = model.subgraphs[0]
    weights = next(
        int(operator.inputs[1])
        for operator in graph.operators
        if model.operator_codes[operator.opcode_index].code == Op.CONV_2D
        and operator.inputs is not None
    )
    # weights that are no constant
    tensors = tuple(
        replace(tensor, buffer=0) if number == weights else tensor
        for number, tensor in enumerate(graph.tensors)
    )
    path = tmp_path / "refused.tflite"
    path.write_bytes(write_model(replace(model, subgraphs=(replace(graph, tensors=tensors),))))
    with pytest.raises(
        TargetError, match=r"Vela refused .*refused\.tflite; it said: .*Conv2D"
    ) as e:
        estimate(path, U55)
    assert "\n" not in str(e.value)
    assert "Traceback" not in str(e.value)


@pytest.mark.parametrize("data", [b"", b"not a model, not a model", b"\x10\0\0\0TFL3" + bytes(24)])
def test_damaged_files_never_reach_vela(
    data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgepalette.evaluate.ethos_u.run_module", lambda *_: pytest.fail("ran"))
    path = tmp_path / "damaged.tflite"
    path.write_bytes(data)
    with pytest.raises(TargetError, match=r"takes a \.tflite file, got .*damaged\.tflite: "):
        estimate(path, U55)


def test_a_file_that_is_compiled_already_is_said_to_be(exported: Any, tmp_path: Path) -> None:
    model = read_model(exported.file("dense.tflite").read_bytes())
    path = tmp_path / "compiled.tflite"
    fields = {"builtin_code": Op.CUSTOM, "deprecated_builtin_code": 32, "custom_code": b"ethos-u"}
    path.write_bytes(write_model(without_softmax(model, **fields)))
    with pytest.raises(TargetError, match=r"not compiled, got .*, which Vela has compiled"):
        estimate(path, U55)


def test_a_file_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match="No such file"):
        estimate(tmp_path / "gone.tflite", U55)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("exec sleep 60", r"Vela did not finish .*dense\.tflite within 0 s"),
        ("kill -SEGV $$", r"Vela crashed \(SIGSEGV\) on .*dense\.tflite"),
        ("exit 0", "Vela must write a compiled file and a summary.*pip install"),
    ],
)
def test_a_vela_that_hangs_crashes_or_writes_nothing_is_told(
    script: str, said: str, exported: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    with pytest.raises(TargetError, match=said):
        estimate(exported.file("dense.tflite"), U55, 0.2 if "sleep" in script else 60)


def test_fields_of_the_summary_are_read_by_name_and_missing_ones_are_unknown(
    tmp_path: Path,
) -> None:
    path = tmp_path / "summary.csv"
    path.write_text(
        "new,total_npu_encoded_weights,sram_memory_used,inference_time,system_config,core_clock\n"
        "x,1234,49.46875,0.000372006,Own,5e8\n"
    )
    summary = _read_summary(path)
    assert _whole(summary, "total_npu_encoded_weights") == 1234
    assert _whole(summary, "sram_memory_used", 1024) == 50656
    assert _milliseconds(summary) == 0.372006
    assert _system(summary) == "Own, 500 MHz"
    assert _whole(summary, "total_original_weights") is None
    assert _flash(summary) is None
    assert _milliseconds({}) is None
    assert _system({}) == "unknown system"


@pytest.mark.parametrize("text", ["", "a,b\n", "a,b\n1\n", "a\n1,2,3\n"])
def test_a_short_or_ragged_summary_is_no_crash(text: str, tmp_path: Path) -> None:
    path = tmp_path / "summary.csv"
    path.write_text(text)
    try:
        assert _read_summary(path).keys() <= {"a", "b"}
    except StopIteration:
        assert text in ("", "a,b\n")


@given(st.text() | st.floats().map(str))
@example("1.7e308")
def test_a_figure_is_a_size_or_unknown(text: str) -> None:
    found = _whole({"field": text}, "field", 1024)
    assert found is None or found >= 0
    if found is not None:
        assert math.isclose(found, float(text) * 1024, abs_tol=0.5)


def test_flash_on_and_off_the_chip_is_added() -> None:
    summary = {"on_chip_flash_memory_used": "1.5", "off_chip_flash_memory_used": "2"}
    assert _flash({**summary, "weights_storage_area": "Off-chip Flash"}) == 3584
    assert _flash({**summary, "weights_storage_area": "SRAM"}) is None
    assert _flash({"weights_storage_area": "On-chip Flash"}) is None


def test_a_row_has_the_estimates_and_no_quality(
    exported: Any, estimates: dict[tuple[str, str], Estimate]
) -> None:
    tests = TestSet(exported.inputs, exported.labels, exported.float_outputs, True, "accuracy")
    path = exported.file("palette.tflite")
    (row,) = measure(TARGETS[U55], "run", 4, {"palette": path}, tests, Effort())
    found = estimates["palette", U55]
    assert row.origin.startswith("vendor's estimate")
    assert (row.value, row.agreement, row.mismatched_bytes, row.samples) == (None, None, None, 0)
    assert (row.flash_bytes, row.ram_bytes) == (found.flash_bytes, found.sram_bytes)
    assert (row.latency_ms_median, row.latency_ms_p95) == (found.latency_ms, None)
    assert (row.file_bytes, row.notes) == (path.stat().st_size, found.notes())
    assert Measurement.from_json(row.to_json()) == row


def test_the_file_and_its_folder_are_left_as_they_were(exported: Any) -> None:
    before = {path: path.stat().st_mtime_ns for path in exported.folder.iterdir()}
    estimate(exported.file("palette.tflite"), U55)
    assert {path: path.stat().st_mtime_ns for path in exported.folder.iterdir()} == before
