"""Size against quality, as SVG whose bytes depend on the rows alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from ..evaluate.measurement import Measurement

COLORS = {"dense": "#9aa3ad", "palette": "#c2410c"}
MARKERS = ("o", "s", "^", "D", "v", "P")


def svg_of(size: tuple[float, float], draw: Callable[[Any], None]) -> str:
    """What `draw` puts on a figure of matplotlib, size in inches."""
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    # ids and dates in the file would differ from run to run
    with mpl.rc_context({"svg.hashsalt": "edgepalette", "font.size": 10, "svg.fonttype": "none"}):
        figure = plt.figure(figsize=size, layout="constrained")
        draw(figure)
        out = io.StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None})
        plt.close(figure)
    return out.getvalue()


def size_quality_svg(rows: Sequence[Measurement]) -> str:
    """File size (KB) against the metric: a point per file and target, a dashed line at the float baseline.

    Emulated targets run few examples: they are drawn only where no other ran the files.
    """
    ran = [row for row in rows if row.model in COLORS and row.value is not None]
    points = [row for row in ran if row.instructions is None] or ran

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        groups = list(dict.fromkeys((row.run, row.target) for row in points))
        several = len({run for run, _ in groups}) > 1
        for number, (run, target) in enumerate(groups):
            for model, color in COLORS.items():
                _curve(axes, [r for r in points if (r.run, r.target, r.model) == (run, target, model)],
                       color, MARKERS[number % len(MARKERS)],
                       f"{run + ', ' if several else ''}{target}, {model}")  # fmt: skip
        for row in rows:
            if row.model == "baseline" and row.value is not None:
                axes.axhline(row.value, color="#2563eb", linestyle="--", linewidth=1,
                             label=f"{row.run + ', ' if several else ''}float baseline")  # fmt: skip
        axes.set_xlabel("file size, KB (1 KB = 1000 B)")
        axes.set_ylabel(points[0].metric if points else "")
        axes.set_xlim(left=0)
        low, high = axes.get_ylim()
        if points and points[0].metric == "accuracy" and high > 1:
            # no share is above 1; a little room for its markers
            axes.set_ylim(top=1 + 0.05 * (1 - low))
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)

    return svg_of((7.6, 4.2), draw)


def _curve(axes: object, rows: list[Measurement], color: str, marker: str, label: str) -> None:
    rows = sorted(rows, key=lambda row: row.file_bytes)
    sizes, values = [row.file_bytes / 1e3 for row in rows], [row.value for row in rows]
    axes.plot(sizes, values, marker=marker, color=color, label=label, linewidth=1)  # type: ignore[attr-defined] # matplotlib's Axes
    for row, size, value in zip(rows, sizes, values, strict=True):
        if row.clusters is not None and row.model == "palette":
            axes.annotate(f"{row.clusters}", (size, value), textcoords="offset points",  # type: ignore[attr-defined] # matplotlib's Axes
                          xytext=(5, 5), fontsize=8, color=color)  # fmt: skip
