"""Cluster the weights of a finished .tflite: shared values among the numbers it holds, scales and all else as they are."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster.kmeans import kmeans
from ..cluster.nearest import nearest_reference
from ..cluster.plan import LEAST_DEPTHWISE_CLUSTERS
from ..cluster.sample import Sample
from .palette_tflite import PALETTE_TYPES
from .requantize import weights_read
from .tflite_schema import Buffer, Model, Op, Tensor, constant


@dataclass(frozen=True)
class ClusteredTensor:
    """What became of one weight tensor.

    values: distinct ones before and after. error: root of the mean square of what changed, as a part of the weight's
    own. reason: why it was left alone, or empty.
    """

    tensor: int
    name: str
    shape: tuple[int, ...]
    before: int
    after: int
    error: float
    reason: str


def cluster_tflite(model: Model, clusters: int) -> tuple[Model, tuple[ClusteredTensor, ...]]:
    """The model with at most `clusters` values in every weight of a convolution or a fully connected operator.

    By k-means on the weights' real values, so that channels count by the squares of their scales; an int8 weight's
    values are rounded to whole numbers. Depthwise weights get at least 16 clusters.
    """
    graph = model.subgraphs[0]
    tensors, buffers = list(graph.tensors), list(model.buffers)
    reports = []
    for number, operator in sorted(weights_read(model).items()):
        tensor = graph.tensors[number]
        values = constant(model, tensor)
        if values is None or tensor.type not in PALETTE_TYPES:
            reports.append(
                _kept(number, tensor, values, "its values are no int8 or float32 constants")
            )
            continue
        wanted = (
            max(clusters, LEAST_DEPTHWISE_CLUSTERS)
            if operator == Op.DEPTHWISE_CONV_2D
            else clusters
        )
        if len(np.unique(values)) <= wanted:
            reports.append(_kept(number, tensor, values, "it has no more values than clusters"))
            continue
        scales = _scales(tensor, values)
        clustered = share_values(values, scales, wanted)
        tensors[number] = replace(tensor, buffer=len(buffers))
        buffers.append(Buffer(data=clustered.tobytes()))
        reports.append(_report(number, tensor, values, clustered, scales))
    whole = replace(graph, tensors=tuple(tensors))
    return replace(model, subgraphs=(whole, *model.subgraphs[1:]), buffers=tuple(buffers)), tuple(
        reports
    )


def _scales(tensor: Tensor, values: NDArray[Any]) -> NDArray[np.float64]:
    """What each element's step is worth, broadcast to the weight's shape."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or not quantization.scale.size:
        return np.ones(values.shape)
    along = [1] * values.ndim
    if quantization.scale.size > 1:
        along[quantization.quantized_dimension] = -1
    return np.broadcast_to(quantization.scale.astype(np.float64).reshape(along), values.shape)


def share_values(values: NDArray[Any], scales: NDArray[np.float64], clusters: int) -> NDArray[Any]:
    """The values, each the nearest of at most `clusters`. scales: what each element's step is worth, in their shape."""
    table = kmeans(Sample.of(values.astype(np.float64), np.square(scales)), clusters)
    if values.dtype.kind in "iu":
        table = np.unique(np.rint(table))
    places = nearest_reference(values.astype(np.float32), table.astype(np.float32))
    return np.asarray(table.astype(values.dtype)[places])


def _report(
    number: int,
    tensor: Tensor,
    values: NDArray[Any],
    clustered: NDArray[Any],
    scales: NDArray[np.float64],
) -> ClusteredTensor:
    error = part_lost(values * scales, clustered * scales)
    counts = len(np.unique(values)), len(np.unique(clustered))
    return ClusteredTensor(number, tensor.label, values.shape, *counts, error, "")


def part_lost(values: NDArray[np.float64], clustered: NDArray[np.float64]) -> float:
    """Root of the mean square of what changed, as a part of the values' own."""
    whole = float(np.square(values).mean())
    return float(np.sqrt(np.square(clustered - values).mean() / whole)) if whole else 0.0


def _kept(number: int, tensor: Tensor, values: NDArray[Any] | None, reason: str) -> ClusteredTensor:
    count = 0 if values is None else len(np.unique(values))
    return ClusteredTensor(number, tensor.label, tensor.dims, count, count, 0.0, reason)
