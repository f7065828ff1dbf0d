"""Where the bytes of a model file go: each belongs to one share, and shares add up to the file."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Part(Enum):
    """What bytes are for, in the order people are shown them."""

    INDICES = "indices"
    TABLES = "value tables"
    # DECODE and its header, or the nodes that do its work
    UNPACKING = "unpacking"
    DENSE = "dense weights"
    SCALES = "scales"
    BIASES = "biases"
    CONSTANTS = "other constants"
    OPERATORS = "operators"
    TENSORS = "tensor entries"
    NAMES = "names"
    STRUCTURE = "lists and tables"
    UNREAD = "padding"


@dataclass(frozen=True)
class Share:
    """Bytes of one part; `tensor` names the weight they belong to, "" if they belong to none."""

    part: Part
    tensor: str
    size: int


def gathered(sizes: dict[tuple[Part, str], int]) -> tuple[Share, ...]:
    """Shares by part, then in the order given; none without bytes."""
    order = list(Part)
    keys = sorted(sizes, key=lambda key: order.index(key[0]))
    return tuple(Share(*key, sizes[key]) for key in keys if sizes[key])
