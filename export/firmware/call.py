"""What an operator becomes: one call of a kernel, the constants it reads, the memory it needs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..tflite_schema import TensorType
from .graph import Node, Value
from .quantize import activation_range

C_TYPES = {
    np.dtype(np.int8): "int8_t",
    np.dtype(np.uint8): "uint8_t",
    np.dtype(np.int32): "int32_t",
    np.dtype(np.float32): "float",
}
MAX_INT16 = 32767
# the whole range of outputs
INT8 = (-128, 127)


class Share(Enum):
    """What flash is used for."""

    WEIGHTS = "weights"
    TABLES = "value tables"
    CHANNELS = "biases and multipliers"
    CONSTANTS = "other constants"


@dataclass(frozen=True, eq=False)
class Array:
    """A constant array of C. aligned: to four bytes whatever its type; the kernel's header has EP_ALIGNED."""

    name: str
    values: NDArray[Any]
    comment: str
    share: Share
    aligned: bool = False

    @property
    def type(self) -> str:
        """Its elements' C type."""
        return C_TYPES[self.values.dtype]


@dataclass(frozen=True)
class Struct:
    """A constant struct of C: fields by name, as C writes them."""

    type: str
    name: str
    fields: tuple[tuple[str, str], ...]


@dataclass(frozen=True, eq=False)
class Call:
    """One operator in C.

    kernel: the file of kernels/ without `ep_`; None: nothing is to be done. scratch: bytes it needs beside its tensors.
    in_place: inputs in whose memory the output may lie. view: the output is the first input's bytes under another shape.
    """

    node: Node
    kernel: str | None
    text: tuple[str, ...]
    constants: tuple[Array | Struct, ...] = ()
    scratch: int = 0
    in_place: tuple[Value, ...] = ()
    view: bool = False


def name_of(node: Node) -> str:
    """The name of the operator's constants."""
    return f"{node.op.lower()}_{node.place}"


def scratch_of(node: Node) -> str:
    """The pointer to its scratch."""
    return f"scratch_{node.place}"


def pointer(value: Value) -> str:
    """The pointer to a tensor."""
    return f"t{value.number}"


def constants_of(values: Iterable[Value]) -> tuple[Array, ...]:
    """Those among an operator's tensors that lie in flash as they are."""
    return tuple(
        Array(
            pointer(v),
            np.ascontiguousarray(v.data).reshape(-1),
            f"{v.dimensions} {v.label}",
            Share.CONSTANTS,
        )
        for v in values
        if v.data is not None
    )


def struct(kind: str, node: Node, fields: Mapping[str, object]) -> Struct:
    """A layer's struct; sequences become braces."""
    return Struct(kind, name_of(node), tuple((key, _written(value)) for key, value in fields.items()))  # fmt: skip


def _written(value: object) -> str:
    if isinstance(value, list | tuple):
        return "{" + ", ".join(map(_written, value)) + "}"
    return str(int(value)) if isinstance(value, bool | np.integer) else str(value)


def check_int8(node: Node, *values: Value) -> None:
    """Raises ExportError unless all are int8 with one scale."""
    for value in values:
        if value.type != TensorType.INT8:
            raise node.refuse(
                "must be int8 (firmware runs int8 models; convert with full integer quantization)",
                value.type.name.lower(),
                value,
            )
        if value.scales.size != 1 or not -128 <= value.zero_point <= 127:
            raise node.refuse("must have one scale and zero point", f"{value.scales.size}", value)


def fused_range(node: Node, activation: int) -> tuple[int, int]:
    """(least, most) of the output under an activation. Raises ExportError for one no kernel has."""
    limits = activation_range(activation, node.output.scale, node.output.zero_point)
    if limits is None:
        raise node.refuse(
            "needs an activation of none, RELU, RELU6 or RELU_N1_TO_1", f"number {activation}"
        )
    return limits


def check_shape(node: Node, value: Value, shape: tuple[int, ...]) -> None:
    """Raises ExportError unless the tensor has the shape the operator gives."""
    if value.shape != shape:
        raise node.refuse(f"must have the shape {shape}", f"{value.shape}", value)


def check_small(node: Node, **sizes: int) -> None:
    """Raises ExportError for a size that does not fit its field."""
    for name, size in sizes.items():
        if not 0 <= size <= MAX_INT16:
            raise node.refuse(f"needs a {name} in [0, {MAX_INT16}]", f"{size}")
