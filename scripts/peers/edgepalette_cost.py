"""Our cost in the peer's terms: see tfmot_cost.py, which takes the same arguments and prints the same JSON."""

from __future__ import annotations

import os
import sys
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import turns

from edgepalette import ClusterPlan, cluster_weights

OPTIMIZERS = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}


def main(width: int, batch: int, clusters: int, pairs: int, steps: int, optimizer: str) -> None:
    """Run the turns."""

    def compiled(number: int) -> Any:
        model = keras.Sequential([keras.Input((width,)), keras.layers.Dense(width)])
        model.compile(OPTIMIZERS[optimizer](1e-3), "mse", jit_compile=False)
        return cluster_weights(model, ClusterPlan.of(model, number)) if number else model

    turns.run(compiled, width, batch, clusters, pairs, steps)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:-1]), sys.argv[-1])
