"""Stage cluster: clustering-aware training, strip, BatchNorm recalibration."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster.batchnorm import recalibrate_batchnorm
from ..cluster.model import cluster_weights, strip_clustering
from ..cluster.plan import ClusterPlan, Override, PlannedWeight
from ..cluster.post_training import cluster_post_training
from ..cluster.sensitivity import sensitivities
from ..cluster.student import Student, with_activations
from ..cluster.twin import int8_twin
from ..errors import ExportError, ModelError
from ..evaluate.metric import get_metric
from ..export.model_gains import model_gains
from . import layout
from .codebook import Codebook
from .files import write_array, write_json
from .models import open_saved, save_model
from .recipe import LEARNING_RATE, LEARNING_RATE_CLUSTERS, ClusterSection
from .rows import keras_row
from .session import Session
from .task import Task
from .training import (
    Schedule,
    adam,
    calibration_batches,
    default_epochs,
    predict,
    rising,
    sensitivity_batches,
    train,
)

# training examples whose layer inputs say what clustering without training must keep
COMPENSATION_EXAMPLES, COMPENSATION_BATCH = 512, 64


def run_cluster(session: Session, clusters: int, key: str) -> None:
    """Give the baseline shared values, by training or without, and leave a plain Keras model."""
    recipe, data, task = session.recipe, session.data, session.task
    metric = get_metric(session.metric)
    files = layout.cluster_files(clusters)
    session.fresh()
    model = open_saved(session.path(layout.BASELINE_MODEL), recipe.model.source)
    plan = plan_of(model, clusters, recipe.cluster, _gains(session, model), recipe.seed)
    for kept in plan.kept:
        if len(kept.weight.shape) > 1:
            session.progress.say(f"  left alone: {kept.weight.name}: {kept.reason}")
    for planned in plan.clustered:
        for note in planned.notes:
            session.progress.detail(f"  {planned.weight.name}: {note}")
    checkpoint = session.path(f"clusters-{clusters}", "checkpoint.npz")
    epochs = cluster_epochs(session)
    if epochs:
        trained = _train(session, model, plan, epochs, checkpoint, key)
    else:
        trained = _cluster_only(session, model, plan)
    recalibrated = 0
    if recipe.cluster.recalibrate:
        recalibrated = recalibrate_batchnorm(model, calibration_batches(data, recipe.seed))
    outputs = task.scores(predict(model, data.x_test))
    value = metric(session.labels("test"), outputs)
    session.progress.say(f"  clustered {session.metric}: {value:.4f}")
    save_model(model, session.path(files[0]))
    write_array(session.path(files[1]), outputs)
    reference = np.load(session.path(layout.BASELINE_OUTPUTS), allow_pickle=False)
    row = keras_row(
        session, "clustered", clusters, session.path(files[0]), value, outputs, reference
    )
    write_json(
        session.path(files[2]),
        {
            "epochs": epochs,
            **trained,
            "batchnorm_layers_recalibrated": recalibrated,
            "clustered": [_clustered(planned, trained["history"]) for planned in plan.clustered],
            "kept": [
                {"name": kept.weight.name, "size": kept.size, "reason": kept.reason}
                for kept in plan.kept
            ],
            "measurements": [row.to_json()],
        },
    )
    checkpoint.unlink(missing_ok=True)


def _train(
    session: Session, model: Any, plan: ClusterPlan, epochs: int, checkpoint: Path, key: str
) -> dict[str, Any]:
    """Clustering-aware training, on what the baseline computes if that is worth learning."""
    recipe, data = session.recipe, session.data
    section = recipe.cluster
    baseline, obstacle = _teacher(session)
    if obstacle:
        session.progress.say(f"  trained on the labels: {obstacle}")
    task = session.task if baseline is None else session.task.distilled()
    trainee = trainee_of(model, baseline, section, task, recipe.data.flip)
    if trainee.obstacle:
        session.progress.warn(f"activations are not rounded in training: {trainee.obstacle}")
    elif trainee.unrounded:
        session.progress.detail(f"  not rounded in training: {trainee.unrounded}")
    schedule = Schedule.of(recipe, epochs, learning_rate_of(section, plan))
    compile_clustered(trainee.model, plan, section, schedule, len(data.x_train), task)
    labels = session.labels("train")
    history = train(
        trainee.model, data.x_train, labels, task, schedule, checkpoint, key, session.progress
    )
    strip_clustering(trainee.model)
    return {
        "history": history,
        "int8": section.int8,
        "unrounded": trainee.obstacle or trainee.unrounded,
        "teacher": trainee.teacher,
        "teacher_obstacle": obstacle,
        "centroid_rate": section.centroid_rate,
        "damping": section.damping,
        "learning_rate": schedule.learning_rate,
    }


@dataclass(frozen=True, eq=False)
class Trainee:
    """What is trained in place of a model whose layers it shares.

    teacher: what it learns, for people. unrounded: what of int8 training stays float, or None. obstacle: why all does.
    """

    model: Any
    teacher: str
    unrounded: str | None
    obstacle: str | None


def trainee_of(
    model: Any, baseline: Any | None, section: ClusterSection, task: Task, mirrored: bool
) -> Trainee:
    """The model as the recipe trains it: with its hidden activations, rounded, under the baseline.

    baseline: the teacher, a model of the same layers; None for the labels.
    """
    hidden = 0
    trained, unrounded, obstacle = model, None, None
    if baseline is not None and section.hidden_weight:
        baseline, trained = with_activations(baseline), with_activations(model)
        hidden = len(trained.outputs) - 1 if trained is not model else 0
    if section.int8:
        try:
            twin = int8_twin(trained)
        except ModelError as error:
            obstacle = f"every activation: {error}"
        else:
            trained = twin.model
            unrounded = f"values inside {', '.join(twin.unrounded)}" if twin.unrounded else None
    if baseline is None:
        return Trainee(trained, "labels", unrounded, obstacle)
    student = Student(trained, baseline, task.as_labels, mirrored, section.hidden_weight)
    learnt = f"the baseline's outputs and {hidden} hidden activations" if hidden else "the baseline's outputs"  # fmt: skip
    return Trainee(student, learnt, unrounded, obstacle)


def learning_rate_of(section: ClusterSection, plan: ClusterPlan) -> float:
    """The one asked for, else a larger one the fewer centroids a weight has, for it has further to go to the next.

    By the mean over all weights of kernels, those that stay as they are among them.
    """
    if section.learning_rate is not None:
        return section.learning_rate
    sizes = [planned.size for planned in plan.clustered]
    factors = [math.sqrt(max(1, LEARNING_RATE_CLUSTERS / p.clusters)) for p in plan.clustered]
    kernels_kept = [kept.size for kept in plan.kept if len(kept.weight.shape) > 1]
    more = sum(size * (factor - 1) for size, factor in zip(sizes, factors, strict=True))
    return LEARNING_RATE * (1 + more / (sum(sizes) + sum(kernels_kept)))


def compile_clustered(
    model: Any,
    plan: ClusterPlan,
    section: ClusterSection,
    schedule: Schedule,
    examples: int,
    task: Task,
) -> None:
    """Ready for `train`: compiled, its weights clustered as the recipe asks."""
    model.compile(adam(schedule, examples), task.loss, metrics=task.keras_metrics)
    cluster_weights(
        model,
        plan,
        refresh=section.refresh,
        refresh_every=section.refresh_every,
        centroid_rate=section.centroid_rate,
        damping=rising(section.damping, schedule, examples),
    )


def _teacher(session: Session) -> tuple[Any | None, str | None]:
    """(the model to learn from, or None for the labels; why the labels, if distilling was asked for)."""
    if not session.recipe.cluster.distill:
        return None, None
    obstacle = session.task.teacher_obstacle
    if json.loads(session.path(layout.BASELINE_REPORT).read_text())["near_chance"] is not None:
        obstacle = "the baseline is near chance"
    if obstacle:
        return None, obstacle
    return open_saved(session.path(layout.BASELINE_MODEL), session.recipe.model.source), None


def _cluster_only(session: Session, model: Any, plan: ClusterPlan) -> dict[str, Any]:
    """Clustering without training, in every layer weights making up for what others of it lost."""
    recipe, data, task = session.recipe, session.data, session.task
    batches = sensitivity_batches(data.x_train, session.labels("train"), task, recipe.seed)
    felt = sensitivities(model, plan, batches, task.loss)
    planned = replace(
        plan,
        clustered=tuple(
            replace(entry, sensitivity=felt[entry.weight.name]) for entry in plan.clustered
        ),
    )
    examples = data.examples(COMPENSATION_EXAMPLES, recipe.seed)
    results = cluster_post_training(
        model, planned, np.array_split(examples, max(1, len(examples) // COMPENSATION_BATCH))
    )
    for result in results:
        if result.obstacle:
            session.progress.say(f"  nearest values only: {result.name}: {result.obstacle}")
    return {
        "history": [],
        "post_training": [{"name": r.name, "obstacle": r.obstacle} for r in results],
    }


def plan_of(
    model: Any,
    clusters: int,
    section: ClusterSection,
    gains: Mapping[str, NDArray[np.float64]] | None = None,
    seed: int = 0,
) -> ClusterPlan:
    """The plan a recipe asks for."""
    overrides = [
        Override(line.pattern, None if line.skip else line.clusters or clusters, line.per_channel)
        for line in section.layers
    ]
    return ClusterPlan.of(
        model,
        clusters,
        overrides,
        section.initialization,
        section.aggregation,
        gains,
        per_channel=section.per_channel,
        min_size=section.min_size,
        preserve_sparsity=section.preserve_sparsity,
        int8=section.int8,
        seed=seed,
    )


def _gains(session: Session, model: Any) -> dict[str, NDArray[np.float64]]:
    """Gains the converter will fold into the weights; none if the model has no .tflite form."""
    if not session.recipe.export.folds_gains:
        return {}
    try:
        return model_gains(model)
    except ExportError as error:
        # the export will fail or find its own way; training does not depend on it
        session.progress.warn(f"gains not known before clustering: {error}")
        return {}


def cluster_epochs(session: Session) -> int:
    """Epochs asked for, else by the data's size."""
    asked = session.recipe.cluster.epochs
    if asked is not None:
        return asked
    return default_epochs(len(session.data.x_train), session.recipe.data.batch_size)


def _clustered(planned: PlannedWeight, history: list[dict[str, Any]]) -> dict[str, Any]:
    values = planned.values()
    last = {row["weight"]: row for row in history[-1]["clustering"]} if history else {}
    return {
        "name": planned.weight.name,
        "shape": list(values.shape),
        "clusters": planned.clusters,
        "in_use": len(np.unique(values)),
        "codebook": Codebook.of(values).to_json() if planned.channels is None else None,
        "last_epoch": last.get(planned.weight.variable.path),
        "notes": list(planned.notes),
    }
