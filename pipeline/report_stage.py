"""Stage report: all rows in one file, provenance, and a page to look at."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

from ..evaluate.measurement import Measurement
from ..export.averages import MEAN_REASON
from . import layout
from .bytes_picture import bytes_svg
from .codebook import strip
from .files import write_json, write_text
from .firmware_picture import firmware_svgs
from .picture import size_quality_svg
from .provenance import provenance
from .session import Session
from .table import NUMBERS, cells, columns_of, origins


def run_report(session: Session) -> None:
    """Write measurements.json, provenance.json and report.html."""
    baseline = _read(session.path(layout.BASELINE_REPORT))
    parts = [
        _part(session, clusters) for clusters in dict.fromkeys(session.recipe.cluster.clusters)
    ]
    plain = [*baseline["measurements"]]
    for part in parts:
        plain += [*part["cluster"]["measurements"], *part["evaluate"]["measurements"]]
    rows = [Measurement.from_json(row) for row in plain]
    origins = provenance(session.recipe)
    write_json(session.path(layout.MEASUREMENTS), plain)
    write_json(session.path(layout.PROVENANCE), origins)
    page = render(
        title=session.directory.resolve().name,
        rows=rows,
        baseline=baseline,
        parts=parts,
        provenance=origins,
        recipe=session.recipe.to_json(),
    )
    write_text(session.path(layout.REPORT), page)


def render(**context: Any) -> str:
    """The page; every value is escaped."""
    from jinja2 import Environment, StrictUndefined

    text = resources.files("edgepalette.pipeline.templates").joinpath("report.html.j2").read_text()
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    rows = context["rows"]
    columns = columns_of(rows)
    return environment.from_string(text).render(
        **context,
        columns=columns,
        numbers=NUMBERS,
        table=[cells(row, columns) for row in rows],
        origins=origins(rows),
        picture=size_quality_svg(rows),
        firmware_svgs=firmware_svgs,
        strip=strip,
        bytes_svg=bytes_svg,
        mean_reason=MEAN_REASON,
    )


def _part(session: Session, clusters: int) -> dict[str, Any]:
    names = {
        "cluster": layout.CLUSTER_REPORT,
        "export": layout.EXPORT_REPORT,
        "evaluate": layout.EVALUATE_REPORT,
    }
    files = {
        key: _read(session.path(layout.of_clusters(clusters, name))) for key, name in names.items()
    }
    return {"clusters": clusters, **files}


def _read(path: Path) -> Any:
    return json.loads(path.read_text())
