"""ClusteringMonitor: its figures by their definitions, in the terminal and in TensorBoard's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.monitor import ClusteringMonitor
from edgepalette.cluster.plan import ClusterPlan
from edgepalette.errors import ModelError

Build = Callable[..., Any]


def clustered(build: Build, **options: Any) -> Any:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = build("functional", optimizer=keras.optimizers.Adam(0.02), loss=loss, run_eagerly=True)
    return cluster_weights(model, ClusterPlan.of(model, 4, **options))


def fit(model: Any, x: NDArray[Any], y: NDArray[Any], monitor: Any, epochs: int = 2) -> None:
    model.fit(x, y, batch_size=16, epochs=epochs, verbose=0, shuffle=False, callbacks=[monitor])


@pytest.mark.parametrize("per_channel", [False, True])
def test_rows_are_what_an_epoch_changed(
    build: Build, pictures: NDArray[Any], labels: NDArray[Any], per_channel: bool
) -> None:
    model = clustered(build, per_channel=per_channel)
    variables = model.optimizer.clustered_variables
    before = [(v.centroids.numpy(), v.indices.numpy()) for v in variables]
    monitor = ClusteringMonitor(verbose=False)
    fit(model, pictures, labels, monitor, epochs=1)
    assert [row.weight for row in monitor.rows] == [v.kernel.path for v in variables]
    for row, variable, (centroids, indices) in zip(monitor.rows, variables, before, strict=True):
        now, original = variable.centroids.numpy(), variable.original.numpy()
        assert row.churn == np.mean(variable.indices.numpy() != indices)
        moved = np.sqrt(np.mean((now - centroids).astype(np.float64) ** 2))
        assert row.movement == pytest.approx(moved / np.ptp(now, axis=-1).mean())
        lost = (original - variable.kernel.numpy()).astype(np.float64)
        size = np.sqrt(np.mean(original.astype(np.float64) ** 2))
        assert row.error == pytest.approx(np.sqrt(np.mean(lost**2)) / size)
        assert 1 <= row.in_use <= row.clusters == 4
    assert max(row.churn for row in monitor.rows) > 0


def test_the_table_of_the_last_epoch_is_printed_at_the_end(
    build: Build,
    pictures: NDArray[Any],
    labels: NDArray[Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = clustered(build)
    fit(model, pictures, labels, ClusteringMonitor())
    printed = capsys.readouterr().out
    assert "clustering, epoch 2" in printed
    for variable in model.optimizer.clustered_variables:
        assert variable.kernel.path in printed


def test_tensorboard_reads_every_figure_of_every_weight(
    build: Build, pictures: NDArray[Any], labels: NDArray[Any], tmp_path: Path
) -> None:
    model = clustered(build)
    monitor = ClusteringMonitor(tmp_path, verbose=False)
    fit(model, pictures, labels, monitor)
    (file,) = tmp_path.iterdir()
    found: dict[tuple[str, int], float] = {}
    for record in tf.data.TFRecordDataset(str(file)):
        event = tf.compat.v1.Event.FromString(record.numpy())
        for value in event.summary.value:
            found[value.tag, event.step] = float(tf.make_ndarray(value.tensor))
    for row in monitor.rows:
        for figure in ("movement", "churn", "error", "in_use"):
            expected = np.float32(getattr(row, figure))
            assert found[f"{figure}/{row.weight}", row.epoch] == expected


def test_a_model_that_is_not_clustered_is_refused(
    build: Build, pictures: NDArray[Any], labels: NDArray[Any]
) -> None:
    model = build("functional", optimizer="sgd", loss="mse")
    with pytest.raises(ModelError, match="needs a model trained under a ClusteringOptimizer"):
        fit(model, pictures, labels, ClusteringMonitor())
