"""Our cost in the peer's terms: see tfmot_cost.py, which takes the same arguments and prints the same JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np

from edgepalette import ClusterPlan, cluster_weights


def main(width: int, batch: int, clusters: int, pairs: int, steps: int, optimizer: str) -> None:
    """Run the turns."""
    make = {"sgd": lambda: keras.optimizers.SGD(1e-3), "adam": lambda: keras.optimizers.Adam(1e-3)}[
        optimizer
    ]

    def compiled(number: int) -> Any:
        model = keras.Sequential([keras.Input((width,)), keras.layers.Dense(width)])
        model.compile(make(), "mse", jit_compile=False)
        return cluster_weights(model, ClusterPlan.of(model, number)) if number else model

    random = np.random.default_rng(0)
    x = random.normal(size=(batch, width)).astype(np.float32)

    def turn(model: Any) -> float:
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
