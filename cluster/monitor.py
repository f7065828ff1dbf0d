"""What clustering does while a model trains: a callback for the terminal, for TensorBoard and for a report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError
from .optimizer import clustering_optimizer
from .variable import ClusteredVariable

FIGURES = ("movement", "churn", "error", "in_use")


@dataclass(frozen=True)
class MonitorRow:
    """One weight over one epoch.

    movement: how far its centroids moved, root mean square, as a part of the spread between them.
    churn: the part of its indices that changed. error: the root mean square distance of the original weight to its
    shared values, as a part of its own root mean square. in_use: centroids that have members, of `clusters`.
    """

    weight: str
    epoch: int
    movement: float
    churn: float
    error: float
    in_use: int
    clusters: int

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


class ClusteringMonitor(keras.callbacks.Callback):
    """Logs centroid movement, index churn and quantization error of every clustered weight after each epoch.

    log_dir: a folder for TensorBoard, one scalar per figure and weight. verbose: print a table at the end of training.
    `rows` holds everything logged. Raises ModelError where training starts without a ClusteringOptimizer.
    """

    def __init__(self, log_dir: str | Path | None = None, verbose: bool = True) -> None:
        super().__init__()
        self.rows: list[MonitorRow] = []
        self.verbose = verbose
        self._log_dir = log_dir
        self._writer: Any = None
        self._before: list[tuple[NDArray[Any], NDArray[Any]]] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Remember centroids and indices."""
        self._before = [(v.centroids.numpy(), v.indices.numpy()) for v in self._variables()]

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """One row per weight."""
        variables = self._variables()
        rows = [
            _row(variable, epoch, *before)
            for variable, before in zip(variables, self._before, strict=True)
        ]
        self.rows += rows
        if self._log_dir is not None:
            self._log(rows, epoch)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """The table of the last epoch."""
        if self._writer is not None:
            self._writer.flush()
        if self.verbose and self.rows:
            last = self.rows[-1].epoch
            print_monitor([row for row in self.rows if row.epoch == last])

    def _variables(self) -> tuple[ClusteredVariable, ...]:
        found = clustering_optimizer(self.model.optimizer)
        if found is None:
            raise ModelError(
                "ClusteringMonitor needs a model trained under a ClusteringOptimizer, "
                f"got {type(self.model.optimizer).__name__}; call cluster_weights(model, plan) first"
            )
        return found.clustered_variables

    def _log(self, rows: list[MonitorRow], epoch: int) -> None:
        import tensorflow as tf

        # what TensorBoard's own scalar summary writes, without TensorBoard
        metadata = tf.compat.v1.SummaryMetadata()
        metadata.plugin_data.plugin_name = "scalars"
        if self._writer is None:
            self._writer = tf.summary.create_file_writer(str(self._log_dir))
        with self._writer.as_default():
            for row in rows:
                for figure in FIGURES:
                    value = tf.constant(getattr(row, figure), tf.float32)
                    tf.summary.write(f"{figure}/{row.weight}", value, epoch, metadata)


def print_monitor(rows: list[MonitorRow]) -> None:
    """A table for the terminal."""
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold", title=f"clustering, epoch {rows[0].epoch + 1}")
    table.add_column("weight")
    for name in ("in use", "movement", "churn", "error"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.weight,
            f"{row.in_use} of {row.clusters}",
            f"{row.movement:.4f}",
            f"{row.churn:.4f}",
            f"{row.error:.4f}",
        )
    Console().print(table, markup=False)


def _row(
    variable: ClusteredVariable, epoch: int, centroids: NDArray[Any], indices: NDArray[Any]
) -> MonitorRow:
    now, codes = variable.centroids.numpy(), variable.indices.numpy()
    original, kernel = variable.original.numpy(), variable.kernel.numpy()
    if variable.signs is not None:
        kernel = kernel * variable.signs.numpy()
    used = np.mean([len(np.unique(row)) for row in _rows(variable, codes)])
    return MonitorRow(
        variable.kernel.path,
        epoch,
        _ratio(_rms(now - centroids), float(np.ptp(now, axis=-1).mean())),
        float(np.mean(codes != indices)),
        _ratio(_rms(original - kernel), _rms(original)),
        round(float(used)),
        int(now.shape[-1]),
    )


def _rows(variable: ClusteredVariable, codes: NDArray[Any]) -> NDArray[Any]:
    channels = variable.algorithm.channels
    return codes.reshape(1, -1) if channels is None else channels.array_rows(codes)


def _rms(values: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
