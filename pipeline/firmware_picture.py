"""What firmware takes, drawn: instructions by operator, flash and RAM by use beside what the device has."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from ..evaluate.measurement import FlashSplit, Measurement, OperatorCost, RamSplit
from .picture import COLORS, svg_of

# targets side by side in one picture
ACROSS = 3
FLASH_COLORS = {"code": "#2563eb", "weights": "#c2410c", "tables": "#f59e0b", "other": "#94a3b8"}
RAM_COLORS = {"arena": "#0d9488", "scratch": "#5eead4", "stack": "#64748b"}
# a limit further away than this, as a part of the largest bar, is told and not drawn
IN_SIGHT = 1.25


def firmware_svgs(rows: Sequence[Measurement], clusters: int) -> Iterator[str]:
    """Pictures of the rows with these clusters that ran firmware: operators, then memory; none without such rows."""
    ran = [row for row in rows if row.clusters == clusters and row.operators]
    targets = list(dict.fromkeys(row.target for row in ran))
    for start in range(0, len(targets), ACROSS):
        yield _operators_svg(ran, targets[start : start + ACROSS])
    if ran:
        yield _memory_svg(ran)


def _operators_svg(rows: Sequence[Measurement], targets: Sequence[str]) -> str:
    """A bar for each operator of each file, in millions of instructions; a point where cycles are modelled."""
    names = [f"{cost.operator} {cost.output}" for cost in rows[0].operators or ()]

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, len(targets), sharey=True, squeeze=False)[0]
        for axes, target in zip(panels, targets, strict=True):
            for row in (row for row in rows if row.target == target):
                _bars(axes, row.model, row.operators or ())
            axes.set_title(target, fontsize=10)
            axes.set_xlabel("million instructions")
            _grid(axes)
        panels[0].set_yticks(range(len(names)), names, fontsize=8)
        panels[0].set_ylim(len(names) - 0.5, -0.5)
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)  # fmt: skip

    return svg_of((2.2 + 2.7 * len(targets), 1.4 + 0.3 * len(names)), draw)


def _bars(axes: Any, model: str, costs: Sequence[OperatorCost]) -> None:
    aside = -0.2 if model == "dense" else 0.2
    places = [place + aside for place in range(len(costs))]
    axes.barh(places, [cost.instructions / 1e6 for cost in costs], 0.38, color=COLORS[model], label=model)  # fmt: skip
    modelled = [(cost.cycles_model, place) for cost, place in zip(costs, places, strict=True)]
    if known := [(cycles / 1e6, place) for cycles, place in modelled if cycles is not None]:
        axes.plot(*zip(*known, strict=True), "|", color="#1f2933", markersize=7,
                  label=f"{model}, million cycles (modelled)")  # fmt: skip


def _memory_svg(rows: Sequence[Measurement]) -> str:
    """Flash and RAM of each file on each target; a line where the device ends."""

    def draw(figure: Any) -> None:
        panels = figure.subplots(1, 2, sharey=True)
        _stack(panels[0], "flash, KB", [row.flash_split for row in rows], FLASH_COLORS)
        _stack(panels[1], "RAM, KB", [row.ram_split for row in rows], RAM_COLORS)
        names = [f"{row.target}, {row.model}" for row in rows]
        panels[0].set_yticks(range(len(names)), names, fontsize=8)
        panels[0].set_ylim(len(names) - 0.5, -0.5)

    return svg_of((8.6, 1.6 + 0.3 * len(rows)), draw)


def _stack(
    axes: Any, title: str, splits: Sequence[FlashSplit | RamSplit | None], colors: dict[str, str]
) -> None:
    known = [(place, split) for place, split in enumerate(splits) if split is not None]
    longest = max((split.total for _, split in known), default=0) / 1e3
    starts = [0.0] * len(known)
    for use, color in colors.items():
        widths = [getattr(split, use) / 1e3 for _, split in known]
        axes.barh([place for place, _ in known], widths, 0.6, left=starts, color=color, label=use)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    for place, split in known:
        limit = None if split.limit is None else split.limit / 1e3
        of = "" if limit is None else f" of {limit:.1f}"
        axes.annotate(f"{split.total / 1e3:.1f}{of}", (split.total / 1e3, place), textcoords="offset points",
                      xytext=(5, 0), va="center", fontsize=8)  # fmt: skip
        if limit is not None and limit <= IN_SIGHT * longest:
            axes.plot([limit, limit], [place - 0.42, place + 0.42], color="#1f2933", linewidth=1.5)
    axes.set_xlim(0, 1.35 * longest or 1)
    axes.set_xlabel(title)
    _grid(axes)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, frameon=False, columnspacing=1, handlelength=1)  # fmt: skip


def _grid(axes: Any) -> None:
    axes.set_axisbelow(True)
    axes.grid(alpha=0.25, axis="x")
