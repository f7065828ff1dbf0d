"""BatchNorm statistics measured anew: what clustering moves most, and what is cheapest to put right."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import keras

from ..errors import DataError

# attributes by which Keras' noise layers say how much they disturb: at 0 they pass their input on
NOISE_ATTRIBUTES = ("rate", "stddev", "dropout", "recurrent_dropout")


def recalibrate_batchnorm(model: Any, batches: Iterable[Any]) -> int:
    """Set every BatchNormalization layer's moving mean and variance to their means over `batches`.

    batches: model inputs, each at least 32 examples for a variance worth having; labels are not needed.
    Weights and everything else stay as they are; noise layers are silent meanwhile. Returns the number of layers.
    Raises DataError without a batch.
    """
    layers = [
        layer for layer in _layers(model) if isinstance(layer, keras.layers.BatchNormalization)
    ]
    trained = [layer for layer in layers if layer.trainable]
    if not trained:
        return 0
    with _silent_noise(model), _restored([(layer, "momentum") for layer in trained]):
        seen = 0
        for seen, batch in enumerate(batches, 1):
            for layer in trained:
                # the running mean over n batches: new = old·(n-1)/n + batch/n
                layer.momentum = (seen - 1) / seen
            model(batch, training=True)
    if not seen:
        raise DataError("BatchNorm statistics need at least one batch of inputs, got none")
    return len(trained)


def _layers(model: Any) -> list[Any]:
    """All layers at any depth (`layers` is public on models only, and one level deep)."""
    return list(model._flatten_layers())


@contextmanager
def _silent_noise(model: Any) -> Iterator[None]:
    noisy = [
        (layer, attribute)
        for layer in _layers(model)
        for attribute in NOISE_ATTRIBUTES
        if isinstance(vars(layer).get(attribute), float)
    ]
    with _restored(noisy):
        for layer, attribute in noisy:
            setattr(layer, attribute, 0.0)
        yield


@contextmanager
def _restored(attributes: list[tuple[Any, str]]) -> Iterator[None]:
    before = [(owner, name, getattr(owner, name)) for owner, name in attributes]
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)
