"""Measurement rows as JSON: exactly the documented keys, there and back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgepalette.errors import RunError
from edgepalette.evaluate.measurement import Measurement

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
