"""The picture of a file's bytes: what a file holds is shown, and nothing in it can break the picture."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from edgepalette.export.share import Part
from edgepalette.pipeline.bytes_picture import COLORS, bytes_svg
from edgepalette.pipeline.inspection import part_rows, renamed

SPACE = "{http://www.w3.org/2000/svg}"


def found(name: str = "conv/kernel", shannon: int | None = 30) -> dict[str, Any]:
    """A file of one palette."""
    shares = [(Part.INDICES, name, 40), (Part.TABLES, name, 20), (Part.OPERATORS, "", 40)]
    return {
        "file": "/somewhere/m.tflite",
        "file_bytes": 100,
        "weight_bytes": 60,
        "palettes": 1,
        "packed_bound": 40,
        "shannon_bound": shannon,
        "tensors": [
            {
                "name": name,
                "shape": [4, 20],
                "values": 4,
                "stored": "palette",
                "shannon_bound": shannon,
                "codebook": {"values": [-1.0, 2.0], "counts": [20, 60]},
            }
        ],
        "shares": [{"part": p.value, "tensor": t, "bytes": size} for p, t, size in shares],
    }


def widths(svg: str, color: str) -> list[float]:
    root = ElementTree.fromstring(svg)  # noqa: S314 # made here
    rects = [rect for rect in root.iter(f"{SPACE}rect") if rect.get("fill") == color]
    return [float(rect.get("width", "nan").rstrip("%")) for rect in rects]


def test_bars_are_as_long_as_bytes() -> None:
    svg = bytes_svg(found(), "m.tflite")
    # in the file's bar, in the legend, in the weight's bar
    file, _, weight = widths(svg, COLORS[Part.INDICES])
    operators, _ = widths(svg, COLORS[Part.OPERATORS])
    assert file == operators
    table = widths(svg, COLORS[Part.TABLES])[2]
    np.testing.assert_allclose(weight, 2 * table, atol=0.02)


@pytest.mark.parametrize(
    "name", ["<script>alert(1)</script>", "\x00\x1b[31m&\ud800", "n" * 500, ""]
)
def test_any_name_gives_a_picture(name: str) -> None:
    svg = bytes_svg(found(name), name)
    assert "<script" not in svg
    ElementTree.fromstring(svg.encode())  # noqa: S314 # made here


def test_a_file_without_bounds_or_weights_has_a_picture() -> None:
    assert "Shannon" not in bytes_svg(found(shannon=None), "m")
    empty = {**found(), "tensors": [], "file_bytes": 0, "shares": []}
    ElementTree.fromstring(bytes_svg(empty, "m"))  # noqa: S314 # made here


def test_every_part_has_a_colour_of_its_own() -> None:
    assert len({COLORS[part] for part in Part}) == len(Part)


def test_the_terminals_bars_are_shares_of_the_file() -> None:
    rows = part_rows(found())
    assert [(row["part"], row["bytes"], row["percent"]) for row in rows] == [
        ("indices", 40, 40.0),
        ("operators", 40, 40.0),
        ("value tables", 20, 20.0),
    ]
    assert [len(row[""]) for row in rows] == [16, 16, 8]


def test_weights_take_other_names_and_the_file_loses_its_place() -> None:
    other = renamed(found("tensor 3"), {"tensor 3": "head/kernel"})
    assert other["file"] == "m.tflite"
    assert other["tensors"][0]["name"] == "head/kernel"
    assert {share["tensor"] for share in other["shares"]} == {"head/kernel", ""}
