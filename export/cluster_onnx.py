"""Cluster the weights of any .onnx: shared values among the numbers it holds, scales and all else as they are.

With examples to observe, weights and biases make up for what is lost, as in `cluster_tflite`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, version_converter

from ..cluster.plan import LEAST_DEPTHWISE_CLUSTERS
from ..errors import ExportError
from .cluster_tflite import ClusteredTensor, part_lost, share_values
from .onnx_file import check_inside, check_onnx, read_onnx, tensor_values
from .onnx_palette import (
    PALETTE_OPSET,
    STANDARD,
    TABLE_TYPES,
    bodies,
    is_matrix,
    opset_of,
    replace_entries,
)
from .products import MOST_INPUTS, Float, Products
from .unfold_onnx import product_of

# (N, …) real values by name, as two models give them on the same examples, some at a time
ObserveOnnx = Callable[
    [onnx.ModelProto, onnx.ModelProto, str],
    Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]],
]

# where operators take their weights, among their inputs
WEIGHT_INPUTS: dict[str, tuple[int, ...]] = {
    "Conv": (1,),
    "ConvInteger": (1,),
    "ConvTranspose": (1,),
    "GRU": (1, 2),
    "Gather": (0,),
    "Gemm": (0, 1),
    "LSTM": (1, 2),
    "MatMul": (0, 1),
    "MatMulInteger": (0, 1),
    "QLinearConv": (3,),
    "QLinearMatMul": (0, 3),
    "RNN": (1, 2),
}
CONVOLUTIONS = frozenset({"Conv", "ConvInteger", "QLinearConv"})
# what may stand between a weight and its operator
PASSES_ON = frozenset(
    {"Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape", "Squeeze", "Transpose", "Unsqueeze"}
)  # fmt: skip
# by the operator that reads quantized numbers with their scale and zero point behind them: the channels' axis, where
# no attribute says it
CHANNELS = {"DequantizeLinear": 1, "QLinearConv": 0, "QLinearMatMul": -1}
# the first version whose initializers need not be inputs as well
CONSTANT_IR = 4


def cluster_onnx(
    data: bytes,
    clusters: int,
    observe: ObserveOnnx | None = None,
    advance: Callable[[str], None] = lambda name: None,
) -> tuple[onnx.ModelProto, tuple[ClusteredTensor, ...]]:
    """The model with at most `clusters` values in every constant weight, ready for palettes.

    By k-means on the weights' real values, so that channels of quantized ones count by the squares of their scales;
    values of int8 and uint8 weights are rounded to whole numbers. Depthwise weights get at least 16 clusters. A weight
    may be an initializer, or a Constant node, which becomes one. An opset too old for palettes is raised.
    advance: called with each weight's name when it is done.
    Raises FormatError for a damaged file or one whose data lies in other files, ExportError for an opset that cannot be
    raised.
    """
    work = _Clustering(constant_weights(data), clusters, observe)
    for number, tensor, operator in work.weights():
        work.cluster(number, tensor, operator)
        advance(tensor.name)
    return work.model, tuple(sorted(work.reports, key=lambda report: report.tensor))


def constant_weights(data: bytes) -> onnx.ModelProto:
    """A file's model with its weights as initializers, of an opset palettes can be written in. Raises as cluster_onnx."""
    model = read_onnx(data)
    _check_whole(model)
    check_onnx(data)
    model = _raised(model)
    _hoist_weights(model.graph, _Uses(model.graph))
    return model


class _Clustering:
    """The model as it becomes, weight after weight; in the order of execution if examples are observed."""

    def __init__(self, model: onnx.ModelProto, clusters: int, observe: ObserveOnnx | None) -> None:
        self.model = model
        self.original = onnx.ModelProto()
        self.original.CopyFrom(model)
        self.clusters = clusters
        self.observe = observe
        self.uses = _Uses(model.graph)
        self.given = {value.name for value in model.graph.input}
        self.reports: list[ClusteredTensor] = []

    def weights(self) -> list[tuple[int, Any, Any]]:
        """(number among all initializers, tensor, operator that takes it as its weights or None)."""
        places = {node.output[0]: place for place, node in enumerate(self.model.graph.node)}
        found = []
        for number, tensor in enumerate(_initializers(self.model.graph)):
            operator = self.uses.operator(tensor.name)
            if is_matrix(tensor) and (operator is not None or tensor.data_type in TABLE_TYPES):
                found.append((number, tensor, operator))
        if self.observe is not None:
            found.sort(key=lambda entry: places.get(entry[2].output[0], -1) if entry[2] else -1)
        return found

    def cluster(self, number: int, tensor: Any, operator: Any) -> None:
        """Cluster one tensor in place, unless there is a reason not to."""
        shape = tuple(tensor.dims)
        inside = number >= len(self.model.graph.initializer)
        reason = _obstacle(tensor, operator, tensor.name in self.given, inside)
        if tensor.data_type not in TABLE_TYPES:
            self.reports.append(ClusteredTensor(number, tensor.name, shape, 0, 0, 0.0, reason))
            return
        values = tensor_values(tensor)
        before = len(np.unique(values))
        depthwise = _is_depthwise(operator, shape)
        wanted = max(self.clusters, LEAST_DEPTHWISE_CLUSTERS) if depthwise else self.clusters
        if not reason and not np.all(np.isfinite(values)):
            reason = "it holds values that are no numbers"
        if not reason and before <= wanted:
            reason = "it has no more values than clusters"
        if reason:
            self.reports.append(
                ClusteredTensor(number, tensor.name, shape, before, before, 0.0, reason)
            )
            return
        scales, zeros = self.uses.quantization(tensor.name, shape)
        made = self._compensated(tensor.name, values, scales, zeros, wanted) if self.observe else ""
        nearest = made if isinstance(made, str) else ""
        clustered = share_values(values, scales, wanted) if isinstance(made, str) else made
        error = part_lost((values - zeros) * scales, (clustered - zeros) * scales)
        _fill(tensor, clustered)
        after = len(np.unique(clustered))
        self.reports.append(
            ClusteredTensor(number, tensor.name, shape, before, after, error, "", nearest)
        )

    def _compensated(
        self, name: str, values: NDArray[Any], scales: Float, zeros: Float, clusters: int
    ) -> NDArray[Any] | str:
        """The clustered weight, its operator's bias corrected; or why its inputs are not known."""
        assert self.observe is not None  # noqa: S101 # asked for with examples only
        node = self.uses.only_operator(name)
        if isinstance(node, str):
            return node
        how = product_of(node, values.shape)
        if isinstance(how, str):
            return how
        counted = how.grouped(scales)
        if np.any(zeros != zeros.flat[0]) or np.any(counted != counted[:, :1]):
            return "its scales or zero points change within an output"
        zero = float(zeros.flat[0])
        weight = how.grouped(values.astype(np.float64) - zero)
        if weight.shape[1] > MOST_INPUTS:
            return f"{weight.shape[1]} inputs an output are more than {MOST_INPUTS}"
        pairs = self.observe(self.model, self.original, how.data)
        arranged = ((how.inputs(now), how.inputs(then)) for now, then in pairs)
        products = Products.of(how.unfolding, arranged)
        if products is None:
            return "no example reaches it"
        bias = self.uses.own_bias(how.bias, weight.shape[0] * weight.shape[2])
        allowed = partial(_whole, values.dtype, zero) if values.dtype.kind in "iu" else np.asarray
        importance = np.square(counted[:, 0])
        made = products.clustered(weight, importance, clusters, bias is not None, allowed)
        if bias is not None:
            bias.add(products.lost(weight * counted, made * counted))
        return np.asarray(how.ungrouped(made, values.shape) + zero).astype(values.dtype)


@dataclass(frozen=True)
class _Bias:
    """A bias of a tensor's own: scale 1 if its numbers are real."""

    tensor: Any
    scale: Float

    def add(self, lost: Float) -> None:
        values = tensor_values(self.tensor)
        steps = values + (lost / self.scale).reshape(values.shape)
        if values.dtype.kind == "i":
            limits = np.iinfo(values.dtype)
            steps = np.clip(np.rint(steps), limits.min, limits.max)
        _fill(self.tensor, steps.astype(values.dtype))


def _whole(dtype: Any, zero: float, centroids: Float) -> Float:
    limits = np.iinfo(dtype)
    return np.clip(np.rint(centroids), limits.min - zero, limits.max - zero)


def _fill(tensor: Any, values: NDArray[Any]) -> None:
    """New values; its name and what is said of it stay."""
    for field in ("float_data", "double_data", "int32_data"):
        tensor.ClearField(field)
    tensor.raw_data = values.astype(values.dtype.newbyteorder("<")).tobytes()


def _obstacle(tensor: Any, operator: Any, given: bool, inside: bool) -> str:
    """Why a constant is left alone; empty if it is a weight to cluster."""
    if operator is None:
        return "no operator with weights reads it"
    if tensor.data_type not in TABLE_TYPES:
        names = {number: name.lower() for name, number in TensorProto.DataType.items()}
        kind = names.get(tensor.data_type, f"of type {tensor.data_type}")
        return f"its values are {kind}, no float16, float32, float64, int8 or uint8"
    if given:
        return "it is an input with a default, which a caller may replace"
    if inside:
        return "it lies in the body of a Loop, Scan or If"
    return ""


def _is_depthwise(operator: Any, shape: tuple[int, ...]) -> bool:
    groups = next((a.i for a in operator.attribute if a.name == "group"), 1) if operator else 1
    return groups > 1 and operator.op_type in CONVOLUTIONS and shape[1] == 1


class _Uses:
    """Who reads what, in a graph and its nodes' bodies, whose names are all different."""

    def __init__(self, graph: Any) -> None:
        self.readers: dict[str, list[tuple[Any, int]]] = {}
        for node in _nodes(graph):
            for place, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((node, place))
        given = {value.name for value in graph.input}
        self.initializers = {t.name: t for t in graph.initializer if t.name not in given}
        self.makers = {output: node for node in graph.node for output in node.output}
        self.constants = {tensor.name: tensor for tensor in _initializers(graph)}
        for node in _nodes(graph):
            tensor = _constant(node)
            if tensor is not None:
                self.constants[node.output[0]] = tensor

    def operator(self, name: str) -> Any:
        """The first node that takes a value as its weights, as it is or passed on; None if none does."""
        waiting, seen = [name], {name}
        for value in waiting:
            for node, place in self.readers.get(value, []):
                if node.domain not in STANDARD:
                    continue
                if place in WEIGHT_INPUTS.get(node.op_type, ()):
                    return node
                if node.op_type in PASSES_ON and place == 0:
                    fresh = [output for output in node.output if output not in seen]
                    seen.update(fresh)
                    waiting += fresh
        return None

    def only_operator(self, name: str) -> Any:
        """The one node that takes a weight, as it is or dequantized; or why there is no such node."""
        readers = self.readers.get(name, [])
        if len(readers) == 1 and readers[0][0].op_type == "DequantizeLinear":
            readers = self.readers.get(readers[0][0].output[0], [])
        if len(readers) != 1:
            return "several operators read it"
        node, place = readers[0]
        if node.domain not in STANDARD or place != 1:
            return "the inputs of its products are not at hand"
        return node

    def own_bias(self, name: str, outputs: int) -> _Bias | None:
        """A bias no other node reads, a constant of real numbers or a dequantized one of whole numbers."""
        if len(self.readers.get(name, [])) != 1:
            return None
        scale, maker = np.ones(()), self.makers.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            name = maker.input[0]
            factor = self.constants.get(maker.input[1])
            if factor is None or len(self.readers[name]) != 1:
                return None
            scale = tensor_values(factor).astype(np.float64)
        tensor = self.initializers.get(name)
        if tensor is None or tensor.data_type not in (TensorProto.FLOAT, TensorProto.INT32):
            return None
        fits = np.prod(tensor.dims) == outputs and scale.size in (1, outputs)
        return _Bias(tensor, scale.reshape(-1)) if fits and np.all(scale > 0) else None

    def quantization(
        self, name: str, shape: tuple[int, ...]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Scale and zero point of every element, of that shape; ones and zeros where the file states none."""
        for node, place in self.readers.get(name, []):
            if node.op_type in CHANNELS and node.domain in STANDARD:
                attributes = {attribute.name: attribute.i for attribute in node.attribute}
                axis = attributes.get("axis", CHANNELS[node.op_type])
                block = attributes.get("block_size", 0)
                names = [*node.input, "", ""][place + 1 : place + 3]
                scale, zero = (self._spread(name, shape, axis, block) for name in names)
                if scale is not None and np.any(scale != 0):
                    return scale, np.zeros(shape) if zero is None else zero
        return np.ones(shape), np.zeros(shape)

    def _spread(
        self, name: str, shape: tuple[int, ...], axis: int, block: int
    ) -> NDArray[np.float64] | None:
        """A scale or zero point for every element; None if it is no constant or does not fit."""
        if name not in self.constants:
            return None
        values = tensor_values(self.constants[name]).astype(np.float64)
        try:
            if block:
                values = np.repeat(values, block, axis).take(range(shape[axis]), axis)
            elif values.size > 1:
                values = values.reshape([-1 if n == axis % len(shape) else 1 for n in range(len(shape))])  # fmt: skip
            return np.broadcast_to(values.reshape(()) if values.size == 1 else values, shape)
        except (ValueError, IndexError):
            return None


def _nodes(graph: Any) -> Iterator[Any]:
    for node in graph.node:
        yield node
        for body in bodies(node):
            yield from _nodes(body)


def _initializers(graph: Any) -> Iterator[Any]:
    """The graph's own first, then those of bodies."""
    yield from graph.initializer
    for node in graph.node:
        for body in bodies(node):
            yield from _initializers(body)


def _check_whole(model: onnx.ModelProto) -> None:
    tensors = [*_initializers(model.graph)]
    for nodes in (_nodes(model.graph), *(function.node for function in model.functions)):
        tensors += [attribute.t for node in nodes for attribute in node.attribute]
    for tensor in tensors:
        check_inside(tensor)


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with initializers that are constants, and of an opset that palettes can be written in."""
    if model.ir_version < CONSTANT_IR:
        model.ir_version = CONSTANT_IR
        constants = {tensor.name for tensor in model.graph.initializer}
        kept = [value for value in model.graph.input if value.name not in constants]
        replace_entries(model.graph.input, kept)
    opset = opset_of(model)
    if opset >= PALETTE_OPSET:
        return model
    try:
        raised = version_converter.convert_version(model, PALETTE_OPSET)
        onnx.checker.check_model(raised)
    except Exception as error:  # the converter raises whatever its adapters raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise ExportError(
            f"palettes need opset {PALETTE_OPSET} or newer, got {opset}, which onnx cannot raise ({said}); export the "
            "model anew with a newer opset"
        ) from None
    replace_entries(raised.metadata_props, model.metadata_props)
    return raised


def _constant(node: Any) -> Any:
    """The tensor of a Constant node; None for any other."""
    if node.op_type != "Constant" or node.domain not in STANDARD:
        return None
    return next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)


def _hoist_weights(graph: Any, uses: _Uses) -> None:
    """Constant nodes that hold weights become initializers of the same name."""
    kept = []
    for node in graph.node:
        tensor = _constant(node)
        if tensor is None or not is_matrix(tensor) or uses.operator(node.output[0]) is None:
            kept.append(node)
            continue
        graph.initializer.add().CopyFrom(tensor)
        graph.initializer[-1].name = node.output[0]
    if len(kept) < len(graph.node):
        replace_entries(graph.node, kept)
