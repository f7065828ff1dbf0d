"""What clustering would do to a model, before hours of training."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from ..cluster.palette import index_width
from ..cluster.plan import ClusterPlan
from ..export.loader import HEADER_SIZE, MAX_BITS
from .cluster_stage import plan_of
from .data import load_dataset
from .models import load_model
from .recipe import recipe_of

# of one DECODE with its tensors and buffers in a lean file, measured: 124-139 bytes with header and 16 values
DECODE_BYTES = 120


def predict_plans(source: str, data: str | None, cluster: dict[str, Any]) -> list[dict[str, Any]]:
    """One plan per number of clusters, as plain values, bytes predicted for int8 .tflite.

    cluster: keys of a recipe's section of this name.
    """
    section = recipe_of({"cluster": cluster}, "the options").cluster
    model = load_model(source, load_dataset(data) if data else None)
    return [_predicted(plan_of(model, number, section), number) for number in section.clusters]


def palette_bytes(size: int, clusters: int, tables: int = 1) -> int:
    """Bytes of a palette with its DECODE; of the dense int8 tensor where that is less or indices are too wide."""
    bits = index_width(clusters)
    if bits > MAX_BITS:
        return size
    return min(size, (size * bits + 7) // 8 + tables * clusters + HEADER_SIZE + DECODE_BYTES)


def print_plans(plans: list[dict[str, Any]]) -> None:
    """Tables for the terminal."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    for plan in plans:
        table = Table(
            header_style="bold", title=f"{plan['clusters']} clusters", title_justify="left"
        )
        for name in (
            "weight",
            "shape",
            "elements",
            "clusters",
            "int8 B",
            "palette B",
            "remarks",
        ):
            right = name in ("elements", "clusters", "int8 B", "palette B")
            table.add_column(name, justify="right" if right else "left")
        for row in plan["weights"]:
            table.add_row(
                row["name"],
                " × ".join(map(str, row["shape"])),
                str(row["elements"]),
                str(row["clusters"] or "–"),
                str(row["int8_bytes"]),
                str(row["palette_bytes"]),
                row["reason"] or "; ".join(row["notes"]),
            )
        console.print(table)
        console.print(
            f"weights: {plan['int8_bytes'] / 1e3:.1f} KB as int8, {plan['palette_bytes'] / 1e3:.1f} KB as palettes "
            "(predicted; the file's graph comes on top)",
            highlight=False,
        )


def _predicted(plan: ClusterPlan, clusters: int) -> dict[str, Any]:
    rows = [
        {
            "name": planned.weight.name,
            "shape": list(planned.weight.shape),
            "elements": planned.size,
            "clusters": planned.clusters,
            "int8_bytes": planned.size,
            "palette_bytes": palette_bytes(
                planned.size,
                planned.clusters,
                1 if planned.channels is None else planned.channels.count,
            ),
            "reason": "",
            "notes": list(planned.notes),
        }
        for planned in plan.clustered
    ]
    rows += [
        {
            "name": kept.weight.name,
            "shape": list(kept.weight.shape),
            "elements": kept.size,
            "clusters": None,
            # vectors become int32 biases or vanish in scales; matrices become int8
            "int8_bytes": kept.size if len(kept.weight.shape) > 1 else 4 * kept.size,
            "palette_bytes": kept.size if len(kept.weight.shape) > 1 else 4 * kept.size,
            "reason": kept.reason,
            "notes": [],
        }
        for kept in plan.kept
    ]
    return {
        "clusters": clusters,
        "weights": rows,
        "int8_bytes": sum(row["int8_bytes"] for row in rows),
        "palette_bytes": sum(row["palette_bytes"] for row in rows),
    }
