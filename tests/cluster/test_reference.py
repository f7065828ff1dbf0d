"""Equal to tfmot where it should be: the same steps from the same start, in tfmot's own process."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from edgepalette.cluster.nearest import midpoints
from edgepalette.cluster.optimizer import ClusteringOptimizer
from edgepalette.cluster.plan import ClusterPlan

PROGRAM = Path(__file__).parents[2] / "scripts" / "peers" / "tfmot_steps.py"
STEPS, BATCH, CLUSTERS, RATE = 50, 16, 6, 0.002
# float32 sums in another order, over 50 steps
ROUNDING = 2e-6
# the part of all indices of all steps that may lie on a midpoint
FOLLOWED = 1e-4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorflow_model_optimization") is None,
        reason="the peers extra is not installed",
    ),
]


def model_and_data() -> tuple[Any, NDArray[np.float32], NDArray[np.float32]]:
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((7, 7, 3)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    random = np.random.default_rng(0)
    x = random.normal(size=(STEPS, BATCH, 7, 7, 3)).astype(np.float32)
    y = random.normal(size=(STEPS, BATCH, 10)).astype(np.float32)
    return model, x, y


def reference_steps(folder: Path, **start: Any) -> dict[str, NDArray[Any]]:
    """What tfmot holds after every step."""
    np.savez(folder / "start.npz", **start)
    done = subprocess.run(
        [sys.executable, "-P", PROGRAM, folder / "start.npz", folder / "end.npz"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    with np.load(folder / "end.npz") as saved:
        return dict(saved)


def test_fifty_steps_of_sgd_end_where_tfmots_do(tmp_path: Path) -> None:
    """An index may differ where a weight lies on a midpoint but for rounding; there ours follows, and all else agrees."""
    model, x, y = model_and_data()
    start = {f"weight{n}": value for n, value in enumerate(model.get_weights())}
    optimizer = ClusteringOptimizer(keras.optimizers.SGD(RATE), ClusterPlan.of(model, CLUSTERS))
    optimizer.build(model.trainable_variables)
    ours = optimizer.clustered_variables
    first = [v.indices.numpy() for v in ours]
    start |= {f"centroids{n}": v.centroids.numpy() for n, v in enumerate(ours)}
    theirs = reference_steps(tmp_path, x=x, y=y, rate=RATE, **start)

    followed = 0
    for step, (inputs, labels) in enumerate(zip(x, y, strict=True)):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(inputs, training=True) - labels))
        variables = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        for number, variable in enumerate(ours):
            peer = {
                name: theirs[f"{name}{number}-{step}"]
                for name in ("original", "centroids", "indices")
            }
            followed += follow(variable, peer)

    assert followed <= FOLLOWED * sum(v.indices.numpy().size for v in ours) * STEPS
    for variable, before in zip(ours, first, strict=True):
        assert (variable.indices.numpy() != before).any(), "the steps must move indices"


def follow(variable: Any, peer: dict[str, NDArray[Any]]) -> int:
    """Check one step of one kernel; take over the peer's indices, and say how many differed."""
    original, centroids = variable.original.numpy(), variable.centroids.numpy()
    np.testing.assert_allclose(original, peer["original"], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(centroids, peer["centroids"], rtol=0, atol=ROUNDING)
    differ = variable.indices.numpy() != peer["indices"]
    distance = np.abs(original[differ][:, None] - midpoints(np.sort(centroids)))
    # what rounding has moved weights and midpoints apart by, and a unit in the last place
    apart = np.abs(original - peer["original"]).max() + np.abs(centroids - peer["centroids"]).max()
    assert np.all(distance.min(axis=1) <= apart + np.spacing(np.abs(original).max()))
    variable.indices.assign(peer["indices"])
    variable.kernel.assign(centroids[peer["indices"]])
    return int(differ.sum())
