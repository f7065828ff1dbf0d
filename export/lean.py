"""A .tflite file without what no device reads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from .tflite_schema import (
    Buffer,
    Model,
    Op,
    Operator,
    OperatorCode,
    QuantizationParameters,
    SubGraph,
    Tensor,
    TensorType,
)

# the bias of these operators is at scale s_input · s_weights: stating it once more per channel costs 4 bytes each
BIAS_INPUT: dict[int, int] = {
    Op.CONV_2D: 2,
    Op.DEPTHWISE_CONV_2D: 2,
    Op.FULLY_CONNECTED: 2,
    Op.TRANSPOSE_CONV: 3,
}


def lean(model: Model) -> Model:
    """The same computation without names, signatures, metadata, ranges and repeated data.

    Unused buffers and operator codes go, equal constants share a buffer, an int32 bias states no scales per channel
    (the loader restores them for runtimes whose fast kernels ask for them).
    """
    model = commonest_codes_first(model)
    buffers = _Buffers()
    # what is named twice is made once, and stays one
    graphs = {g: _lean_graph(g, model, buffers) for g in dict.fromkeys(model.subgraphs)}
    return replace(
        model,
        operator_codes=tuple(map(_lean_code, model.operator_codes)),
        subgraphs=tuple(graphs[graph] for graph in model.subgraphs),
        description=None,
        buffers=tuple(buffers.kept),
        metadata_buffer=None,
        metadata=(),
        signature_defs=(),
    )


class _Buffers:
    """Buffers of the lean file; number 0 is empty by convention."""

    def __init__(self) -> None:
        self.kept = [Buffer()]
        self.numbers: dict[bytes, int] = {}

    def number(self, buffer: Buffer) -> int:
        if not buffer.data:
            return 0
        if buffer.data not in self.numbers:
            self.numbers[buffer.data] = len(self.kept)
            self.kept.append(Buffer(data=buffer.data))
        return self.numbers[buffer.data]


def commonest_codes_first(model: Model) -> Model:
    """The model with the operator codes in use alone, in the order of their use: naming number 0 takes no bytes."""
    uses = Counter(op.opcode_index for graph in model.subgraphs for op in graph.operators)
    numbers = {old: new for new, old in enumerate(sorted(uses, key=lambda n: (-uses[n], n)))}

    def renumbered(graph: SubGraph) -> SubGraph:
        # what is named twice is made once, and stays one
        new = {op: replace(op, opcode_index=numbers[op.opcode_index]) for op in graph.operators}
        return replace(graph, operators=tuple(new[op] for op in graph.operators))

    graphs = {graph: renumbered(graph) for graph in dict.fromkeys(model.subgraphs)}
    return replace(
        model,
        operator_codes=tuple(model.operator_codes[number] for number in numbers),
        subgraphs=tuple(graphs[graph] for graph in model.subgraphs),
    )


def _lean_code(code: OperatorCode) -> OperatorCode:
    """Both code fields set: old readers take the deprecated one, new ones the larger (127 = look at the other)."""
    return replace(code, builtin_code=code.code, deprecated_builtin_code=min(code.code, 127))


def _lean_graph(graph: SubGraph, model: Model, buffers: _Buffers) -> SubGraph:
    biases = {n for op in graph.operators if (n := bias_of(op, model)) is not None}
    named = [(tensor, number in biases) for number, tensor in enumerate(graph.tensors)]
    tensors = {key: _lean_tensor(key[0], model, buffers, key[1]) for key in dict.fromkeys(named)}
    operators = {op: replace(op, debug_metadata_index=-1) for op in dict.fromkeys(graph.operators)}
    return replace(
        graph,
        tensors=tuple(tensors[key] for key in named),
        operators=tuple(operators[op] for op in graph.operators),
        name=None,
        debug_metadata_index=-1,
    )


def bias_of(operator: Operator, model: Model) -> int | None:
    """Number of the bias tensor of an operator that has one."""
    place = BIAS_INPUT.get(model.operator_codes[operator.opcode_index].code)
    inputs = operator.inputs
    if place is None or inputs is None or len(inputs) <= place or inputs[place] < 0:
        return None
    return int(inputs[place])


def _lean_tensor(tensor: Tensor, model: Model, buffers: _Buffers, is_bias: bool) -> Tensor:
    signature = tensor.shape_signature
    fixed = signature is None or bool(np.all(signature >= 0))
    return replace(
        tensor,
        name=None,
        buffer=buffers.number(model.buffers[tensor.buffer]),
        quantization=_lean_quantization(tensor, is_bias),
        shape_signature=None if fixed else signature,
    )


def _lean_quantization(tensor: Tensor, is_bias: bool) -> QuantizationParameters | None:
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or not quantization.scale.size:
        return None
    # a single scale is little, and TFLM refuses some operators of one weight scale without it
    if is_bias and tensor.type == TensorType.INT32 and quantization.scale.size > 1:
        return None
    return replace(quantization, min=None, max=None)
