"""What TFLM's DECODE costs in every inference, from figures per weight: modelled, not measured.

A Cortex-M4 takes 3.4 to 4 instructions per weight at indices of 2, 3 or 4 bits, 21 to 25 at other widths, and as much
for depthwise weights at any width (measured with the stock kernel, TFLM with CMSIS-NN, -O2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

from ..export.tflite_bytes import decoded_tensors
from ..export.tflite_schema import Model, Op, read_model

FAST, SLOW = (3.4, 4.0), (21.0, 25.0)
FAST_BITS = (2, 3, 4)


@dataclass(frozen=True)
class DecodeCost:
    """weights: decoded in an inference. least, most: Cortex-M4 instructions for that."""

    weights: int
    least: float
    most: float

    def notes(self) -> Iterator[str]:
        """In a line, if there is anything to decode."""
        if self.weights:
            yield (
                f"DECODE of {self.weights:,} weights in every inference: {self.least / 1e6:.2f}–{self.most / 1e6:.2f} M "
                "Cortex-M4 instructions (modelled, from figures per weight)"
            )


def decode_cost(data: bytes) -> DecodeCost:
    """Of all a .tflite decodes in its first subgraph. Raises FormatError for a damaged file."""
    model = read_model(data)
    depthwise = set(_depthwise_weights(model))
    weights, least, most = 0, 0.0, 0.0
    for (graph, number), decoded in decoded_tensors(model).items():
        if graph:
            continue
        size = prod(model.subgraphs[0].tensors[number].dims)
        low, high = rates(decoded.record.bits, number in depthwise)
        weights, least, most = weights + size, least + size * low, most + size * high
    return DecodeCost(weights, least, most)


def rates(bits: int, depthwise: bool) -> tuple[float, float]:
    """Instructions per weight, least and most, at indices of so many bits."""
    return FAST if bits in FAST_BITS and not depthwise else SLOW


def _depthwise_weights(model: Model) -> Iterator[int]:
    for op in model.subgraphs[0].operators:
        if (
            model.operator_codes[op.opcode_index].code == Op.DEPTHWISE_CONV_2D
            and op.inputs is not None
        ):
            yield from map(int, op.inputs[1:2])
