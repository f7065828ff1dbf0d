"""Stage evaluate: every file on every target."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import TargetError
from ..evaluate.target import Effort, TestSet, measure
from . import layout
from .files import write_array, write_json
from .session import Session


def run_evaluate(session: Session, clusters: int) -> None:
    """Measure the dense and the palette file of every format."""
    recipe = session.recipe
    rows: list[dict[str, Any]] = []
    failures: list[dict[str, str]] = []
    asked = recipe.evaluate
    effort = Effort(asked.threads, asked.latency_runs, asked.emulated_samples)
    float_outputs = session.path(layout.of_clusters(clusters, layout.CLUSTERED_OUTPUTS))
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as folder:
        inputs = Path(folder, "x_test.npy")
        write_array(inputs, np.asarray(session.data.x_test, np.float32))
        tests = TestSet(
            inputs,
            session.labels("test"),
            np.load(float_outputs, allow_pickle=False),
            session.task.classifies,
            session.metric,
            session.task.scores,
        )
        with session.progress.bar("measuring", len(session.targets)) as bar:
            for target in session.targets:
                files = {
                    model: session.path(layout.model_file(clusters, model, target.format))
                    for model in layout.FILE_MODELS
                }
                try:
                    found = measure(
                        target, session.directory.resolve().name, clusters, files, tests, effort
                    )
                    rows += [row.to_json() for row in found]
                except TargetError as error:
                    session.progress.warn(f"{target.name}: {error}")
                    failures.append({"target": target.name, "reason": str(error)})
                bar.advance(target.name)
    write_json(
        session.path(layout.of_clusters(clusters, layout.EVALUATE_REPORT)),
        {"measurements": rows, "failures": failures},
    )
