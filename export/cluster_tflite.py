"""Cluster the weights of a finished .tflite: shared values among the numbers it holds, scales and all else as they are.

With examples to observe, operator after operator: its weights make up for what others of it and what operators before
it lost, and its bias for the mean of that. Without, every weight takes its nearest value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster.kmeans import kmeans
from ..cluster.nearest import nearest_reference
from ..cluster.plan import LEAST_DEPTHWISE_CLUSTERS
from ..cluster.sample import Sample
from ..errors import FormatError
from .lean import bias_of
from .palette_tflite import PALETTE_TYPES
from .products import MOST_INPUTS, Float, Products
from .requantize import DATA_INPUT, weights_read
from .tflite_bytes import WHOLE, tensor_name
from .tflite_schema import Buffer, Model, Op, Operator, Tensor, constant
from .unfold import grouped, unfolding, ungrouped

INT8_MAX = 127
INT32_MAX = 2**31 - 1

# (N, …) real values of a tensor of the first subgraph, as two models give it on the same examples, some at a time
Observe = Callable[[Model, Model, int], Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]]

# k-means adds squares
MAX_WEIGHT = 1e30


@dataclass(frozen=True)
class ClusteredTensor:
    """What became of one weight tensor.

    tensor: its number in the first subgraph; -1 in a further one. values: distinct ones before and after. error: root of the mean square of what changed, as a part of the weight's
    own. reason: why it was left alone, or empty. nearest: why its values are the nearest ones only, or empty.
    """

    tensor: int
    name: str
    shape: tuple[int, ...]
    before: int
    after: int
    error: float
    reason: str
    nearest: str = ""


def cluster_tflite(
    model: Model,
    clusters: int,
    observe: Observe | None = None,
    advance: Callable[[str], None] = lambda name: None,
) -> tuple[Model, tuple[ClusteredTensor, ...]]:
    """The model with at most `clusters` values in every weight of a convolution or a fully connected operator.

    An int8 weight's values are whole numbers, and its channels count by the squares of their scales. Depthwise weights
    get at least 16 clusters. advance: called with each weight's name when it is done. Without `observe` it takes at most
    1024 times the file's size and 96 MB (k-means' grid) of memory. Raises FormatError for scales that are not the
    weight's.
    """
    work = _Clustering(model, clusters, observe)
    for number, readers in weights_read(model).items():
        work.cluster(number, readers)
        advance(model.subgraphs[0].tensors[number].label)
    known = sorted(work.reports, key=lambda report: report.tensor)
    return work.model, (*known, *_passed_over(model, {report.tensor for report in known}))


class _Clustering:
    """The model as it becomes, weight after weight in the order of execution."""

    def __init__(self, model: Model, clusters: int, observe: Observe | None) -> None:
        self.original = self.model = model
        self.clusters = clusters
        self.observe = observe
        self.reports: list[ClusteredTensor] = []

    def cluster(self, number: int, readers: list[Operator]) -> None:
        tensor = self.original.subgraphs[0].tensors[number]
        values = constant(self.original, tensor)
        if values is None or tensor.type not in PALETTE_TYPES:
            reason = "its values are no int8 or float32 constants"
            self.reports.append(_kept(number, tensor, values, reason))
            return
        if not np.all(np.abs(values.astype(np.float64)) <= MAX_WEIGHT):
            reason = f"a value is none or greater than {MAX_WEIGHT:g}"
            self.reports.append(_kept(number, tensor, values, reason))
            return
        depthwise = self._code(readers[0]) == Op.DEPTHWISE_CONV_2D
        wanted = max(self.clusters, LEAST_DEPTHWISE_CLUSTERS) if depthwise else self.clusters
        if len(np.unique(values)) <= wanted:
            reason = "it has no more values than clusters"
            self.reports.append(_kept(number, tensor, values, reason))
            return
        scales = _scales(tensor, values)
        made = "" if self.observe is None else self._compensated(number, readers, values, wanted)
        if isinstance(made, str):
            clustered, nearest = share_values(values, scales, wanted), made
        else:
            clustered, nearest = made, ""
        self._write(number, clustered)
        self.reports.append(_report(number, tensor, values, clustered, scales, nearest))

    def _compensated(
        self, number: int, readers: list[Operator], values: NDArray[Any], clusters: int
    ) -> NDArray[Any] | str:
        """The clustered weight, its operator's bias corrected; or why its inputs are not known."""
        (op, *others), graph = readers, self.original.subgraphs[0]
        if others:
            return "several operators read it"
        code, inputs = self._code(op), op.inputs
        assert inputs is not None and self.observe is not None  # noqa: S101, PT018 # it reads its weights
        data = int(inputs[DATA_INPUT[code]])
        how = unfolding(self.original, op, graph.tensors[data], graph.tensors[number])
        if isinstance(how, str):
            return how
        depthwise = code == Op.DEPTHWISE_CONV_2D
        weight = grouped(values, how.groups, depthwise).astype(np.float64)
        if weight.shape[1] > MOST_INPUTS:
            return f"{weight.shape[1]} inputs an output are more than {MOST_INPUTS}"
        products = Products.of(how, self.observe(self.model, self.original, data))
        if products is None:
            return "no example reaches it"
        bias = self._own_bias(op, data, weight.shape[0] * weight.shape[2])
        importance = np.square(_channel_scales(graph.tensors[number], weight.shape))
        allowed = whole_numbers if values.dtype.kind in "iu" else np.asarray
        made = products.clustered(weight, importance, clusters, bias is not None, allowed)
        if bias is not None:
            self._shift(op, bias, products.lost(weight, made))
        return ungrouped(made, values.shape, depthwise).astype(values.dtype)

    def _own_bias(self, op: Operator, data: int, outputs: int) -> int | None:
        """The bias of an operator, if it is a constant no other operator reads and of a known step."""
        number = bias_of(op, self.original)
        graph = self.original.subgraphs[0]
        bias = None if number is None else constant(self.original, graph.tensors[number])
        if bias is None or bias.size != outputs or not _scale(graph.tensors[data]) > 0:
            return None
        read = [n for other in graph.operators if other.inputs is not None for n in other.inputs]
        return number if read.count(number) == 1 else None

    def _shift(self, op: Operator, number: int, lost: Float) -> None:
        """Add what the mean outputs lost to the bias."""
        tensor = self.original.subgraphs[0].tensors[number]
        bias = constant(self.original, tensor)
        assert bias is not None and op.inputs is not None  # noqa: S101, PT018 # it is the operator's own
        if bias.dtype.kind == "f":
            self._write(number, (bias.astype(np.float64) + lost).astype(bias.dtype))
            return
        data = self.original.subgraphs[0].tensors[int(op.inputs[DATA_INPUT[self._code(op)]])]
        steps = np.rint(lost / _scale(data))
        self._write(
            number,
            np.clip(bias.astype(np.float64) + steps, -INT32_MAX, INT32_MAX).astype(bias.dtype),
        )

    def _write(self, number: int, values: NDArray[Any]) -> None:
        """New data for a tensor, in a buffer of its own: others may share the old one."""
        graph, tensors = self.model.subgraphs[0], list(self.model.subgraphs[0].tensors)
        tensors[number] = replace(tensors[number], buffer=len(self.model.buffers))
        self.model = replace(
            self.model,
            subgraphs=(replace(graph, tensors=tuple(tensors)), *self.model.subgraphs[1:]),
            buffers=(*self.model.buffers, Buffer(data=np.ascontiguousarray(values).tobytes())),
        )

    def _code(self, op: Operator) -> int:
        return self.original.operator_codes[op.opcode_index].code


def _passed_over(model: Model, known: set[int]) -> Iterator[ClusteredTensor]:
    """The weights nothing was done with: of operators with state, of further subgraphs."""
    for place, graph in enumerate(model.subgraphs):
        read = {int(n) for op in graph.operators if op.inputs is not None for n in op.inputs}
        for number in sorted(read - (known if place == 0 else set()) - {-1}):
            tensor = graph.tensors[number]
            # two sizes exceed 1: no bias or gain, in whatever shape those are broadcast
            stored = model.buffers[tensor.buffer].data and tensor.type not in WHOLE
            if stored and sum(size > 1 for size in tensor.dims) >= 2:
                where = " of the first subgraph" if place else ""
                reason = f"no convolution or fully connected operator{where} reads it"
                report = _kept(-1 if place else number, tensor, constant(model, tensor), reason)
                yield replace(report, name=tensor_name(model, place, number))


def whole_numbers(centroids: Float) -> Float:
    """What centroids of symmetric int8 weights may be."""
    return np.clip(np.rint(centroids), -INT8_MAX, INT8_MAX)


def _scale(tensor: Tensor) -> float:
    """What a step of an activation is worth; 1 if its numbers are real."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or not quantization.scale.size:
        return 1.0
    return float(quantization.scale[0])


def _channel_scales(tensor: Tensor, shape: tuple[int, ...]) -> Float:
    """What each output's step is worth, (groups, outputs)."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or quantization.scale.size <= 1:
        return np.ones((shape[0], shape[2]))
    return quantization.scale.astype(np.float64).reshape(shape[0], shape[2])


def _scales(tensor: Tensor, values: NDArray[Any]) -> Float:
    """What each element's step is worth, broadcast to the weight's shape."""
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or not quantization.scale.size:
        return np.ones(values.shape)
    scale, axis = quantization.scale, quantization.quantized_dimension
    along = [1] * values.ndim
    if scale.size > 1:
        if not 0 <= axis < values.ndim or values.shape[axis] != scale.size:
            raise FormatError(
                f"tensor {tensor.label!r} of shape {values.shape} must have one scale, or one per channel, "
                f"got {scale.size} along axis {axis}; the file is damaged"
            )
        along[axis] = -1
    if not np.all((scale >= 0) & (scale <= MAX_WEIGHT)):
        raise FormatError(
            f"the scales of tensor {tensor.label!r} must be positive numbers; the file is damaged"
        )
    return np.broadcast_to(scale.astype(np.float64).reshape(along), values.shape)


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
    scales: Float,
    nearest: str,
) -> ClusteredTensor:
    error = part_lost(values * scales, clustered * scales)
    counts = len(np.unique(values)), len(np.unique(clustered))
    return ClusteredTensor(number, tensor.label, values.shape, *counts, error, "", nearest)


def part_lost(values: Float, clustered: Float) -> float:
    """Root of the mean square of what changed, as a part of the values' own."""
    whole = float(np.square(values).mean())
    return float(np.sqrt(np.square(clustered - values).mean() / whole)) if whole else 0.0


def _kept(number: int, tensor: Tensor, values: NDArray[Any] | None, reason: str) -> ClusteredTensor:
    count = 0 if values is None else len(np.unique(values))
    return ClusteredTensor(number, tensor.label, tensor.dims, count, count, 0.0, reason)
