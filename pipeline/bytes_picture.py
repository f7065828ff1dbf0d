"""Where a file's bytes go: its parts as one bar, its weights as bars with their palettes, as SVG."""

from __future__ import annotations

from collections import defaultdict
from importlib import resources
from typing import Any

from ..export.share import Part
from .codebook import strip
from .inspection import parts_of

COLORS = {
    Part.INDICES: "#c2410c",
    Part.TABLES: "#f59e0b",
    Part.UNPACKING: "#fcd34d",
    Part.DENSE: "#64748b",
    Part.SCALES: "#0d9488",
    Part.BIASES: "#5eead4",
    Part.CONSTANTS: "#a3e635",
    Part.OPERATORS: "#2563eb",
    Part.TENSORS: "#60a5fa",
    Part.NAMES: "#a78bfa",
    Part.STRUCTURE: "#bfdbfe",
    Part.UNREAD: "#e2e8f0",
}
WIDTH = 960
# longest bar of a weight, and widest strip of a palette, in pixels
BAR, STRIP = 290, 130


def bytes_svg(found: dict[str, Any], title: str) -> str:
    """The picture of what `inspect_file` found; every text is escaped."""
    from jinja2 import Environment, StrictUndefined

    text = resources.files("edgepalette.pipeline.templates").joinpath("bytes.svg.j2").read_text()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    total = found["file_bytes"] or 1
    by_tensor: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for share in found["shares"]:
        by_tensor[share["tensor"]].append(share)
    rows = [_weight(row, by_tensor[row["name"]]) for row in found["tensors"]]
    longest = max((row["bytes"] for row in rows), default=0) or 1
    return environment.from_string(text).render(
        title=_visible(title),
        found=found,
        width=WIDTH,
        bar=BAR,
        strip_width=STRIP,
        whole=_segments(found["shares"], total, WIDTH - 48),
        legend=[
            {"part": part, "color": _color(part), "bytes": size, "percent": 100 * size / total}
            for part, size in parts_of(found["shares"]).items()
        ],
        rows=[
            {
                **row,
                "segments": _segments(row["shares"], longest, BAR),
                "mark": None
                if row["bound"] is None
                else BAR * min(row["bound"], longest) / longest,
            }
            for row in rows
        ],
    )


def _weight(row: dict[str, Any], shares: list[dict[str, Any]]) -> dict[str, Any]:
    book = row["codebook"]
    name = _visible(row["name"])
    return {
        "name": name if len(name) <= 30 else f"{name[:14]}…{name[-15:]}",
        "whole_name": name,
        "shape": " × ".join(map(str, row["shape"])),
        "shares": shares,
        "bytes": sum(share["bytes"] for share in shares),
        "bound": row["shannon_bound"],
        "note": f"{row['values']} values" if row["stored"] != "dense" else "dense",
        "strip": strip(book["values"], book["counts"]) if book else [],
    }


def _segments(shares: list[dict[str, Any]], total: int, width: float) -> list[dict[str, Any]]:
    """Parts of a bar of `width` pixels for `total` bytes."""
    segments, start = [], 0.0
    for part, size in parts_of(shares).items():
        long = width * size / total
        segments.append(
            {"x": start, "width": long, "color": _color(part), "text": f"{part}: {size} B"}
        )
        start += long
    return segments


def _color(part: str) -> str:
    return COLORS[Part(part)]


def _visible(text: str) -> str:
    """Text that XML can hold."""
    return "".join(sign if sign.isprintable() else "�" for sign in text)
