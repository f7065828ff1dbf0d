"""Measurement rows as JSON: exactly the documented keys, there and back."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from edgepalette.errors import RunError
from edgepalette.evaluate.measurement import (
    FlashSplit,
    Measurement,
    OperatorCost,
    RamSplit,
    bytes_over,
)

# DESIGN section 2: what other tools may rely on
KEYS = [
    "run",
    "model",
    "clusters",
    "target",
    "origin",
    "metric",
    "value",
    "agreement",
    "mismatched_bytes",
    "file_bytes",
    "flash_bytes",
    "ram_bytes",
    "latency_ms_median",
    "latency_ms_p95",
    "instructions",
    "cycles_model",
    "samples",
    "notes",
    "flash_split",
    "ram_split",
    "operators",
]


def row() -> Measurement:
    return Measurement(
        run="r",
        model="palette",
        clusters=4,
        target="tflm",
        origin="run on this host",
        metric="accuracy",
        value=0.5,
        agreement=0.75,
        mismatched_bytes=0,
        file_bytes=100,
        flash_bytes=None,
        ram_bytes=2000,
        latency_ms_median=None,
        latency_ms_p95=None,
        instructions=None,
        cycles_model=None,
        samples=8,
        notes="",
    )


def test_a_row_has_the_documented_keys_in_their_order() -> None:
    assert list(row().to_json()) == KEYS


def test_a_row_comes_back_from_json_as_it_was() -> None:
    assert Measurement.from_json(json.loads(json.dumps(row().to_json()))) == row()


def firmware_row() -> Measurement:
    return replace(
        row(),
        flash_split=FlashSplit(1, 2, 3, 4, 9),
        ram_split=RamSplit(5, 6, 7, None),
        operators=(OperatorCost("ADD", "1×8", 90, None, 0),),
    )


def test_a_row_of_firmware_comes_back_with_its_parts() -> None:
    assert Measurement.from_json(json.loads(json.dumps(firmware_row().to_json()))) == firmware_row()


def test_a_row_from_before_firmware_is_read() -> None:
    old = {key: value for key, value in row().to_json().items() if key in KEYS[:18]}
    assert Measurement.from_json(old) == row()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"flash_split": {"code": 1}}, r"a flash split must have the keys .*got \['code'\]"),
        ({"ram_split": 3}, "a RAM split must have the keys .*got int"),
        ({"operators": {}}, "operators must be a list, got dict"),
        ({"operators": [{}]}, r"an operator's cost must have the keys .*got \[\]"),
    ],
)
def test_parts_with_other_keys_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError, match=said):
        Measurement.from_json({**row().to_json(), **changes})


def test_bytes_over_are_those_beyond_the_device() -> None:
    assert bytes_over(FlashSplit(1, 2, 3, 4, 9)) == 1
    assert bytes_over(FlashSplit(1, 2, 3, 4, 10)) == 0
    assert bytes_over(RamSplit(5, 6, 7, None)) == 0


@pytest.mark.parametrize(
    ("plain", "got"),
    [
        ({**row().to_json(), "speed": 1}, "'speed'"),
        ({key: value for key, value in row().to_json().items() if key != "target"}, "got"),
        ({}, r"got \[\]"),
        (["palette"], "got list"),
        (None, "got NoneType"),
    ],
)
def test_a_row_with_other_keys_is_refused(plain: Any, got: str) -> None:
    with pytest.raises(RunError, match=f"a measurement must have the keys .*{got}"):
        Measurement.from_json(plain)
