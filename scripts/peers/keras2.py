"""A Keras 3 model of plain layers as the same model of Keras 2, for peers that speak no other."""

from __future__ import annotations

from typing import Any

import numpy as np
import tf_keras
from numpy.typing import NDArray

# outputs of both Keras differ by float32's rounding in convolutions of up to 2,484 products
OUTPUT_TOLERANCE = 1e-4


def keras2_copy(model: Any, examples: NDArray[np.float32]) -> tf_keras.Model:
    """Layers, regularizers, connections and weights of a functional `model` whose layers are each called once.

    examples: inputs (N, …) on which both must agree. Raises ValueError where they do not, or for a layer or setting
    Keras 2 does not know.
    """
    made: dict[str, Any] = {}
    for layer in model.layers:
        if type(layer).__name__ == "InputLayer":
            made[layer.name] = tf_keras.Input(layer.batch_shape[1:], name=layer.name)
            continue
        sources = layer.input if isinstance(layer.input, list) else [layer.input]
        tensors = [made[source._keras_history.operation.name] for source in sources]
        made[layer.name] = _keras2_layer(layer)(tensors[0] if len(tensors) == 1 else tensors)
    inputs, outputs = (made[end[0]._keras_history.operation.name] for end in (model.inputs, model.outputs))  # fmt: skip
    copy = tf_keras.Model(inputs, outputs, name=model.name)
    for layer in model.layers:
        copy.get_layer(layer.name).set_weights([weight.numpy() for weight in layer.weights])
    theirs, ours = (np.asarray(m(examples, training=False)) for m in (copy, model))
    if not np.allclose(theirs, ours, rtol=0, atol=OUTPUT_TOLERANCE):
        raise ValueError(
            f"the Keras 2 copy of {model.name} must give the same outputs, "
            f"got a difference of {np.abs(theirs - ours).max():.2g}"
        )
    return copy


def _keras2_layer(layer: Any) -> Any:
    # Keras 2 knows no policy objects, not all settings of initializers, and none of what is not set here
    config = {
        key: value
        for key, value in layer.get_config().items()
        if value is not None and key != "dtype" and not key.endswith("_initializer")
    }
    return getattr(tf_keras.layers, type(layer).__name__).from_config(config)
