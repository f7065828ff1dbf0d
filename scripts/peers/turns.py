"""Turns of training steps, clustered and plain, and what they took: the same networks and steps for every tool."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

CLASSES = 10
LOSSES = {"dense": "mse", "resnet8": "sparse_categorical_crossentropy"}


@dataclass(frozen=True)
class Turns:
    """What a child measures.

    network: `dense` is one layer of `width` inputs and outputs, `resnet8` MLPerf Tiny's. clusters: 0 for the plain
    network alone. pairs: of turns of `steps` each, 0 for memory alone. optimizer: sgd or adam. jit: compiled by XLA.
    """

    network: str
    width: int
    batch: int
    clusters: int
    pairs: int
    steps: int
    optimizer: str
    jit: bool

    def to_json(self) -> str:
        """For a child's argument."""
        return json.dumps(asdict(self))

    @property
    def loss(self) -> str:
        """As Keras names it."""
        return LOSSES[self.network]

    def model(self) -> Any:
        """The network in Keras 3, not compiled, from the same start weights whoever asks."""
        import keras

        from edgepalette.pipeline.zoo import resnet8

        keras.utils.set_random_seed(0)
        if self.network == "resnet8":
            return resnet8((32, 32, 3), CLASSES)
        inputs = keras.Input((self.width,))
        return keras.Model(inputs, keras.layers.Dense(self.width)(inputs))

    def examples(self) -> tuple[Any, Any]:
        """One batch: inputs and what they should give."""
        random = np.random.default_rng(0)
        if self.network == "resnet8":
            images = (random.random((self.batch, 32, 32, 3)) * 255).astype(np.float32)
            return images, random.integers(0, CLASSES, self.batch)
        x = random.normal(size=(self.batch, self.width)).astype(np.float32)
        return x, x

    def run(self, compiled: Callable[[int], Any]) -> None:
        """Print JSON: seconds a step of interleaved turns of `compiled(clusters)` and `compiled(0)`, and peak MB."""
        x, y = self.examples()

        def turn(model: Any) -> float:
            start = time.perf_counter()
            for _ in range(self.steps):
                model.train_on_batch(x, y)
            return (time.perf_counter() - start) / self.steps

        models = [compiled(self.clusters), *([compiled(0)] if self.pairs else [])]
        for model in models:
            turn(model)
        times = [[turn(model) for model in models] for _ in range(self.pairs)]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(json.dumps({"times": times, "peak_mb": peak}))
