"""A recipe run to its end: stages in order, finished ones left as they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..errors import RunError, TargetError
from ..evaluate.measurement import Measurement
from . import layout
from .data import fingerprint
from .files import write_json
from .models import model_fingerprint
from .progress import Progress
from .recipe import Recipe
from .session import Session, targets_of
from .stages import Kind, RunDirectory, Stage, stages_from


def run_recipe(
    recipe: Recipe,
    progress: Progress,
    first: Kind | None = None,
    last: Kind = Kind.REPORT,
    force: bool = False,
) -> list[Measurement]:
    """Run what is not finished, up to `last`; the rows of measurements.json if the report is reached.

    first: repeat from this stage on. force: repeat everything.
    A target that fails leaves no row: see `check_targets`. Raises EdgepaletteError's kinds for what a user can mend.
    """
    directory = RunDirectory(recipe.directory)
    session = Session(recipe, recipe.directory, progress)
    stages = stages_of(session)
    targets_of(recipe)  # a missing target is said before hours of training
    directory.check()
    trained = [stage for stage in stages if stage.kind in (Kind.BASELINE, Kind.CLUSTER)]
    if not all(directory.is_done(stage) for stage in trained):
        session.check()
    with directory.locked():
        directory.remove_partial()
        write_json(directory.path / layout.RECIPE, recipe.to_json())
        repeated = stages_from(stages, first) if first else []
        for stage in stages if force else repeated:
            directory.forget(stage.name)
        for stage in stages:
            if list(Kind).index(stage.kind) > list(Kind).index(last):
                continue
            if directory.is_done(stage):
                progress.say(f"{stage.name}: done before")
                continue
            progress.say(stage.name)
            directory.run(stage)
    if last is not Kind.REPORT:
        return _rows_of(directory, stages, last)
    return read_measurements(directory.path)


def planned_stages(
    recipe: Recipe, progress: Progress, first: Kind | None = None, force: bool = False
) -> list[tuple[str, bool]]:
    """(stage, whether it is left as it is) without doing anything."""
    directory = RunDirectory(recipe.directory)
    directory.check()
    targets_of(recipe)
    stages = stages_of(Session(recipe, recipe.directory, progress))
    forgotten = stages if force else stages_from(stages, first) if first else []
    made: set[str] = set()
    states = []
    for stage in stages:
        again = (
            stage in forgotten
            or not made.isdisjoint(stage.requires)
            or not directory.is_done(stage)
        )
        if again:
            made.update(stage.ensures)
        states.append((stage.name, not again))
    return states


def _rows_of(directory: RunDirectory, stages: list[Stage], last: Kind) -> list[Measurement]:
    """The rows of the reports of stages up to `last`."""
    done = [stage for stage in stages if list(Kind).index(stage.kind) <= list(Kind).index(last)]
    reports = [name for stage in done for name in stage.ensures if name.endswith(".json")]
    held = [json.loads((directory.path / name).read_text()) for name in reports]
    return [Measurement.from_json(row) for report in held for row in report.get("measurements", [])]


def read_measurements(path: Path) -> list[Measurement]:
    """The rows of a run directory. Raises RunError if it holds none."""
    file = path / layout.MEASUREMENTS
    try:
        rows = json.loads(file.read_text())
    except OSError:
        raise RunError(
            f"a finished run must hold {layout.MEASUREMENTS}, got {path} without; run `edgepalette run` there first"
        ) from None
    except ValueError as error:
        raise RunError(f"{file} must be JSON: {error}") from None
    if not isinstance(rows, list):
        raise RunError(f"{file} must be a list of measurements, got {type(rows).__name__}")
    return [Measurement.from_json(row) for row in rows]


def holds_run(path: Path) -> bool:
    """Whether a folder is a run's."""
    return (path / layout.RECIPE).is_file()


def read_recipe_of(path: Path) -> Recipe:
    """The recipe a run directory was made from. Raises RunError if it is none."""
    from .recipe import recipe_of

    file = path / layout.RECIPE
    try:
        tree = json.loads(file.read_text())
    except (OSError, ValueError):
        raise RunError(
            f"a run directory must hold {layout.RECIPE}, got {path} without a readable one"
        ) from None
    return recipe_of({**tree, "out": str(path)}, str(file))


def stages_of(session: Session) -> list[Stage]:
    """All stages of a recipe, in order."""
    recipe = session.recipe
    plain = recipe.to_json()
    source = {
        "model": model_fingerprint(recipe.model.source),
        "data": fingerprint(recipe.data.source),
        "training": plain["data"],
        "seed": recipe.seed,
        "metric": recipe.evaluate.metric,
        "loss": recipe.baseline.loss,
    }
    stages = [_baseline(session, source, plain)]
    for clusters in dict.fromkeys(recipe.cluster.clusters):
        stages += _per_clusters(session, clusters, source, plain)
    stages.append(_report(session, stages, plain))
    return stages


# The stages' own modules import TensorFlow: they are loaded when a stage runs, not when it is found finished.


def _baseline(session: Session, source: dict[str, Any], plain: dict[str, Any]) -> Stage:
    def call(key: str) -> None:
        from .baseline_stage import run_baseline

        run_baseline(session, key)

    return Stage(
        Kind.BASELINE, "baseline", {**source, **plain["baseline"]}, (), layout.BASELINE, call
    )


def _per_clusters(
    session: Session, clusters: int, source: dict[str, Any], plain: dict[str, Any]
) -> list[Stage]:
    def cluster(key: str) -> None:
        from .cluster_stage import run_cluster

        run_cluster(session, clusters, key)

    def export(_: str) -> None:
        from .export_stage import run_export

        run_export(session, clusters)

    def evaluate(_: str) -> None:
        from .evaluate_stage import run_evaluate

        run_evaluate(session, clusters)

    formats = session.recipe.export.formats
    models = layout.model_files(clusters, formats)
    asked = {key: value for key, value in plain["cluster"].items() if key != "clusters"}
    # gains are those of the .tflite, where int8 weights are made
    asked["gains"] = session.recipe.export.folds_gains
    targets = [target.name for target in session.targets]
    return [
        Stage(
            Kind.CLUSTER,
            f"cluster-{clusters}",
            {**source, **asked, "clusters": clusters},
            (layout.BASELINE_MODEL, layout.BASELINE_OUTPUTS),
            layout.cluster_files(clusters),
            cluster,
        ),
        Stage(
            Kind.EXPORT,
            f"export-{clusters}",
            {**source, **plain["export"]},
            (layout.of_clusters(clusters, layout.CLUSTERED_MODEL),),
            layout.export_files(clusters, formats),
            export,
        ),
        Stage(
            Kind.EVALUATE,
            f"evaluate-{clusters}",
            {**source, **plain["evaluate"], "targets": targets},
            (*models, layout.of_clusters(clusters, layout.CLUSTERED_OUTPUTS)),
            (layout.of_clusters(clusters, layout.EVALUATE_REPORT),),
            evaluate,
        ),
    ]


def _report(session: Session, before: list[Stage], plain: dict[str, Any]) -> Stage:
    def call(_: str) -> None:
        from .report_stage import run_report

        run_report(session)

    reports = tuple(name for stage in before for name in stage.ensures if name.endswith(".json"))
    return Stage(
        Kind.REPORT,
        "report",
        plain,
        reports,
        (layout.MEASUREMENTS, layout.PROVENANCE, layout.REPORT),
        call,
    )


def check_targets(recipe: Recipe) -> None:
    """Raises TargetError if one of the targets asked for by name failed in a run that is finished."""
    if recipe.evaluate.targets is None:
        return
    failures = []
    for clusters in recipe.cluster.clusters:
        held = json.loads(
            (recipe.directory / layout.of_clusters(clusters, layout.EVALUATE_REPORT)).read_text()
        )
        failures += [f"{f['target']}, {clusters} clusters: {f['reason']}" for f in held["failures"]]
    if failures:
        raise TargetError(
            "every target must run the files, got failures (the rest is measured and reported; repeat with "
            "--from evaluate once mended):\n  " + "\n  ".join(failures)
        )
