"""One of tfmot's trainings of the accuracy table, in a process of its own; JSON on standard output.

python tfmot_accuracy.py JOB, as accuracy_job.Job writes it, with the `peers` extra. The stripped model is measured as it is.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras
from accuracy_job import LOSS, MODES, Job, configure_threads, last_kernels, result
from keras2 import keras2_copy

from edgepalette.pipeline.models import load_model
from edgepalette.pipeline.training import Epoch, Schedule, predict

Start = tfmot.clustering.keras.CentroidInitialization
PROBED = 64


def wrapped(model: tf_keras.Model, job: Job) -> tf_keras.Model:
    """The model under tfmot's clustering, whole or its last kernels."""
    start = Start.LINEAR if MODES[job.mode].linear else Start.KMEANS_PLUS_PLUS

    def cluster(part: Any, number: int) -> Any:
        return tfmot.clustering.keras.cluster_weights(
            part, number_of_clusters=number, cluster_centroids_init=start
        )

    if not job.selective:
        return cluster(model, job.clusters[0])
    chosen = dict(zip(last_kernels(model, len(job.clusters)), job.clusters, strict=True))
    return tf_keras.models.clone_model(
        model,
        clone_function=lambda layer: (
            cluster(layer, chosen[layer.name]) if layer.name in chosen else layer
        ),
    )


def freeze(model: tf_keras.Model) -> None:
    """Keep the first indices, as tfmot did before its PR 519."""
    for layer in model.layers:
        for name, algorithm in getattr(layer, "clustering_algorithms", {}).items():
            kept = tf.constant(layer.pulling_indices[name])
            algorithm.get_pulling_indices = lambda weight, kept=kept: kept


def clusters_of(model: tf_keras.Model) -> dict[str, int]:
    """By name of every clustered kernel, its clusters."""
    return {
        f"{layer.layer.name}/kernel": layer.number_of_clusters
        for layer in model.layers
        if getattr(layer, "cluster_centroids", None)
    }


def arrays(model: tf_keras.Model) -> list[tuple[str, np.ndarray]]:
    """(layer/weight, values) of every weight."""
    return [
        (f"{layer.name}/{weight.name.rsplit('/', 1)[-1].removesuffix(':0')}", weight.numpy())
        for layer in model.layers
        for weight in layer.weights
    ]


def main(text: str) -> None:
    """Train and measure."""
    job = Job.from_json(text)
    configure_threads(job.threads)
    tf_keras.utils.set_random_seed(job.seed)
    data, recipe = job.data(), job.recipe()
    start = keras2_copy(load_model(job.file), np.asarray(data.x_train[:PROBED], np.float32))
    model = wrapped(start, job)
    if MODES[job.mode].frozen:
        freeze(model)
    schedule = Schedule.of(recipe, job.epochs, job.rate)
    steps = schedule.epochs * math.ceil(len(data.x_train) / schedule.batch_size)
    rate = tf_keras.optimizers.schedules.CosineDecay(schedule.learning_rate, steps)
    model.compile(tf_keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"])
    began = time.perf_counter()
    for epoch in range(schedule.epochs):
        # the very batches our trainings get
        model.fit(Epoch(data.x_train, data.y_train, schedule, epoch).batches(), verbose=0)
    seconds = time.perf_counter() - began
    clusters = clusters_of(model)
    plain = tfmot.clustering.keras.strip_clustering(model)
    outputs = predict(plain, data.x_test)
    print(json.dumps(result(outputs, data.y_test, arrays(plain), clusters, seconds)))


if __name__ == "__main__":
    main(sys.argv[1])
