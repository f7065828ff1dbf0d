"""Averages of whole maps by operators whose int8 result has a scale of its own: MEAN, ONNX's GlobalAveragePool.

TFLite's int8 AVERAGE_POOL_2D and ONNX Runtime's AveragePool give averages in steps of their input's values. An average
of a whole map is many times smaller than the largest value: rounded so, it was by far the largest error of a ResNet8
trained as int8 runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..cluster.replaced_call import replaced_call

MEAN_REASON = "computed as a mean of the whole map, whose int8 result has a scale of its own"


@contextmanager
def averages_as_means(model: Any, wanted: bool = True) -> Iterator[list[str]]:
    """Meanwhile AveragePooling layers over their whole input are traced as means, if `wanted`; their names get into the list.

    Whether a layer covers its whole input is seen call by call. `channels_first` and padded ones stay as they are.
    """
    import keras

    kinds = (keras.layers.AveragePooling1D, keras.layers.AveragePooling2D)
    found: list[str] = []
    with ExitStack() as restored:
        for layer in model._flatten_layers() if wanted else ():
            # not a subclass, whose call is its own
            if type(layer) not in kinds or layer.data_format != "channels_last":
                continue
            if layer.padding == "valid":
                restored.enter_context(replaced_call(layer, _mean_of(layer, found)))
        yield found


def _mean_of(layer: Any, found: list[str]) -> Callable[[Any], Any]:
    """What computes a pooling layer, as a mean wherever it covers its whole input."""
    import tensorflow as tf

    plain = layer.call

    def call(inputs: Any) -> Any:
        size = tuple(inputs.shape[1:-1])
        if size != tuple(layer.pool_size):
            return plain(inputs)
        if layer.name not in found:
            found.append(layer.name)
        return tf.reduce_mean(inputs, axis=list(range(1, len(size) + 1)), keepdims=True)

    return call
