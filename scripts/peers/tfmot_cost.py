"""The peer's cost: a step of one wide Dense layer under tfmot's clustering beside the plain one; JSON on standard output.

python tfmot_cost.py WIDTH BATCH CLUSTERS PAIRS STEPS OPTIMIZER: CLUSTERS 0 for the plain layer alone, PAIRS 0 for
memory alone.
"""

from __future__ import annotations

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow_model_optimization as tfmot
import tf_keras as keras
import turns

OPTIMIZERS = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}


def main(width: int, batch: int, clusters: int, pairs: int, steps: int, optimizer: str) -> None:
    """Run the turns."""

    def compiled(number: int) -> keras.Model:
        model = keras.Sequential([keras.layers.Dense(width, input_shape=(width,))])
        if number:
            model = tfmot.clustering.keras.cluster_weights(
                model,
                number_of_clusters=number,
                cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.LINEAR,
            )
        model.compile(OPTIMIZERS[optimizer](1e-3), "mse")
        return model

    turns.run(compiled, width, batch, clusters, pairs, steps)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:-1]), sys.argv[-1])
