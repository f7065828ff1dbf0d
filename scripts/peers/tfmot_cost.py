"""The peer's cost: a step of one wide Dense layer under tfmot's clustering beside the plain one; JSON on standard output.

python tfmot_cost.py WIDTH BATCH CLUSTERS PAIRS STEPS OPTIMIZER: CLUSTERS 0 for the plain layer alone, PAIRS 0 for memory alone.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras


def main(width: int, batch: int, clusters: int, pairs: int, steps: int, optimizer: str) -> None:
    """Run the turns."""
    make = {"sgd": lambda: keras.optimizers.SGD(1e-3), "adam": lambda: keras.optimizers.Adam(1e-3)}[
        optimizer
    ]

    def compiled(number: int) -> keras.Model:
        model = keras.Sequential([keras.layers.Dense(width, input_shape=(width,))])
        if number:
            model = tfmot.clustering.keras.cluster_weights(
                model,
                number_of_clusters=number,
                cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.LINEAR,
            )
        model.compile(make(), "mse")
        return model

    random = np.random.default_rng(0)
    x = random.normal(size=(batch, width)).astype(np.float32)

    def turn(model: keras.Model) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            model.train_on_batch(x, x)
        return (time.perf_counter() - start) / steps

    model = compiled(clusters)
    turn(model)
    plain = compiled(0) if pairs else None
    if plain is not None:
        turn(plain)
    times = [(turn(model), turn(plain)) for _ in range(pairs)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"times": times, "peak_mb": peak}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:-1]), sys.argv[-1])
