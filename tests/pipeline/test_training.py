"""Training picks up at the last finished epoch and ends in the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.plan import ClusterPlan
from edgepalette.cluster.student import Student, with_activations
from edgepalette.cluster.twin import int8_twin
from edgepalette.errors import ModelError
from edgepalette.pipeline.data import Dataset
from edgepalette.pipeline.progress import Progress
from edgepalette.pipeline.task import Task, task_of
from edgepalette.pipeline.training import (
    LEAST_EPOCHS,
    MOST_EPOCHS,
    STEPS_WANTED,
    Epoch,
    Schedule,
    adam,
    augment,
    default_epochs,
    predict,
    rising,
    train,
)

SCHEDULE = Schedule(epochs=4, learning_rate=1e-2, batch_size=16, seed=3, flip=True, crop=1)
ONE_EPOCH = replace(SCHEDULE, epochs=1)
EXAMPLES = 40


class StoppedError(Exception):
    """Stands for a SIGKILL or a power cut."""


class Stopping(Progress):
    """Stops in the middle of a training, at its n-th step."""

    def __init__(self, step: int) -> None:
        super().__init__(-1)
        self.steps, self.done = step, -1

    @contextmanager
    def bar(self, title: str, total: int, done: int = 0) -> Iterator[Any]:
        self.done = done
        yield self

    def advance(self, text: str = "") -> None:
        self.steps -= 1
        if self.steps == 0:
            raise StoppedError


@pytest.fixture
def data() -> Dataset:
    rng = np.random.default_rng(0)
    y = np.arange(EXAMPLES) % 3
    x = rng.normal(0, 1, (EXAMPLES, 6, 6, 1)) + y[:, None, None, None]
    return Dataset("d", x.astype(np.float32), y, x.astype(np.float32), y)


def prepared(data: Dataset, clustered: bool, int8: bool = False) -> tuple[Any, Task]:
    """A fresh model with all that has a state: BatchNorm, Dropout, Adam, shared values, ranges of activations.

    int8: rounded, and taught by itself as it starts.
    """
    keras.utils.clear_session()
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dropout(0.3),
            layers.Flatten(),
            layers.Dense(3, activation="softmax"),
        ]
    )
    task = task_of(model, data, None)
    if int8:
        teacher = with_activations(keras.models.clone_model(model))
        task = task.distilled()
        model = Student(int8_twin(with_activations(model)).model, teacher, task.as_labels, True)
    model.compile(adam(SCHEDULE, EXAMPLES), task.loss, metrics=task.keras_metrics)
    if clustered:
        damping = rising(0.1, SCHEDULE, EXAMPLES)
        cluster_weights(model, ClusterPlan.of(model, 4, int8=int8), damping=damping)
    return model, task


def trained(
    data: Dataset,
    checkpoint: Path,
    clustered: bool = False,
    progress: Progress | None = None,
    key: str = "k",
    schedule: Schedule = SCHEDULE,
    int8: bool = False,
) -> tuple[Any, list[dict[str, float]]]:
    model, task = prepared(data, clustered, int8)
    history = train(
        model, data.x_train, data.y_train, task, schedule, checkpoint, key, progress or Progress(-1)
    )
    return model, history


# three steps an epoch: in the middle of the third, at the start of the fourth
@pytest.mark.parametrize(
    ("clustered", "int8", "step"), [(False, False, 8), (True, False, 10), (True, True, 8)]
)
def test_an_interrupted_training_ends_in_the_bits_of_one_that_was_not(
    data: Dataset, tmp_path: Path, clustered: bool, int8: bool, step: int
) -> None:
    whole, history = trained(data, tmp_path / "whole.npz", clustered, int8=int8)
    with pytest.raises(StoppedError):
        trained(data, tmp_path / "c.npz", clustered, Stopping(step), int8=int8)
    resumed, resumed_history = trained(data, tmp_path / "c.npz", clustered, int8=int8)
    assert resumed_history == history
    assert len(history) == SCHEDULE.epochs
    for ours, theirs in zip(whole.get_weights(), resumed.get_weights(), strict=True):
        assert np.array_equal(ours, theirs)
    ours, theirs = (
        [np.asarray(v) for v in model.optimizer.variables] for model in (whole, resumed)
    )
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_a_finished_checkpoint_is_not_trained_again(data: Dataset, tmp_path: Path) -> None:
    whole, history = trained(data, tmp_path / "c.npz")
    again, told = trained(data, tmp_path / "c.npz", progress=Stopping(1))
    assert told == history
    for ours, theirs in zip(whole.get_weights(), again.get_weights(), strict=True):
        assert np.array_equal(ours, theirs)


def foreign(path: Path, data: Dataset) -> dict[str, Any]:
    """Files that may lie where the checkpoint is looked for."""
    trained(data, path, key="of another run", schedule=ONE_EPOCH)
    other_run = path.read_bytes()
    np.savez(path, key="k")
    no_history = path.read_bytes()
    return {
        "of another run": other_run,
        "cut short": other_run[: len(other_run) // 2],
        "without its arrays": no_history,
    }


# numpy leaves the file open when it is no archive
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_foreign_or_damaged_checkpoint_is_not_taken_up(data: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    for name, content in foreign(path, data).items():
        path.write_bytes(content)
        progress = Stopping(1)
        with pytest.raises(StoppedError):
            trained(data, path, progress=progress)
        assert progress.done == 0, name


def test_a_loss_that_is_no_number_stops_and_says_what_to_do(data: Dataset, tmp_path: Path) -> None:
    model, task = prepared(data, False)
    model.layers[-1].kernel.assign(np.full(model.layers[-1].kernel.shape, np.nan))
    with pytest.raises(
        ModelError, match=r"finite loss, got nan in epoch 1; lower the learning rate \(now 0\.01\)"
    ):
        train(
            model, data.x_train, data.y_train, task, SCHEDULE, tmp_path / "c.npz", "k", Progress(-1)
        )
    assert not (tmp_path / "c.npz").exists()


def test_another_seed_gives_another_training(data: Dataset, tmp_path: Path) -> None:
    one, _ = trained(data, tmp_path / "a.npz", schedule=ONE_EPOCH)
    other, _ = trained(data, tmp_path / "b.npz", schedule=replace(ONE_EPOCH, seed=4))
    assert not np.array_equal(one.get_weights()[0], other.get_weights()[0])


def test_an_epoch_takes_every_example_once_in_an_order_of_its_own(data: Dataset) -> None:
    plain = replace(SCHEDULE, flip=False, crop=0)
    numbers = np.arange(len(data.x_train))
    orders = []
    for number in (0, 1, 0):
        epoch = Epoch(data.x_train, numbers, plain, number)
        batches = [(x.numpy(), y.numpy()) for x, y in epoch.batches()]
        assert len(batches) == len(epoch) == -(-len(numbers) // plain.batch_size)
        order = np.concatenate([labels for _, labels in batches])
        np.testing.assert_array_equal(np.concatenate([x for x, _ in batches]), data.x_train[order])
        np.testing.assert_array_equal(np.sort(order), numbers)
        orders.append(order)
    np.testing.assert_array_equal(orders[0], orders[2])
    assert not np.array_equal(orders[0], orders[1])


def test_an_epoch_ends_without_waiting_for_tensorflows_tuning(data: Dataset) -> None:
    batches = Epoch(data.x_train, data.y_train, SCHEDULE, 0).batches()
    assert batches.options().autotune.enabled is False


def test_augmentation_mirrors_and_shifts_within_its_bounds() -> None:
    images = np.arange(2 * 5 * 5, dtype=np.float32).reshape(2, 5, 5, 1).repeat(100, axis=0)
    rng = np.random.default_rng(0)
    assert np.array_equal(augment(images, False, 0, rng), images)
    mirrored = augment(images, True, 0, rng)
    same = (mirrored == images).all(axis=(1, 2, 3))
    flipped = (mirrored == images[:, :, ::-1]).all(axis=(1, 2, 3))
    assert (same ^ flipped).all()
    assert 60 < flipped.sum() < 140
    shifted = augment(images, False, 2, rng)
    padded = np.pad(images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    found = np.zeros(len(images), bool)
    for row in range(5):
        for column in range(5):
            window = padded[:, row : row + 5, column : column + 5]
            found |= (shifted == window).all(axis=(1, 2, 3))
    assert found.all()
    assert shifted.shape == images.shape


def test_epochs_by_default_give_about_the_steps_wanted() -> None:
    assert default_epochs(64 * 100, 64) == STEPS_WANTED // 100
    assert default_epochs(10, 64) == MOST_EPOCHS
    assert default_epochs(10**7, 64) == LEAST_EPOCHS


def test_outputs_of_many_inputs_are_those_of_one_batch(data: Dataset) -> None:
    model, _ = prepared(data, False)
    many = np.tile(data.x_train, (8, 1, 1, 1))
    assert len(many) > 256
    outputs = predict(model, many)
    assert outputs.dtype == np.float32
    # float32 sums of another batch size
    np.testing.assert_allclose(outputs, np.tile(predict(model, data.x_train), (8, 1)), atol=1e-6)


def test_training_under_a_loss_scale_says_what_became_of_the_clusters(
    data: Dataset, tmp_path: Path
) -> None:
    """As Keras compiles a model of mixed_float16: the loss scale stands around the clustering."""
    model, task = prepared(data, False)
    optimizer = keras.optimizers.LossScaleOptimizer(adam(SCHEDULE, EXAMPLES), 8.0)
    model.compile(optimizer, task.loss)
    cluster_weights(model, ClusterPlan.of(model, 4))
    path = tmp_path / "c.npz"
    history = train(model, data.x_train, data.y_train, task, ONE_EPOCH, path, "k", Progress(-1))
    assert {row["weight"].rsplit("/", 2)[-2] for row in history[0]["clustering"]} == {
        layer.name for layer in model.layers if hasattr(layer, "kernel")
    }
