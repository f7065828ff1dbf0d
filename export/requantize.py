"""Put each output channel's gain into its quantization scale, so that int8 weights keep the palette's values.

A clustered weight reaches the file as F = gain · W. The stock converter quantizes F itself, each channel by its own
largest value, and K shared values become hundreds. Here

    table = round(c / S), S = max|c| / 127      K values for the whole tensor
    scale[ch] = S · |gain[ch]|                  per channel, what int8 kernels take
    bias[ch] = round(b[ch] / (s_input · scale[ch]))

A negative gain negates its channel's values; a gain of 0 makes them 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from .clustered import ClusteredWeight
from .gains import GainMatch, channel_rows, match_gains
from .lean import bias_of
from .tflite_schema import (
    Buffer,
    Model,
    Op,
    Operator,
    QuantizationParameters,
    Tensor,
    TensorType,
    constant,
)

INT8_MAX = 127
# leaves the accumulator room for 2^16 products beside the bias
MAX_BIAS = 2**30
# TFLite's QuantizeMultiplier turns a smaller input·weight/output scale into 0 and the bias with it
MIN_MULTIPLIER = 2.0**-30

# operators whose int8 weights may have a scale per channel, with the place of the weights among their inputs
WEIGHTS_INPUT: dict[int, int] = {
    Op.CONV_2D: 1,
    Op.DEPTHWISE_CONV_2D: 1,
    Op.FULLY_CONNECTED: 1,
    Op.TRANSPOSE_CONV: 1,
}
DATA_INPUT: dict[int, int] = {
    Op.CONV_2D: 0,
    Op.DEPTHWISE_CONV_2D: 0,
    Op.FULLY_CONNECTED: 0,
    Op.TRANSPOSE_CONV: 2,
}


def weights_read(model: Model) -> dict[int, list[Operator]]:
    """Operators of the first subgraph by the constant tensor they read as their weights, in order."""
    graph = model.subgraphs[0]
    found: dict[int, list[Operator]] = {}
    for op in graph.operators:
        place = WEIGHTS_INPUT.get(model.operator_codes[op.opcode_index].code)
        if place is None or op.inputs is None or place >= len(op.inputs):
            continue
        number = int(op.inputs[place])
        if number >= 0 and model.buffers[graph.tensors[number].buffer].data:
            found.setdefault(number, []).append(op)
    return found


@dataclass(frozen=True)
class Requantized:
    """What became of one weight tensor of the file."""

    tensor: int
    name: str
    clusters: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Fallback:
    """A weight tensor or a clustered Keras weight that kept the converter's quantization, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class RequantizedModel:
    """The int8 model with the palettes' values in it, and what was done."""

    model: Model
    done: tuple[Requantized, ...]
    fallbacks: tuple[Fallback, ...]


@dataclass(frozen=True, eq=False)
class Int8Weight:
    """Whole numbers of one table and what a step of each channel is worth. zero: channels of zeros; raised: by a floor."""

    values: NDArray[np.int8]
    scale: NDArray[np.float64]
    zero: NDArray[np.bool_]
    raised: NDArray[np.bool_]


def on_one_table(
    exact: NDArray[np.float32],
    weight: ClusteredWeight,
    match: GainMatch,
    floor: NDArray[np.float64],
    one_scale: bool,
) -> Int8Weight:
    """`exact`, which is `weight` times the match's gains, with the weight's values as one int8 table.

    floor: (channels,), what scales must not fall below. one_scale: every channel takes the largest.
    """
    step = float(np.abs(weight.centroids).max()) / INT8_MAX or 1.0
    gains = np.abs(match.gains)
    zero = ~np.any(channel_rows(exact, match.axis), axis=1)
    scale = step * np.where(zero, 1.0, gains)
    raised = scale < floor
    scale = np.maximum(scale, floor)
    if one_scale:
        scale = np.full_like(scale, scale.max())
    along = [-1 if axis == match.axis else 1 for axis in range(exact.ndim)]
    # through the weight, not the file's floats: every member of a cluster must round alike
    # where the scale is the gain's own, the quotient is ±1 exactly: a tie rounds alike in every channel
    ratio = np.where(scale == step * gains, np.sign(match.gains), step * match.gains / scale)
    steps = match.weight.astype(np.float64) / step * ratio.reshape(along)
    return Int8Weight(round_away(steps).astype(np.int8), scale, zero, raised)


def requantize(
    int8: Model, float_model: Model, weights: Sequence[ClusteredWeight]
) -> RequantizedModel:
    """Replace the converter's int8 weights by ones that keep their palettes.

    int8, float_model: the same Keras model converted both ways. weights: its clustered weights.
    """
    work = _Work(int8, float_model, weights)
    for number in work.readers:
        work.requantize(number)
    return work.result()


class _Work:
    """Edits one subgraph: the converter writes weights in the first only."""

    def __init__(self, int8: Model, float_model: Model, weights: Sequence[ClusteredWeight]) -> None:
        self.model = int8
        self.weights = list(weights)
        self.graph = int8.subgraphs[0]
        self.tensors = list(self.graph.tensors)
        self.buffers = list(int8.buffers)
        self.floats = _float_constants(float_model)
        self.readers = self._readers()
        self.done: list[Requantized] = []
        self.fallbacks: list[Fallback] = []

    def result(self) -> RequantizedModel:
        graph = replace(self.graph, tensors=tuple(self.tensors))
        graphs = (graph, *self.model.subgraphs[1:])
        model = replace(self.model, subgraphs=graphs, buffers=tuple(self.buffers))
        named = {entry.name for entry in self.done} | {entry.name for entry in self.fallbacks}
        missing = [
            Fallback(weight.name, "the converter makes no int8 tensor of it")
            for weight in self.weights
            if weight.name not in named
        ]
        return RequantizedModel(model, tuple(self.done), (*self.fallbacks, *missing))

    def _readers(self) -> dict[int, list[Operator]]:
        """Constant int8 weights with the operators that read them."""
        return {
            number: ops
            for number, ops in weights_read(self.model).items()
            if self.tensors[number].type == TensorType.INT8
            and constant(self.model, self.tensors[number]) is not None
        }

    def requantize(self, number: int) -> None:
        tensor = self.tensors[number]
        values, quantization = constant(self.model, tensor), tensor.quantization
        if values is None or quantization is None or quantization.scale is None:
            return
        axis = quantization.quantized_dimension
        exact = _unquantized(values, quantization, self.floats)
        if exact is None:
            self._keep(tensor, "no float tensor lies within half a step of it")
            return
        found = self._match(exact, axis)
        if found is None:
            self._keep(tensor, "it is no clustered weight times a gain per channel")
            return
        weight, match = found
        if len(weight.centroids) > 2 * (INT8_MAX + 1):
            self._keep(tensor, f"{weight.name} has more values than int8")
            return
        if len(quantization.scale) == 1 and not is_uniform(match.gains):
            self._keep(tensor, "its operator takes one scale, its channels have different gains")
            return
        self._replace(number, exact, weight, match)

    def _match(
        self, exact: NDArray[np.float32], axis: int
    ) -> tuple[ClusteredWeight, GainMatch] | None:
        matches = [(w, match_gains(exact, w.values, axis)) for w in self.weights]
        fits = [(w, match) for w, match in matches if match is not None]
        # several fit where channels have one element each: the fewest values serve best
        return min(fits, key=lambda fit: len(fit[0].centroids), default=None)

    def _keep(self, tensor: Tensor, reason: str) -> None:
        name = tensor.label
        self.fallbacks.append(Fallback(name, reason))

    def _replace(
        self, number: int, exact: NDArray[np.float32], weight: ClusteredWeight, match: GainMatch
    ) -> None:
        readers = self.readers[number]
        one_scale = len(_scales(self.tensors[number])) == 1
        floor = self._smallest_scales(readers, exact.shape[match.axis])
        made = on_one_table(exact, weight, match, floor, one_scale)
        notes = []
        for what, count in [
            ("negative gain", int((match.gains < 0).sum())),
            ("all zeros", int(made.zero.sum())),
            ("scale raised to hold its bias", int((made.raised & ~made.zero).sum())),
        ]:
            if count:
                notes.append(f"{count} of {len(made.scale)} channels: {what}")
        self._write(number, made.values, made.scale)
        for op in readers:
            self._rescale_bias(op, made.scale)
        clusters = len(np.unique(made.values))
        self.done.append(Requantized(number, weight.name, clusters, tuple(notes)))

    def _smallest_scales(self, readers: list[Operator], channels: int) -> NDArray[np.float64]:
        """What each channel's scale must not fall below for its bias to fit and its multiplier to count."""
        floor = np.zeros(channels)
        for op in readers:
            data, output = self._data_scale(op), _scales(self.tensors[_first(op.outputs)])[0]
            floor = np.maximum(floor, MIN_MULTIPLIER * output / data)
            bias = self._float_bias(op)
            if bias is not None:
                floor = np.maximum(floor, np.abs(bias) / (data * MAX_BIAS))
        return floor

    def _float_bias(self, op: Operator) -> NDArray[np.float64] | None:
        number = bias_of(op, self.model)
        if number is None:
            return None
        # as the converter wrote it: two operators may share one bias
        tensor = self.graph.tensors[number]
        values = constant(self.model, tensor)
        if values is None or tensor.quantization is None:
            return None
        exact = _unquantized(values, tensor.quantization, self.floats)
        if exact is not None:
            return exact.astype(np.float64)
        # the converter clamped it or made it itself: its own int32 is all there is
        return values.astype(np.float64) * _scales(tensor).astype(np.float64)

    def _rescale_bias(self, op: Operator, scale: NDArray[np.float64]) -> None:
        number = bias_of(op, self.model)
        bias = self._float_bias(op)
        if number is None or bias is None:
            return
        bias_scale = self._data_scale(op) * scale
        self._write(number, round_away(bias / bias_scale).astype(np.int32), bias_scale)

    def _write(self, number: int, values: NDArray[np.generic], scale: NDArray[np.float64]) -> None:
        """New data and scales for a tensor, in a buffer of its own: others may share the old one."""
        tensor = self.tensors[number]
        quantization = tensor.quantization or QuantizationParameters()
        if len(_scales(tensor)) == 1:
            scale = scale[:1]
        self.buffers.append(Buffer(data=np.ascontiguousarray(values).tobytes()))
        self.tensors[number] = replace(
            tensor,
            buffer=len(self.buffers) - 1,
            quantization=replace(
                quantization,
                scale=scale.astype(np.float32),
                zero_point=np.zeros(len(scale), np.int64),
            ),
        )

    def _data_scale(self, op: Operator) -> float:
        place = DATA_INPUT[self._code(op)]
        inputs = op.inputs if op.inputs is not None else np.zeros(0, np.int32)
        return float(_scales(self.tensors[int(inputs[place])])[0])

    def _code(self, op: Operator) -> int:
        return self.model.operator_codes[op.opcode_index].code


def _first(numbers: NDArray[np.int32] | None) -> int:
    return int(numbers[0]) if numbers is not None else -1


def _scales(tensor: Tensor) -> NDArray[np.float32]:
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None:
        return np.zeros(0, np.float32)
    return quantization.scale


def round_away(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """To the nearest integer, halves away from zero, as TFLite's converter rounds."""
    return np.copysign(np.floor(np.abs(values) + 0.5), values)


def is_uniform(gains: NDArray[np.float64]) -> bool:
    """Whether all gains are one, to rounding."""
    return bool(np.ptp(gains) <= 1e-6 * np.abs(gains).max())


def _float_constants(model: Model) -> list[NDArray[np.float32]]:
    found = (
        constant(model, tensor)
        for graph in model.subgraphs
        for tensor in graph.tensors
        if tensor.type == TensorType.FLOAT32
    )
    return [array.astype(np.float32) for array in found if array is not None]


def _unquantized(
    values: NDArray[np.generic],
    quantization: QuantizationParameters,
    floats: Sequence[NDArray[np.float32]],
) -> NDArray[np.float32] | None:
    """The float tensor the converter quantized: of those within half a step everywhere, the nearest."""
    if quantization.scale is None:
        return None
    along = [1] * values.ndim
    if len(quantization.scale) > 1:
        along[quantization.quantized_dimension] = -1
    scale = quantization.scale.astype(np.float64).reshape(along)
    dequantized = values.astype(np.float64) * scale
    best, least = None, np.inf
    for candidate in floats:
        if candidate.shape != values.shape:
            continue
        error = np.abs(candidate - dequantized)
        # a float32 scale may push a value on the border over it
        if np.all(error <= 0.5 * scale * (1 + 1e-4) + 1e-30) and error.sum() < least:
            best, least = candidate, float(error.sum())
    return best
