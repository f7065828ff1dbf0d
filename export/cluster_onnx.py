"""Cluster the weights of any .onnx: shared values among the numbers it holds, scales and all else as they are."""

from __future__ import annotations

from collections.abc import Iterator
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


def cluster_onnx(data: bytes, clusters: int) -> tuple[onnx.ModelProto, tuple[ClusteredTensor, ...]]:
    """The model with at most `clusters` values in every constant weight, ready for palettes.

    By k-means on the weights' real values, so that channels of quantized ones count by the squares of their scales;
    values of int8 and uint8 weights are rounded to whole numbers. Depthwise weights get at least 16 clusters. A weight
    may be an initializer, or a Constant node, which becomes one. An opset too old for palettes is raised.
    Raises FormatError for a damaged file or one whose data lies in other files, ExportError for an opset that cannot be
    raised.
    """
    model = read_onnx(data)
    _check_whole(model)
    check_onnx(data)
    model = _raised(model)
    graph = model.graph
    uses = _Uses(graph)
    _hoist_weights(graph, uses)
    given = {value.name for value in graph.input}
    own = len(graph.initializer)
    reports = []
    for number, tensor in enumerate(_initializers(graph)):
        operator = uses.operator(tensor.name)
        if not is_matrix(tensor) or (operator is None and tensor.data_type not in TABLE_TYPES):
            continue
        reason = _obstacle(tensor, operator, tensor.name in given, number >= own)
        reports.append(_clustered(number, tensor, operator, uses, clusters, reason))
    return model, tuple(reports)


def _clustered(
    number: int, tensor: Any, operator: Any, uses: _Uses, clusters: int, reason: str
) -> ClusteredTensor:
    """Cluster one tensor in place, unless there is a reason not to."""
    shape = tuple(tensor.dims)
    if tensor.data_type not in TABLE_TYPES:
        return ClusteredTensor(number, tensor.name, shape, 0, 0, 0.0, reason)
    values = tensor_values(tensor)
    before = len(np.unique(values))
    wanted = max(clusters, LEAST_DEPTHWISE_CLUSTERS) if _is_depthwise(operator, shape) else clusters
    if not reason and not np.all(np.isfinite(values)):
        reason = "it holds values that are no numbers"
    if not reason and before <= wanted:
        reason = "it has no more values than clusters"
    if reason:
        return ClusteredTensor(number, tensor.name, shape, before, before, 0.0, reason)
    scales, zeros = uses.quantization(tensor.name, shape)
    clustered = share_values(values, scales, wanted)
    error = part_lost((values - zeros) * scales, (clustered - zeros) * scales)
    # its name and what is said of it stay
    tensor.ClearField("float_data")
    tensor.ClearField("double_data")
    tensor.ClearField("int32_data")
    tensor.raw_data = clustered.astype(clustered.dtype.newbyteorder("<")).tobytes()
    return ClusteredTensor(number, tensor.name, shape, before, len(np.unique(clustered)), error, "")


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
