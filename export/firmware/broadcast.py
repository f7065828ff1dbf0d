"""Shapes of two tensors walked together, as ep_broadcast.h takes them."""

from __future__ import annotations

from .graph import Node, Value


def broadcast(node: Node, a: Value, b: Value) -> str:
    """The fields of an ep_shape: dimensions that lie together in all tensors are joined, four remain.

    Raises ExportError for shapes that do not broadcast to the output's.
    """
    shape = node.output.shape
    first, second = (_steps(value.shape, shape) for value in (a, b))
    if first is None or second is None:
        raise node.refuse("must be what its inputs broadcast to", f"{a.shape} and {b.shape} to {shape}")  # fmt: skip
    joined: list[tuple[int, int, int]] = []
    for size, x, y in zip(shape, first, second, strict=True):
        if size == 1:
            continue
        if joined and joined[-1][1] == x * size and joined[-1][2] == y * size:
            joined[-1] = (joined[-1][0] * size, x, y)
        else:
            joined.append((size, x, y))
    if len(joined) > 4:
        raise node.refuse("must be broadcast along fewer than 4 groups of dimensions", f"{shape}")
    rows = [(1, 0, 0)] * (4 - len(joined)) + joined
    columns = (", ".join(str(row[place]) for row in rows) for place in range(3))
    return "{" + ", ".join(f"{{{column}}}" for column in columns) + "}"


def _steps(shape: tuple[int, ...], whole: tuple[int, ...]) -> list[int] | None:
    """Elements from one to the next along each dimension of `whole`, 0 where there is one; None if it does not fit."""
    if len(shape) > len(whole):
        return None
    padded = (1,) * (len(whole) - len(shape)) + shape
    if any(size not in (1, full) for size, full in zip(padded, whole, strict=True)):
        return None
    steps, apart = [], 1
    for size in reversed(padded):
        steps.append(apart if size > 1 else 0)
        apart *= size
    return steps[::-1]
