"""One of our trainings of the accuracy table, or the float start; JSON on standard output.

python edgepalette_accuracy.py JOB, as accuracy_job.Job writes it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
from accuracy_job import LOSS, TASKS, Job, configure_threads, lines_of, result

from edgepalette import recalibrate_batchnorm, strip_clustering
from edgepalette.cluster.weights import layer_weights
from edgepalette.export.model_gains import model_gains
from edgepalette.pipeline.cluster_stage import (
    compile_clustered,
    learning_rate_of,
    plan_of,
    trainee_of,
)
from edgepalette.pipeline.data import Dataset
from edgepalette.pipeline.models import load_model, save_model
from edgepalette.pipeline.progress import Progress
from edgepalette.pipeline.recipe import ClusterSection, changed
from edgepalette.pipeline.task import Task, task_of
from edgepalette.pipeline.training import Schedule, adam, calibration_batches, predict, train

QUIET = Progress(-1)


def fit(model: Any, data: Dataset, task: Task, schedule: Schedule) -> float:
    """Train a compiled model; the seconds it took."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder, "state.npz")
        began = time.perf_counter()
        train(model, data.x_train, data.y_train, task, schedule, state, "", QUIET)
        return time.perf_counter() - began


def float_start(job: Job, data: Dataset) -> tuple[Any, dict[str, int], float]:
    """The start, trained and saved first if the task asks for it."""
    if not TASKS[job.task].trains_start:
        return load_model(job.file), {}, 0.0
    recipe = job.recipe()
    model = load_model(recipe.model.source, data)
    task = task_of(model, data, LOSS)
    schedule = Schedule.of(recipe, job.start_epochs, recipe.baseline.learning_rate)
    model.compile(adam(schedule, len(data.x_train)), task.loss, metrics=task.keras_metrics)
    seconds = fit(model, data, task, schedule)
    save_model(model, Path(job.file))
    return model, {}, seconds


def clustered(job: Job, data: Dataset) -> tuple[Any, dict[str, int], float]:
    """The start clustered as stage cluster of a run does it: (plain model, clusters by weight, seconds)."""
    recipe = job.recipe()
    model = load_model(job.file)
    section = section_of(job, model)
    plan = plan_of(model, job.clusters[0], section, model_gains(model), job.seed)
    task = task_of(model, data, LOSS)
    baseline = load_model(job.file) if section.distill else None
    task = task if baseline is None else task.distilled()
    schedule = Schedule.of(recipe, job.epochs, learning_rate_of(section, plan))
    trained = trainee_of(model, baseline, section, task, recipe.data.flip).model
    compile_clustered(trained, plan, section, schedule, len(data.x_train), task)
    seconds = fit(trained, data, task, schedule)
    strip_clustering(trained)
    recalibrate_batchnorm(model, calibration_batches(data, job.seed))
    return model, {planned.weight.name: planned.clusters for planned in plan.clustered}, seconds


def section_of(job: Job, model: Any) -> ClusterSection:
    """The recipe's section, with the job's lines of the model's layers."""
    return changed(job.recipe(), {"cluster.layers": lines_of(job, model)}).cluster


def main(text: str) -> None:
    """Train and measure."""
    job = Job.from_json(text)
    configure_threads(job.threads)
    keras.utils.set_random_seed(job.seed)
    data = job.data()
    model, clusters, seconds = (clustered if job.clusters else float_start)(job, data)
    arrays = [(weight.name, weight.variable.numpy()) for weight in layer_weights(model)]
    print(json.dumps(result(predict(model, data.x_test), data.y_test, arrays, clusters, seconds)))


if __name__ == "__main__":
    main(sys.argv[1])
