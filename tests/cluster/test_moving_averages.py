"""SwapEMAWeights: what is evaluated is what `fit` would end in, and training does not notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.moving_averages import SwapEMAWeights
from edgepalette.cluster.plan import ClusterPlan
from edgepalette.errors import ModelError

Build = Callable[..., Any]
Pictures = NDArray[np.float32]
Labels = NDArray[np.int64]

CLUSTERS = 4


class Seen(keras.callbacks.Callback):
    """Whether kernels have no more values than centroids while they are evaluated; the weights at every epoch's end."""

    def __init__(self) -> None:
        super().__init__()
        self.shared: list[bool] = []
        self.at_ends: list[list[NDArray[Any]]] = []

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self.shared += [len(np.unique(v.kernel)) <= v.centroids.shape[0] for v in self.clustered]

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.at_ends.append(self.model.get_weights())

    @property
    def clustered(self) -> tuple[Any, ...]:
        optimizer = self.model.optimizer
        return getattr(optimizer, "inner_optimizer", optimizer).clustered_variables  # type: ignore[no-any-return]


def loss() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def averaging(build: Build, use_ema: bool = True, int8: bool = False, **options: Any) -> Any:
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9, use_ema=use_ema, ema_momentum=0.9)
    model = build("sequential", optimizer=optimizer, loss=loss())
    return cluster_weights(model, ClusterPlan.of(model, CLUSTERS, int8=int8), **options)


def fit(model: Any, x: Pictures, y: Labels, *callbacks: Any, epochs: int = 3) -> Any:
    validation = (x, y) if callbacks else None
    return model.fit(
        x, y, batch_size=16, epochs=epochs, shuffle=False, verbose=0, validation_data=validation,
        callbacks=list(callbacks),
    ).history  # fmt: skip


def bits(model: Any) -> bytes:
    return b"".join(v.numpy().tobytes() for v in [*model.variables, *model.optimizer.variables])


@pytest.mark.parametrize(
    "options",
    [{}, {"refresh": False}, {"refresh_every": 5}, {"int8": True}],
    ids=["refreshed", "kept", "now and then", "int8"],
)
def test_what_is_evaluated_is_what_training_ends_in_and_training_is_not_disturbed(
    options: dict[str, Any], build: Build, pictures: Pictures, labels: Labels
) -> None:
    undisturbed = averaging(build, **options)
    fit(undisturbed, pictures, labels)
    seen = Seen()
    model = averaging(build, **options)
    history = fit(model, pictures, labels, SwapEMAWeights(), seen)
    assert bits(model) == bits(undisturbed)
    assert seen.shared
    assert all(seen.shared)
    ended = model.evaluate(pictures, labels, batch_size=16, verbose=0)
    assert history["val_loss"][-1] == ended
    assert len(set(history["val_loss"])) == 3


def test_a_prediction_sees_the_averages_and_leaves_the_model_as_it_was(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    model, callback = averaging(build), SwapEMAWeights()
    for _ in range(5):
        model.train_on_batch(pictures, labels)
    before, trained = bits(model), model.predict(pictures, verbose=0)
    averaged = model.predict(pictures, verbose=0, callbacks=[callback])
    assert bits(model) == before
    model.optimizer.finalize_variable_values(model.trainable_variables)
    np.testing.assert_array_equal(averaged, model.predict(pictures, verbose=0))
    assert np.abs(averaged - trained).max() > 1e-3


def test_callbacks_at_an_epochs_end_see_what_training_would_end_in_there_if_asked(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    seen = Seen()
    model = averaging(build)
    fit(model, pictures, labels, SwapEMAWeights(swap_on_epoch=True), seen)
    for epochs, weights in enumerate([*seen.at_ends, model.get_weights()], 1):
        ended = averaging(build)
        fit(ended, pictures, labels, epochs=min(epochs, 3))
        for value, expected in zip(weights, ended.get_weights(), strict=True):
            assert value.tobytes() == expected.tobytes()


def test_a_callback_serves_another_fit(build: Build, pictures: Pictures, labels: Labels) -> None:
    undisturbed, model = averaging(build), averaging(build)
    callback = SwapEMAWeights(swap_on_epoch=True)
    for _ in range(2):
        fit(undisturbed, pictures, labels, epochs=1)
        fit(model, pictures, labels, callback, epochs=1)
    assert bits(model) == bits(undisturbed)


def test_averages_are_found_inside_a_loss_scale(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    inner = keras.optimizers.SGD(0.1, use_ema=True)
    model = build(
        "sequential", optimizer=keras.optimizers.LossScaleOptimizer(inner, 8.0), loss=loss()
    )
    cluster_weights(model, ClusterPlan.of(model, CLUSTERS))
    seen = Seen()
    history = fit(model, pictures, labels, SwapEMAWeights(), seen)
    assert seen.shared
    assert all(seen.shared)
    ended = model.evaluate(pictures, labels, batch_size=16, verbose=0)
    assert history["val_loss"][-1] == ended


def test_an_unclustered_model_is_left_to_keras(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    histories = []
    for callback in (SwapEMAWeights, keras.callbacks.SwapEMAWeights):
        optimizer = keras.optimizers.SGD(0.1, use_ema=True)
        model = build("sequential", optimizer=optimizer, loss=loss())
        histories.append(fit(model, pictures, labels, callback(swap_on_epoch=True)))
    assert histories[0] == histories[1]


def test_keras_own_callback_is_refused_with_what_to_use(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    with pytest.raises(ModelError, match=r"use edgepalette\.SwapEMAWeights in its place"):
        fit(averaging(build), pictures, labels, keras.callbacks.SwapEMAWeights())


def test_an_optimizer_without_averages_is_refused(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    with pytest.raises(ModelError, match="got SGD without; compile with use_ema=True"):
        fit(averaging(build, use_ema=False), pictures, labels, SwapEMAWeights())
