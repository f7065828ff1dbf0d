"""Turns of training steps, clustered and plain, and what they took: the same for every tool."""

from __future__ import annotations

import json
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np


def run(
    compiled: Callable[[int], Any], width: int, batch: int, clusters: int, pairs: int, steps: int
) -> None:
    """Print JSON: seconds a step of `pairs` interleaved turns of `compiled(clusters)` and `compiled(0)`, and peak MB.

    pairs: 0 for the peak memory of `compiled(clusters)` alone.
    """
    x = np.random.default_rng(0).normal(size=(batch, width)).astype(np.float32)

    def turn(model: Any) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            model.train_on_batch(x, x)
        return (time.perf_counter() - start) / steps

    models = [compiled(clusters), *([compiled(0)] if pairs else [])]
    for model in models:
        turn(model)
    times = [[turn(model) for model in models] for _ in range(pairs)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"times": times, "peak_mb": peak}))
