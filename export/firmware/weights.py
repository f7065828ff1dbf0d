"""Weights of an operator as the kernels read them: order, palette, numbers per channel."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...cluster.palette import index_width
from ..gains import channel_rows
from ..loader import MAX_BITS, pack_codes
from ..tflite_schema import TensorType
from .call import Array, Share, name_of
from .graph import Node, Value
from .quantize import multiplier

DENSE_BITS = 8
# what ep_apply takes: sums below, shifts within
MOST_SUM = 1 << 30
FAST_SHIFTS = (-22, -1)


@dataclass(frozen=True, eq=False)
class Codes:
    """What stands for each weight: an index into its channel's row of `table`, or itself if `table` is None."""

    codes: NDArray[Any]
    bits: int
    table: NDArray[np.int8] | None

    @property
    def stride(self) -> int:
        """Table entries from channel to channel, 0 if all share one."""
        return 0 if self.table is None or len(self.table) == 1 else self.table.shape[1]


@dataclass(frozen=True, eq=False)
class Weights:
    """Constants of an operator with weights, and its fields in the layer's struct. bits, stride: see ep_weights.h.

    filler: what the kernels read where the layout has no weight, for all channels or each.
    """

    arrays: tuple[Array, ...]
    fields: dict[str, object]
    bits: int
    stride: int
    filler: NDArray[np.int64]

    @property
    def pairs(self) -> int:
        """Words of a table of pairs, EP_TABLE_WORDS."""
        return 0 if self.bits > 4 else 1 << 2 * self.bits


def check_weights(node: Node, weights: Value, bias: Value | None, rank: int, axis: int) -> NDArray[np.int8]:  # fmt: skip
    """The weights' values. Raises ExportError unless they are constant, int8, symmetric, with scales along `axis` or one."""
    data = weights.data
    if weights.type != TensorType.INT8 or data is None:
        got = weights.type.name.lower() if data is not None else "a computed tensor"
        raise node.refuse("must hold constant int8 weights", got, weights)
    if len(weights.shape) != rank:
        raise node.refuse(f"must have {rank} dimensions", f"{len(weights.shape)}", weights)
    channels = weights.shape[axis]
    # a single channel's scale may name any axis
    along = weights.axis if weights.scales.size > 1 else axis
    if weights.scales.size not in (1, channels) or along != axis or weights.zero_point != 0:
        raise node.refuse(
            f"must have zero point 0 and one scale or {channels} along axis {axis}",
            f"{weights.scales.size} along axis {weights.axis}",
            weights,
        )
    if bias is not None and (bias.type != TensorType.INT32 or bias.data is None or bias.size != channels):  # fmt: skip
        raise node.refuse(f"must be {channels} constant int32 biases", bias.type.name.lower(), bias)
    return np.asarray(data, np.int8)


def encode(weights: Value, data: NDArray[np.int8], axis: int) -> Codes:
    """Indices and tables of a tensor that came as a palette; the values of one that did not."""
    if weights.record is None:
        return Codes(data, DENSE_BITS, None)
    table, codes = np.unique(data, return_inverse=True)
    shared = index_width(len(table))
    rows = channel_rows(data, axis)
    own = index_width(max(len(np.unique(row)) for row in rows))
    cost = {shared: data.size * shared / 8 + 2**shared} if shared <= MAX_BITS else {}
    if len(rows) > 1 and own < shared and own <= MAX_BITS:
        cost[own] = data.size * own / 8 + len(rows) * 2**own
    if not cost:
        return Codes(data, DENSE_BITS, None)
    bits = min(cost, key=lambda width: cost[width])
    if bits == shared:
        padded = np.pad(table, (0, 2**bits - len(table)))
        return Codes(codes.reshape(data.shape).astype(np.uint8), bits, padded[None])
    tables = np.zeros((len(rows), 2**bits), np.int8)
    found = np.empty(rows.shape, np.uint8)
    for channel, row in enumerate(rows):
        distinct, found[channel] = np.unique(row, return_inverse=True)
        tables[channel, : len(distinct)] = distinct
    moved = np.moveaxis(data, axis, 0).shape
    return Codes(np.ascontiguousarray(np.moveaxis(found.reshape(moved), 0, axis)), bits, tables)


def lay_out(
    node: Node,
    weights: Value,
    data: NDArray[np.int8],
    axis: int,
    order: Callable[[NDArray[Any]], NDArray[Any]],
) -> Weights:
    """Arrays and fields of the weights. order: gives the codes as the kernel reads them, padded to whole groups of 8."""
    encoded, name = encode(weights, data, axis), name_of(node)
    ordered = np.ascontiguousarray(order(encoded.codes)).reshape(-1)
    comment = f"{weights.dimensions} {weights.label}".rstrip()
    if encoded.table is None:
        plain = Array(
            f"{name}_weights",
            ordered.view(np.uint8),
            f"{comment}, int8",
            Share.WEIGHTS,
            aligned=True,
        )
        fields = {"data": plain.name, "tables": "0", "bits": DENSE_BITS, "stride": 0}
        return Weights((plain,), {"weights": _braces(fields)}, DENSE_BITS, 0, np.zeros(1, np.int64))
    packed = np.frombuffer(pack_codes(ordered.astype(np.uint8), encoded.bits), np.uint8)
    arrays = (
        Array(f"{name}_weights", packed, f"{comment}, indices of {encoded.bits} bits", Share.WEIGHTS),
        Array(f"{name}_tables", encoded.table.reshape(-1), "the values they name", Share.TABLES),
    )  # fmt: skip
    fields = {
        "data": arrays[0].name,
        "tables": arrays[1].name,
        "bits": encoded.bits,
        "stride": encoded.stride,
    }
    return Weights(
        arrays,
        {"weights": _braces(fields)},
        encoded.bits,
        encoded.stride,
        encoded.table[:, 0].astype(np.int64),
    )


def _braces(fields: dict[str, object]) -> str:
    return "{" + ", ".join(f".{key} = {value}" for key, value in fields.items()) + "}"


@dataclass(frozen=True, eq=False)
class Channels:
    """Biases, multipliers and shifts. fast: whether all sums and shifts are such as ep_apply takes."""

    arrays: tuple[Array, ...]
    fields: dict[str, object]
    fast: bool


def per_channel(
    node: Node,
    data: Value,
    weights: Value,
    values: NDArray[np.int8],
    axis: int,
    bias: Value | None,
    zero_taken: bool = True,
    added: NDArray[np.int64] | int = 0,
) -> Channels:
    """The numbers of every output channel, from scales as the reference kernels multiply them.

    zero_taken: whether the input's zero point is taken off in the biases, as Σ w (x - zero) = Σ w x - zero Σ w.
    added: what a layout adds to Σ w.
    """
    rows = channel_rows(values, axis).astype(np.int64)
    product = [float(data.scales[0]) * float(scale) for scale in weights.scales]
    if node.op == "FULLY_CONNECTED" and weights.scales.size == 1:
        # the one case in which the kernels multiply in float32
        product = [float(data.scales[0] * weights.scales[0])]
    pairs = [multiplier(one / float(node.output.scales[0])) for one in product]
    pairs *= len(rows) // len(pairs)
    given = np.zeros(len(rows), np.int64) if bias is None or bias.data is None else bias.data.reshape(-1).astype(np.int64)  # fmt: skip
    shifts = np.array([shift for _, shift in pairs])
    if shifts.max() > 30:
        raise node.refuse("must have scales whose ratio is below 2^30", "larger ones")
    farthest = max(127 - data.zero_point, 128 + data.zero_point)
    bounds = np.abs(given) + np.abs(rows).sum(axis=1) * farthest
    if zero_taken:
        # wraps around as the kernels' sums do
        given = given - data.zero_point * (rows.sum(axis=1) + added)
    name = name_of(node)
    arrays = tuple(
        Array(f"{name}_{part}", numbers, "", Share.CHANNELS)
        for part, numbers in (
            ("bias", given.astype(np.int32)),
            ("multiplier", np.array([fixed for fixed, _ in pairs], np.int32)),
            ("shift", shifts.astype(np.int8)),
        )
    )
    fields: dict[str, object] = {part: f"{name}_{part}" for part in ("bias", "multiplier", "shift")}
    low, high = FAST_SHIFTS
    fast = bool((bounds < MOST_SUM).all() and low <= shifts.min() and shifts.max() <= high)
    return Channels(arrays, fields, fast)
