"""The same seed gives the same bits, and so does a training that was stopped, saved, loaded and resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.optimizer import ClusteringOptimizer
from edgepalette.cluster.plan import ClusterPlan, Override

SIDE, CHANNELS, CLASSES = 6, 3, 4
EPOCHS, BATCH, STEPS = 4, 16, 4
FEW_CLUSTERS = {"conv": 4, "head": 4}
# two searches that compare with every border, and one from a table
CLUSTERS_OF_EVERY_SEARCH = {"point": 4, "head": 16, "conv": 64}


@keras.saving.register_keras_serializable("edgepalette_tests")
class SavedDropout(layers.Dropout):
    """Dropout that saves where its generator stands; Keras' own begins anew when it is loaded, clustered or not."""

    def save_own_variables(self, store: Any) -> None:
        store["drawn"] = self.seed_generator.state.numpy()

    def load_own_variables(self, store: Any) -> None:
        self.seed_generator.state.assign(store["drawn"])


class StoppedError(Exception):
    """Stands for a SIGKILL or a power cut."""


class Stopping(keras.callbacks.Callback):
    """Stops in the middle of an epoch, after its second step."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self.epoch, self.now = epoch, -1

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.now = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.now == self.epoch and batch == 1:
            raise StoppedError


def adam() -> Any:
    return keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(0.02, EPOCHS * STEPS))


def rising() -> Any:
    return keras.optimizers.schedules.PolynomialDecay(0.0, EPOCHS * STEPS, 0.1)


def momentum(accumulated: int | None = None, **options: Any) -> Any:
    return keras.optimizers.SGD(
        0.05, momentum=0.9, gradient_accumulation_steps=accumulated, **options
    )


def loss_scale() -> Any:
    """Doubles its scale every third step, so that epochs end between."""
    return keras.optimizers.LossScaleOptimizer(adam(), initial_scale=8.0, dynamic_growth_steps=3)


@dataclass(frozen=True)
class Way:
    """One way to train.

    clusters: by layer; the model has these kernels.
    pruned: whether half of every kernel is 0 from the start.
    negated: whether half of every kernel is clustered with the other sign.
    stops: the numbers of epochs after which it is stopped, where an epoch is four steps.
    """

    optimizer: Callable[[], Any] = adam
    clusters: Mapping[str, int] = field(default_factory=lambda: FEW_CLUSTERS)
    examples: int = STEPS * BATCH
    per_channel: bool = False
    int8: bool = False
    refresh_every: int = 1
    centroid_rate: float = 1.0
    damping: Any = 0.0
    policy: str = "float32"
    pruned: bool = False
    negated: bool = False
    jit_compile: bool = False
    stops: tuple[int, ...] = (2,)


WAYS = {
    "a smaller last batch": Way(examples=STEPS * BATCH - BATCH // 2, stops=(1, 2, 3)),
    "loss scale": Way(loss_scale, policy="mixed_float16"),
    "accumulation within the epoch": Way(lambda: momentum(2)),
    "accumulation across epochs": Way(lambda: momentum(3), stops=(1, 2, 3)),
    "refresh across epochs": Way(
        refresh_every=3, centroid_rate=0.5, damping=rising(), stops=(1, 2, 3)
    ),
    "per channel": Way(per_channel=True),
    "pruned, moving averages": Way(
        lambda: momentum(use_ema=True, ema_overwrite_frequency=3), pruned=True
    ),
    "int8, negated": Way(int8=True, negated=True),
    "compiled by XLA": Way(jit_compile=True),
}


@pytest.fixture(autouse=True)
def policy() -> Iterator[None]:
    """Every test leaves Keras the precision it found."""
    before = keras.config.dtype_policy()
    yield
    keras.config.set_dtype_policy(before)


def prepared(way: Way, seed: int = 7) -> Any:
    """A compiled model with all that has a state: BatchNorm, Dropout, an optimizer, shared values."""
    keras.utils.set_random_seed(seed)
    keras.config.set_dtype_policy(way.policy)
    model = keras.Sequential(
        [
            keras.Input((SIDE, SIDE, CHANNELS)),
            layers.Conv2D(6, 3, name="conv"),
            layers.BatchNormalization(),
            layers.ReLU(),
            *([layers.Conv2D(6, 1, name="point")] if "point" in way.clusters else []),
            SavedDropout(0.3, seed=seed),
            layers.Flatten(),
            layers.Dense(CLASSES, name="head"),
        ]
    )
    kernels = {f"{name}/kernel": model.get_layer(name).kernel for name in way.clusters}
    odd = {name: np.indices(kernel.shape).sum(axis=0) % 2 for name, kernel in kernels.items()}
    if way.pruned:
        for name, kernel in kernels.items():
            kernel.assign(kernel.numpy() * odd[name])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(way.optimizer(), loss, metrics=["accuracy"], jit_compile=way.jit_compile)
    plan = ClusterPlan.of(
        model,
        overrides=[Override(name, clusters) for name, clusters in way.clusters.items()],
        gains={name: 1.0 - 2.0 * part for name, part in odd.items()} if way.negated else None,
        per_channel=way.per_channel,
        int8=way.int8,
    )
    return cluster_weights(
        model,
        plan,
        refresh_every=way.refresh_every,
        centroid_rate=way.centroid_rate,
        damping=way.damping,
    )


def fit(way: Way, model: Any, first: int, epochs: int, *callbacks: Any) -> Any:
    """The model, trained on from epoch `first`. Batches come in order: no generator decides."""
    random = np.random.default_rng(0)
    model.fit(
        random.normal(size=(way.examples, SIDE, SIDE, CHANNELS)).astype(np.float32),
        random.integers(0, CLASSES, way.examples).astype(np.int32),
        batch_size=BATCH,
        shuffle=False,
        initial_epoch=first,
        epochs=epochs,
        callbacks=list(callbacks),
        verbose=0,
    )
    return model


def clustered_variables(model: Any) -> tuple[Any, ...]:
    optimizer = model.optimizer
    if not isinstance(optimizer, ClusteringOptimizer):
        optimizer = optimizer.inner_optimizer
    assert isinstance(optimizer, ClusteringOptimizer)
    return optimizer.clustered_variables


def state(model: Any) -> list[Any]:
    """All that training changes: weights, statistics, generators, originals, centroids, indices, slots, counters."""
    return [*model.variables, *model.optimizer.variables]


def differing(ours: Any, theirs: Any) -> list[str]:
    """The variables whose bits are not the same."""
    assert clustered_variables(ours)
    pairs = zip(state(ours), state(theirs), strict=True)
    return [a.path for a, b in pairs if a.numpy().tobytes() != b.numpy().tobytes()]


def saved_and_loaded(model: Any, path: Path) -> Any:
    model.save(path)
    return keras.models.load_model(path)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * way.jit_compile) for name, way in WAYS.items()],
)
def test_a_checkpoint_of_any_epoch_goes_on_to_the_bits_of_uninterrupted_training(
    tmp_path: Path, name: str
) -> None:
    way = WAYS[name]
    every_epoch = keras.callbacks.ModelCheckpoint(tmp_path / "{epoch}.keras")
    whole = fit(way, prepared(way), 0, EPOCHS, every_epoch)
    for done in way.stops:
        resumed = keras.models.load_model(tmp_path / f"{done}.keras")
        assert differing(resumed, whole), "there was nothing left to train"
        fit(way, resumed, done, EPOCHS)
        assert differing(resumed, whole) == [], f"stopped after epoch {done}"


def test_as_many_calls_of_fit_as_epochs_end_in_the_bits_of_one(tmp_path: Path) -> None:
    """Not so with `refresh_every` or moving averages: every end of `fit` refreshes and takes the averages over."""
    way = WAYS["accumulation across epochs"]
    whole = fit(way, prepared(way), 0, EPOCHS)
    parts = prepared(way)
    for done in range(EPOCHS):
        parts = saved_and_loaded(fit(way, parts, done, done + 1), tmp_path / "m.keras")
    assert differing(parts, whole) == []


def test_keras_own_backup_goes_on_to_the_bits_of_uninterrupted_training(tmp_path: Path) -> None:
    way = WAYS["refresh across epochs"]
    whole = fit(way, prepared(way), 0, EPOCHS)
    with pytest.raises(StoppedError):
        fit(way, prepared(way), 0, EPOCHS, keras.callbacks.BackupAndRestore(tmp_path), Stopping(2))
    # all comes from the backup: another seed starts elsewhere
    resumed = prepared(way, seed=8)
    fit(way, resumed, 0, EPOCHS, keras.callbacks.BackupAndRestore(tmp_path))
    assert differing(resumed, whole) == []


@pytest.mark.parametrize("jit_compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_the_same_seed_gives_the_same_bits_by_every_search(jit_compile: bool) -> None:
    way = Way(clusters=CLUSTERS_OF_EVERY_SEARCH, jit_compile=jit_compile)
    models = [prepared(way) for _ in range(2)]
    starts = [variable.indices.numpy() for variable in clustered_variables(models[0])]
    ours, theirs = (clustered_variables(fit(way, model, 0, 2)) for model in models)
    assert differing(*models) == []
    assert {int(variable.centroids.shape[0]) for variable in ours} == {4, 16, 64}
    for start, one, other in zip(starts, ours, theirs, strict=True):
        assert (one.indices.numpy() != start).any(), one.original.path
        np.testing.assert_array_equal(one.indices.numpy(), other.indices.numpy())
