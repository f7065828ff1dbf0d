"""Clustering a trained model without training it: in every layer, weights make up for what others of it lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ..errors import DataError
from .channels import is_depthwise
from .compensation import LinearMap, compensate
from .plan import ClusterPlan, PlannedWeight
from .replaced_call import replaced_call

# elements unfolded for one product
PATCHED = 1 << 23
# what an output counts at least, as a part of the mean: no batch may have made the loss feel it
LEAST_IMPORTANCE = 1e-2
# inputs of one output beyond which their products do not fit into memory
MOST_INPUTS = 8192


@dataclass(frozen=True)
class PostTraining:
    """How one weight was clustered. obstacle: None, or why its nearest values had to do."""

    name: str
    obstacle: str | None


def cluster_post_training(
    model: Any, plan: ClusterPlan, batches: Sequence[Any]
) -> list[PostTraining]:
    """Give every planned weight its shared values, in place, so that layers' outputs on `batches` change least.

    batches: model inputs. A plan with sensitivities weighs a layer's outputs by what the loss feels of them.
    Dense and ungrouped or depthwise convolutions over `channels_last` activations are compensated; every other weight
    takes its nearest values, and the result says why. A plan's `int8` is for training and has no effect here.
    Recalibrate BatchNorm afterwards. Raises DataError without a batch.
    """
    batches = list(batches)
    if not batches:
        raise DataError("clustering without training needs at least one batch of inputs, got none")
    results = []
    for planned in plan.clustered:
        obstacle = _obstacle(planned)
        values = None if obstacle else _compensated(model, planned, batches)
        if values is None and obstacle is None:
            obstacle = "its layer does not run on the batches given"
        planned.weight.variable.assign(planned.cluster() if values is None else values)
        results.append(PostTraining(planned.weight.name, obstacle))
    return results


def _obstacle(planned: PlannedWeight) -> str | None:
    """Why a weight's inputs are not known."""
    layer = planned.weight.layer
    kinds = {base.__name__ for base in type(layer).__mro__}
    if planned.channels is not None or planned.sparse:
        return "values per channel and pruned kernels take the nearest values"
    if planned.weight.variable.name != "kernel" or not kinds & {
        "Dense",
        "Conv1D",
        "Conv2D",
        "DepthwiseConv1D",
        "DepthwiseConv2D",
    }:
        return f"the inputs of {planned.weight.variable.name} of {planned.weight.layer_type} are not at hand"
    shape = planned.weight.shape
    inputs = prod(shape[:-2] if is_depthwise(layer, "kernel") else shape[:-1])
    if inputs > MOST_INPUTS:
        return f"{inputs} inputs an output are more than {MOST_INPUTS}"
    if "Dense" in kinds:
        return None
    if getattr(layer, "groups", 1) != 1:
        return "grouped convolutions take the nearest values"
    if layer.data_format != "channels_last" or layer.padding not in ("same", "valid"):
        return f"{layer.data_format} with {layer.padding} padding takes the nearest values"
    return None


def _compensated(
    model: Any, planned: PlannedWeight, batches: Sequence[Any]
) -> NDArray[np.float32] | None:
    """The clustered weight; None if its layer never ran."""
    layer, values = planned.weight.layer, planned.values()
    depthwise = is_depthwise(layer, "kernel")
    gram = _gram(model, layer, batches, depthwise)
    if gram is None:
        return None
    weight = _groups(values, depthwise).astype(np.float64)
    groups, _, outputs = weight.shape
    felt = None if planned.sensitivity is None else _groups(planned.sensitivity, depthwise)
    linear = LinearMap(weight, gram, _importance(gram, felt, (groups, outputs)))
    _, clustered = compensate(linear, planned.clusters, planned.pin_zero)
    return np.asarray(planned.flips * _ungroup(clustered, values.shape, depthwise), np.float32)


def _groups(values: NDArray[Any], depthwise: bool) -> NDArray[Any]:
    """(groups, inputs, outputs) of a kernel: (…, channels, multiplier) of a depthwise one, else (…, outputs)."""
    if depthwise:
        return np.moveaxis(values.reshape(-1, *values.shape[-2:]), 1, 0)
    return values.reshape(1, -1, values.shape[-1])


def _ungroup(groups: NDArray[Any], shape: tuple[int, ...], depthwise: bool) -> NDArray[Any]:
    return (np.moveaxis(groups, 0, 1) if depthwise else groups).reshape(shape)


def _importance(
    gram: NDArray[np.float64], felt: NDArray[Any] | None, shape: tuple[int, int]
) -> NDArray[np.float64]:
    """What the loss feels of each output: squared gradients of its weights, by the energy of their inputs."""
    if felt is None:
        return np.ones(shape)
    energy = np.maximum(np.trace(gram, axis1=1, axis2=2)[:, None], np.finfo(np.float64).tiny)
    found = felt.sum(axis=1, dtype=np.float64) / energy
    mean = found.mean()
    return found / mean + LEAST_IMPORTANCE if mean > 0 else np.ones(shape)


def _gram(
    model: Any, layer: Any, batches: Sequence[Any], depthwise: bool
) -> NDArray[np.float64] | None:
    """E[x xᵀ] over every place the layer's kernel is laid on, (groups, inputs, inputs); None if it never ran."""
    total: Any = 0.0
    count = 0
    with _recorded(layer) as seen:
        for batch in batches:
            model(batch, training=False)
            for inputs in seen:
                # kernels lie on many places: a few examples at a time
                for part in _slices(layer, inputs):
                    patches = _patches(layer, part, depthwise)
                    product = tf.matmul(patches, patches, transpose_a=True).numpy()
                    total = total + product.astype(np.float64)
                    count += int(patches.shape[1])
            seen.clear()
    return np.asarray(total / count) if count else None


def _slices(layer: Any, inputs: Any) -> Iterator[Any]:
    each = prod(int(size) for size in inputs.shape[1:]) * prod(getattr(layer, "kernel_size", ()))
    step = max(1, PATCHED // each)
    for start in range(0, int(inputs.shape[0]), step):
        yield inputs[start : start + step]


def _patches(layer: Any, inputs: Any, depthwise: bool) -> Any:
    """What the kernel is multiplied by: (groups, places, inputs)."""
    inputs = tf.cast(inputs, tf.float32)
    if not hasattr(layer, "kernel_size"):
        return tf.reshape(inputs, (1, -1, inputs.shape[-1]))
    one_dimensional = len(layer.kernel_size) == 1
    if one_dimensional:
        inputs = inputs[:, None]
    sizes, strides, rates = (
        (1, 1, *values, 1) if one_dimensional else (1, *values, 1)
        for values in (layer.kernel_size, _pair(layer.strides), _pair(layer.dilation_rate))
    )
    patches = tf.image.extract_patches(inputs, sizes, strides, rates, layer.padding.upper())
    channels = int(inputs.shape[-1])
    if not depthwise:
        return tf.reshape(patches, (1, -1, prod(layer.kernel_size) * channels))
    split = tf.reshape(patches, (-1, prod(layer.kernel_size), channels))
    return tf.transpose(split, (2, 0, 1))


def _pair(values: Any) -> tuple[int, ...]:
    return tuple(values) if isinstance(values, (tuple, list)) else (int(values),)


@contextmanager
def _recorded(layer: Any) -> Iterator[list[Any]]:
    """The inputs of every call of a layer."""
    seen: list[Any] = []
    plain = layer.call

    def call(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        seen.append(inputs)
        return plain(inputs, *args, **kwargs)

    with replaced_call(layer, call):
        yield seen
