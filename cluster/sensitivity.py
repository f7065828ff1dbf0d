"""What the loss feels of each weight: squared gradients from a few batches, the diagonal of the empirical Fisher matrix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ..errors import DataError
from .plan import ClusterPlan


def sensitivities(
    model: Any, plan: ClusterPlan, batches: Iterable[tuple[Any, Any]], loss: Any
) -> dict[str, NDArray[np.float32]]:
    """By name of every planned weight, the mean squared gradient of `loss` per element, in the weight's shape.

    batches: (inputs, labels), small ones: the squares of many small batches tell elements apart.
    loss: as `compile` takes it. Raises DataError without a batch.
    """
    loss = keras.losses.get(loss)
    names = [planned.weight.name for planned in plan.clustered]
    variables = [planned.weight.variable for planned in plan.clustered]
    squares = [np.zeros(variable.shape, np.float64) for variable in variables]

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator] # TF has no stubs
    def gradients(inputs: Any, labels: Any) -> Any:
        watched = [variable.value for variable in variables]
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for value in watched:
                tape.watch(value)
            value = tf.reduce_mean(loss(labels, model(inputs, training=False)))
        found = tape.gradient(value, watched, unconnected_gradients="zero")
        return [tf.convert_to_tensor(gradient) for gradient in found]

    count = 0
    for inputs, labels in batches:
        found = gradients(tf.convert_to_tensor(inputs), tf.convert_to_tensor(labels))
        for square, gradient in zip(squares, found, strict=True):
            square += np.square(gradient.numpy(), dtype=np.float64)
        count += 1
    if not count:
        raise DataError("sensitivities need at least one batch of (inputs, labels), got none")
    return {
        name: (square / count).astype(np.float32)
        for name, square in zip(names, squares, strict=True)
    }
