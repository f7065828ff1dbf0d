"""Pictures of firmware: a bar for each operator of each file, memory beside its limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree

from edgepalette.evaluate.measurement import FlashSplit, Measurement, OperatorCost, RamSplit
from edgepalette.pipeline.firmware_picture import ACROSS, firmware_svgs

ROW = Measurement(
    run="r",
    model="dense",
    clusters=4,
    target="cortex-m4",
    origin="counted",
    metric="accuracy",
    value=0.5,
    agreement=0.75,
    mismatched_bytes=0,
    file_bytes=100,
    flash_bytes=40_000,
    ram_bytes=6000,
    latency_ms_median=None,
    latency_ms_p95=None,
    instructions=5_000_000,
    cycles_model=None,
    samples=2,
    notes="",
    flash_split=FlashSplit(7000, 30_000, 0, 3000, None),
    ram_split=RamSplit(4000, 1500, 500, None),
    operators=(
        OperatorCost("CONV_2D", "1×8×8×4", 4_000_000, None, 2304),
        OperatorCost("SOFTMAX", "1×10", 1_000_000, None, 0),
    ),
)
PALETTE = replace(ROW, model="palette", flash_split=FlashSplit(7000, 15_000, 64, 3000, None))


def texts(svg: str) -> list[str]:
    root = ElementTree.fromstring(svg.encode())  # noqa: S314 # made here
    return [text for part in root.iter() if (text := (part.text or "").strip())]


def pictures(rows: Sequence[Measurement], clusters: int = 4) -> list[list[str]]:
    return [texts(svg) for svg in firmware_svgs(rows, clusters)]


def test_rows_without_firmware_or_of_other_clusters_give_no_picture() -> None:
    assert pictures([replace(ROW, operators=None)]) == []
    assert pictures([ROW, PALETTE], clusters=16) == []


def test_operators_stand_once_and_both_files_beside_each_other() -> None:
    operators, memory = pictures([ROW, PALETTE])
    assert [name for name in operators if "×" in name] == ["CONV_2D 1×8×8×4", "SOFTMAX 1×10"]
    assert {"cortex-m4", "dense", "palette", "million instructions"} <= set(operators)
    assert {"cortex-m4, dense", "cortex-m4, palette", "40.0", "25.1", "6.0"} <= set(memory)
    assert {"code", "weights", "tables", "other", "arena", "scratch", "stack"} <= set(memory)


def test_modelled_cycles_are_drawn_where_they_are_known() -> None:
    assert not any("cycles" in text for text in pictures([ROW])[0])
    costs = [replace(cost, cycles_model=6_000_000) for cost in ROW.operators or ()]
    modelled = replace(ROW, operators=tuple(costs))
    assert "dense, million cycles (modelled)" in pictures([modelled])[0]


def test_a_limit_is_told_and_drawn_where_it_is_in_sight() -> None:
    far = replace(ROW, flash_split=replace(ROW.flash_split, limit=2_097_152))  # type: ignore[type-var] # a row of firmware has one
    near = replace(ROW, flash_split=replace(ROW.flash_split, limit=20_000))  # type: ignore[type-var] # a row of firmware has one
    assert "40.0 of 2097.2" in pictures([far])[1]
    assert "40.0 of 20.0" in pictures([near])[1]
    plain, *drawn = ([*firmware_svgs([row], 4)][1].count("<path") for row in (ROW, far, near))
    assert drawn == [plain, plain + 1]


def test_many_targets_take_several_pictures() -> None:
    names = [f"target-{number}" for number in range(ACROSS + 1)]
    found = pictures([replace(ROW, target=name) for name in names])
    assert len(found) == 3
    assert set(names[:ACROSS]) <= set(found[0])
    assert names[ACROSS] in found[1]


def test_the_same_rows_give_the_same_bytes() -> None:
    assert [*firmware_svgs([ROW, PALETTE], 4)] == [*firmware_svgs([ROW, PALETTE], 4)]
