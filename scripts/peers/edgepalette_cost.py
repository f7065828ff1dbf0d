"""Our cost in the peer's terms: see tfmot_cost.py, which takes the same argument and prints the same JSON."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
from turns import Turns

from edgepalette import ClusterPlan, cluster_weights

OPTIMIZERS = {"sgd": keras.optimizers.SGD, "adam": keras.optimizers.Adam}


def main(text: str) -> None:
    """Run the turns."""
    turns = Turns(**json.loads(text))

    def compiled(clusters: int) -> Any:
        model = turns.model()
        model.compile(OPTIMIZERS[turns.optimizer](1e-3), turns.loss, jit_compile=turns.jit)
        return cluster_weights(model, ClusterPlan.of(model, clusters)) if clusters else model

    turns.run(compiled)


if __name__ == "__main__":
    main(sys.argv[1])
