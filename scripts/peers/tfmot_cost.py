"""The peer's cost: a step under tfmot's clustering beside the plain one; JSON on standard output.

python tfmot_cost.py TURNS, as turns.Turns writes it.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import tensorflow_model_optimization as tfmot
import tf_keras
from keras2 import keras2_copy
from turns import Turns

OPTIMIZERS = {"sgd": tf_keras.optimizers.SGD, "adam": tf_keras.optimizers.Adam}


def main(text: str) -> None:
    """Run the turns."""
    turns = Turns(**json.loads(text))

    def compiled(clusters: int) -> tf_keras.Model:
        model = keras2_copy(turns.model(), turns.examples()[0])
        if clusters:
            model = tfmot.clustering.keras.cluster_weights(
                model,
                number_of_clusters=clusters,
                cluster_centroids_init=tfmot.clustering.keras.CentroidInitialization.LINEAR,
            )
        model.compile(OPTIMIZERS[turns.optimizer](1e-3), turns.loss, jit_compile=turns.jit)
        return model

    turns.run(compiled)


if __name__ == "__main__":
    main(sys.argv[1])
