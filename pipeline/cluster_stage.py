"""Stage cluster: clustering-aware training, strip, BatchNorm recalibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster.batchnorm import recalibrate_batchnorm
from ..cluster.model import cluster_weights, strip_clustering
from ..cluster.plan import ClusterPlan, Override
from ..errors import ExportError
from ..evaluate.metric import get_metric
from ..export.model_gains import model_gains
from . import layout
from .files import write_array, write_json
from .models import open_saved, save_model
from .recipe import ClusterSection
from .rows import keras_row
from .session import Session
from .training import Schedule, adam, calibration_batches, default_epochs, predict, train


def run_cluster(session: Session, clusters: int, key: str) -> None:
    """Train the baseline further with shared values and leave a plain Keras model."""
    recipe, data, task = session.recipe, session.data, session.task
    metric = get_metric(session.metric)
    files = layout.cluster_files(clusters)
    checkpoint = session.path(f"clusters-{clusters}", "checkpoint.npz")
    session.fresh()
    model = open_saved(session.path(layout.BASELINE_MODEL), recipe.model.source)
    plan = plan_of(model, clusters, recipe.cluster, _gains(session, model))
    for kept in plan.kept:
        if len(kept.weight.shape) > 1:
            session.progress.say(f"  left alone: {kept.weight.name}: {kept.reason}")
    epochs = cluster_epochs(session)
    history = []
    if epochs:
        schedule = Schedule.of(recipe, epochs, recipe.cluster.learning_rate)
        model.compile(adam(schedule, len(data.x_train)), task.loss, metrics=task.keras_metrics)
        cluster_weights(model, plan, refresh=recipe.cluster.refresh)
        labels = session.labels("train")
        history = train(
            model, data.x_train, labels, task, schedule, checkpoint, key, session.progress
        )
        strip_clustering(model)
    else:
        cluster_weights(model, plan)
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
            "history": history,
            "batchnorm_layers_recalibrated": recalibrated,
            "clustered": [_clustered(planned) for planned in plan.clustered],
            "kept": [
                {"name": kept.weight.name, "size": kept.size, "reason": kept.reason}
                for kept in plan.kept
            ],
            "measurements": [row.to_json()],
        },
    )
    checkpoint.unlink(missing_ok=True)


def plan_of(
    model: Any,
    clusters: int,
    section: ClusterSection,
    gains: Mapping[str, NDArray[np.float64]] | None = None,
) -> ClusterPlan:
    """The plan a recipe asks for."""
    overrides = [
        Override(line.pattern, None if line.skip else line.clusters or clusters)
        for line in section.layers
    ]
    return ClusterPlan.of(
        model, clusters, overrides, section.initialization, section.aggregation, gains
    )


def _gains(session: Session, model: Any) -> dict[str, NDArray[np.float64]]:
    """Gains the converter will fold into the weights; none if the model has no .tflite form."""
    if "tflite" not in session.recipe.export.formats:
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


def _clustered(planned: Any) -> dict[str, Any]:
    values = planned.values()
    return {
        "name": planned.weight.name,
        "shape": list(values.shape),
        "clusters": planned.clusters,
        "in_use": len(np.unique(values)),
        "notes": list(planned.notes),
    }
