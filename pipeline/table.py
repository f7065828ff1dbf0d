"""Measurements for people: the rows of the terminal's and the report's table."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..evaluate.measurement import Measurement

COLUMNS = (
    "model",
    "K",
    "target",
    "metric",
    "value",
    "agree",
    "file KB",
    "RAM KB",
    "ms",
    "p95",
    "n",
)
NUMBERS = frozenset(COLUMNS) - {"model", "target", "metric"}


def cells(row: Measurement) -> tuple[str, ...]:
    """One row as text, a dash for what the target cannot know."""
    return (
        row.model,
        _number(row.clusters, "d"),
        row.target,
        row.metric,
        _number(row.value, ".4f"),
        _number(row.agreement, ".4f"),
        _number(row.file_bytes / 1e3, ".1f"),
        _number(None if row.ram_bytes is None else row.ram_bytes / 1e3, ".1f"),
        _number(row.latency_ms_median, ".3f"),
        _number(row.latency_ms_p95, ".3f"),
        str(row.samples),
    )


def print_measurements(rows: Sequence[Measurement], console: Console) -> None:
    """The table, and below it the origin of every figure."""
    several = len({row.run for row in rows}) > 1
    table = Table(header_style="bold")
    for name in (*(["run"] if several else []), *COLUMNS):
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
    for row in rows:
        table.add_row(*([row.run] if several else []), *cells(row))
    console.print(table)
    for target, origin, notes in dict.fromkeys((r.target, r.origin, r.notes) for r in rows):
        console.print(f"{target}: {origin}; {notes}", style="dim", highlight=False, soft_wrap=True)


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
