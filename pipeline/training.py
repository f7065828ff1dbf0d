"""Training that is reproducible and picks up at the last finished epoch."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ..cluster.monitor import ClusteringMonitor
from ..cluster.optimizer import clustering_optimizer
from ..errors import ModelError
from .data import Dataset
from .files import replacing
from .memory import kept_memory
from .progress import Progress
from .recipe import Recipe
from .task import Task

# epochs if none are asked for: enough for this many steps, within these bounds
STEPS_WANTED = 1000
LEAST_EPOCHS, MOST_EPOCHS = 3, 30
PREDICT_BATCH = 256
# batches made ahead of the step that takes them
PREFETCHED = 2
CALIBRATION_BATCHES = 40
# many small batches tell what the loss feels of single weights
SENSITIVITY_BATCHES, SENSITIVITY_BATCH = 64, 32


@dataclass(frozen=True)
class Schedule:
    """Adam with a cosine that falls from `learning_rate` to 0 over all steps."""

    epochs: int
    learning_rate: float
    batch_size: int
    seed: int
    flip: bool
    crop: int

    @classmethod
    def of(cls, recipe: Recipe, epochs: int, learning_rate: float) -> Schedule:
        """The schedule of one of a recipe's trainings."""
        data = recipe.data
        return cls(epochs, learning_rate, data.batch_size, recipe.seed, data.flip, data.crop)

    def steps(self, examples: int) -> int:
        """Steps of all epochs, at least one."""
        return max(1, self.epochs * math.ceil(examples / self.batch_size))


def default_epochs(examples: int, batch_size: int) -> int:
    """Epochs for about STEPS_WANTED steps."""
    steps = math.ceil(examples / batch_size)
    return min(MOST_EPOCHS, max(LEAST_EPOCHS, math.ceil(STEPS_WANTED / steps)))


def adam(schedule: Schedule, examples: int) -> Any:
    """The optimizer of a schedule."""
    return keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(schedule.learning_rate, schedule.steps(examples))
    )


def rising(damping: float, schedule: Schedule, examples: int) -> Any:
    """Damping that rises evenly from 0: weights choose their clusters first, and settle at the end."""
    if not damping:
        return 0.0
    return keras.optimizers.schedules.PolynomialDecay(0.0, schedule.steps(examples), damping)


def train(
    model: Any,
    inputs: NDArray[Any],
    labels: NDArray[Any],
    task: Task,
    schedule: Schedule,
    checkpoint: Path,
    key: str,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Train a compiled model; one row of losses and metrics per epoch.

    inputs (N, …), labels: canonical, as Task.canonical gives them.
    Under a ClusteringOptimizer a row says what became of every clustered weight (`clustering`).
    checkpoint: written after every epoch; one with the same `key` is taken up, so that a training interrupted anywhere
    ends in the same bits as one that was not. Raises ModelError if the loss is no longer a number.
    """
    # slots exist before the checkpoint is read; a first traced step would make them too late
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    history = _restore(model, checkpoint, key)
    targets = task.training_labels(labels)
    clusters = clustering_optimizer(model.optimizer) is not None
    monitor = ClusteringMonitor(verbose=False) if clusters else None
    steps = math.ceil(len(targets) / schedule.batch_size)
    done = len(history) * steps
    with kept_memory(), progress.bar("training", schedule.epochs * steps, done) as bar:
        for epoch in range(len(history), schedule.epochs):
            result = model.fit(
                Epoch(inputs, targets, schedule, epoch).batches(),
                verbose=0,
                # the epoch has its order; Keras warns of data it is asked to shuffle and cannot
                shuffle=False,
                callbacks=[_Advance(bar, epoch, schedule.epochs), *([monitor] if monitor else [])],
            )
            row: dict[str, Any] = {
                name: float(values[0]) for name, values in result.history.items()
            }
            if not math.isfinite(row["loss"]):
                raise ModelError(
                    f"training must keep a finite loss, got {row['loss']} in epoch {epoch + 1}; "
                    f"lower the learning rate (now {schedule.learning_rate:g})"
                )
            if monitor:
                # Keras counts each call of fit from epoch 0
                row["clustering"] = [{**told.to_json(), "epoch": epoch} for told in monitor.rows]
                monitor.rows.clear()
            history.append(row)
            _save(model, checkpoint, key, history)
    return history


def predict(model: Any, inputs: NDArray[Any]) -> NDArray[np.float32]:
    """Outputs of all inputs, float32 (N, outputs)."""
    outputs = [
        np.asarray(
            model(np.asarray(inputs[start : start + PREDICT_BATCH], np.float32), training=False)
        )
        for start in range(0, len(inputs), PREDICT_BATCH)
    ]
    return np.asarray(np.concatenate(outputs), np.float32)


def calibration_batches(data: Dataset, seed: int) -> list[NDArray[np.float32]]:
    """Training inputs for BatchNorm statistics, in batches large enough for a variance."""
    examples = data.examples(CALIBRATION_BATCHES * PREDICT_BATCH, seed)
    count = max(1, len(examples) // PREDICT_BATCH)
    return np.array_split(examples, count)


def sensitivity_batches(
    inputs: NDArray[Any], labels: NDArray[Any], task: Task, seed: int
) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
    """Small batches of training examples with labels as the loss takes them."""
    random = np.random.default_rng([seed, SENSITIVITY_BATCHES])
    targets = task.training_labels(labels)
    size = min(SENSITIVITY_BATCH, len(inputs))
    for _ in range(SENSITIVITY_BATCHES):
        chosen = random.choice(len(inputs), size, replace=False)
        yield np.asarray(inputs[chosen], np.float32), targets[chosen]


def augment(
    images: NDArray[np.float32], flip: bool, crop: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Images (N, height, width, channels), half of them mirrored, shifted by up to `crop` pixels over reflected edges."""
    if crop:
        height, width = images.shape[1:3]
        padded = np.pad(images, ((0, 0), (crop, crop), (crop, crop), (0, 0)), mode="reflect")
        rows = rng.integers(0, 2 * crop + 1, len(images))[:, None] + np.arange(height)
        columns = rng.integers(0, 2 * crop + 1, len(images))[:, None] + np.arange(width)
        images = padded[
            np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]
        ]
    if flip:
        mirrored = rng.random(len(images)) < 0.5
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return images


class Epoch:
    """One epoch's batches: order and augmentation depend on seed, epoch and batch alone.

    x (N, …), y (N, …): a batch is inputs as float32 and labels as they are.
    """

    def __init__(self, x: NDArray[Any], y: NDArray[Any], schedule: Schedule, epoch: int) -> None:
        self.x, self.y, self.schedule, self.epoch = x, y, schedule, epoch
        self.order = np.random.default_rng([schedule.seed, epoch]).permutation(len(x))

    def __len__(self) -> int:
        return math.ceil(len(self.order) / self.schedule.batch_size)

    def __getitem__(self, batch: int) -> tuple[NDArray[np.float32], NDArray[Any]]:
        size = self.schedule.batch_size
        chosen = self.order[batch * size : (batch + 1) * size]
        rng = np.random.default_rng([self.schedule.seed, self.epoch, batch])
        inputs = np.asarray(self.x[chosen], np.float32)
        return augment(inputs, self.schedule.flip, self.schedule.crop, rng), self.y[chosen]

    def __iter__(self) -> Iterator[tuple[NDArray[np.float32], NDArray[Any]]]:
        return (self[batch] for batch in range(len(self)))

    def batches(self) -> tf.data.Dataset:
        """As `fit` takes them, the next ones made while a step runs."""
        kinds = ((self.x, tf.float32), (self.y, self.y.dtype))
        signature = tuple(tf.TensorSpec((None, *array.shape[1:]), dtype) for array, dtype in kinds)
        made = tf.data.Dataset.from_generator(lambda: iter(self), output_signature=signature)
        options = tf.data.Options()
        # its thread sleeps for up to as long as the epoch took, and the iterator's end waits for it
        options.autotune.enabled = False
        counted = made.apply(tf.data.experimental.assert_cardinality(len(self)))
        return counted.prefetch(PREFETCHED).with_options(options)


class _Advance(keras.callbacks.Callback):
    """Moves the progress bar."""

    def __init__(self, bar: Any, epoch: int, epochs: int) -> None:
        super().__init__()
        self.bar, self.epoch, self.epochs = bar, epoch, epochs

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        shown = ", ".join(f"{name} {value:.4g}" for name, value in (logs or {}).items())
        self.bar.advance(f"epoch {self.epoch + 1} of {self.epochs}, {shown}")


def _state(model: Any) -> list[Any]:
    """Everything training changes: weights, states of random layers, the optimizer's slots."""
    return [*model.variables, *model.optimizer.variables]


def _save(model: Any, checkpoint: Path, key: str, history: list[dict[str, Any]]) -> None:
    arrays = {f"v{n}": variable.numpy() for n, variable in enumerate(_state(model))}
    with replacing(checkpoint) as temporary, temporary.open("wb") as file:
        np.savez(file, key=key, history=json.dumps(history), **arrays)


def _restore(model: Any, checkpoint: Path, key: str) -> list[dict[str, Any]]:
    """The history of a checkpoint of this training, its state put into the model; [] without one."""
    if not checkpoint.is_file():
        return []
    try:
        with np.load(checkpoint, allow_pickle=False) as saved:
            if str(saved["key"]) != key:
                return []
            state = _state(model)
            values = [saved[f"v{n}"] for n in range(len(state))]
            history: list[dict[str, Any]] = json.loads(str(saved["history"]))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return []  # not one of ours, or of another version: train from the start
    for variable, value in zip(state, values, strict=True):
        variable.assign(value)
    return history
