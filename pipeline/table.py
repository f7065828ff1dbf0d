"""Measurements for people: the rows of the terminal's and the report's table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from ..evaluate.measurement import Measurement

FLASH = "flash KB"
INSTRUCTIONS = "M instr"
CYCLES = "M cycles"
COLUMNS = (
    "model",
    "K",
    "target",
    "metric",
    "value",
    "agree",
    "file KB",
    FLASH,
    "RAM KB",
    INSTRUCTIONS,
    CYCLES,
    "ms",
    "p95",
    "n",
)
NUMBERS = frozenset(COLUMNS) - {"model", "target", "metric"}


def columns_of(rows: Sequence[Measurement]) -> tuple[str, ...]:
    """The columns of a table of these rows; what few targets know only where one does."""
    known = {
        FLASH: any(row.flash_bytes is not None for row in rows),
        INSTRUCTIONS: any(row.instructions is not None for row in rows),
        CYCLES: any(row.cycles_model is not None for row in rows),
    }
    return tuple(name for name in COLUMNS if known.get(name, True))


def cells(row: Measurement, columns: Sequence[str]) -> tuple[str, ...]:
    """One row as text, a dash for what the target cannot know."""
    texts = {
        "model": row.model,
        "K": _number(row.clusters, "d"),
        "target": row.target,
        "metric": row.metric,
        "value": _number(row.value, ".4f"),
        "agree": _number(row.agreement, ".4f"),
        "file KB": _number(row.file_bytes, ".1f", 1e3),
        FLASH: _number(row.flash_bytes, ".1f", 1e3),
        "RAM KB": _number(row.ram_bytes, ".1f", 1e3),
        INSTRUCTIONS: _number(row.instructions, ".2f", 1e6),
        CYCLES: _number(row.cycles_model, ".2f", 1e6),
        "ms": _number(row.latency_ms_median, ".3f"),
        "p95": _number(row.latency_ms_p95, ".3f"),
        "n": _number(row.samples or None, "d"),
    }
    return tuple(texts[name] for name in columns)


def origins(rows: Sequence[Measurement]) -> list[str]:
    """Where the figures come from: a line per target, or per group of its rows where their notes differ."""
    several = len({row.run for row in rows}) > 1
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        named = [row.run] if several else []
        named += [row.model] if row.clusters is None else [row.model, str(row.clusters)]
        groups.setdefault((row.target, row.origin, row.notes), []).append(" ".join(named))
    often = Counter(target for target, _, _ in groups)
    return [
        f"{target}{_among(named) if often[target] > 1 else ''}: {origin}; {notes}"
        for (target, origin, notes), named in groups.items()
    ]


def print_measurements(rows: Sequence[Measurement], console: Console) -> None:
    """The table, and below it the origin of every figure."""
    several = len({row.run for row in rows}) > 1
    columns = columns_of(rows)
    table = Table(header_style="bold")
    for name in (*(["run"] if several else []), *columns):
        table.add_column(name, justify="right" if name in NUMBERS else "left", no_wrap=True)
    for row in rows:
        table.add_row(*([row.run] if several else []), *cells(row, columns))
    console.print(table)
    for line in origins(rows):
        console.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


def _among(named: Sequence[str]) -> str:
    return f" ({', '.join(named)})"


def _number(value: float | None, form: str, unit: float | None = None) -> str:
    return "–" if value is None else format(value if unit is None else value / unit, form)
