"""C firmware of an int8 .tflite, with palettes or without."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...errors import ExportError
from .call import Call, Share
from .emit import emit, flash_bytes
from .graph import Graph, Node, read_graph
from .lower import LOWERINGS
from .plan import Arena, kept_taken, live_bytes, plan_arena
from .small_layers import unpack_small_layers

# scratch beyond this is used only where the arena has room at that time anyway
DEFAULT_SCRATCH = 8192
# outputs that are tried beside their inputs instead of in place, and the part of the arena they must keep taken
MOST_TRIES = 16
WORTH_A_TRY = 32


@dataclass(frozen=True, eq=False)
class Firmware:
    """name: of the function and its files. files: text by name. flash: bytes of constants by use, code apart. arena: bytes of RAM, scratch included.

    scratch: the most an operator uses of it. tensors: bytes the arena would have without. remarks: what is not as it is in the file, and why.
    """

    name: str
    graph: Graph
    files: dict[str, str]
    flash: dict[Share, int]
    arena: int
    scratch: int
    operators: tuple[str, ...]
    tensors: int
    remarks: tuple[str, ...] = ()


def generate_firmware(
    data: bytes, name: str = "model", scratch: int | None = None, in_place: bool = True
) -> Firmware:
    """The firmware of a .tflite file.

    scratch: bytes an operator may use beside its tensors; None for as many as speed asks for without a larger arena.
    in_place: whether outputs may take their inputs' memory; the kernels' slow forms (EP_REFERENCE) cannot.
    Raises FormatError for a damaged file, ExportError for a model firmware does not run or too small a scratch.
    """
    graph, unpacked = unpack_small_layers(read_graph(data))
    remarks = tuple(one.reason for one in unpacked)
    calls, arena = _planned(graph, scratch, in_place)
    digest = hashlib.sha256(data).hexdigest()
    asked = "" if scratch is None else f" --scratch {scratch}"
    provenance = (
        f"Made by `edgepalette firmware{asked}` from a .tflite of {len(data)} B, SHA-256 {digest}."
    )
    return Firmware(
        name,
        graph,
        emit(graph, calls, arena, name, provenance, remarks),
        flash_bytes(calls),
        arena.size,
        max((call.scratch for call in calls), default=0),
        tuple(call.node.op for call in calls),
        min(arena.size, plan_arena(graph, [replace(call, scratch=0) for call in calls]).size),
        remarks,
    )


def _planned(graph: Graph, scratch: int | None, in_place: bool) -> tuple[Sequence[Call], Arena]:
    apart: set[int] = set()

    def lowered(node: Node, budget: int) -> Call:
        call = LOWERINGS[node.op](node, budget)
        return call if in_place and node.place not in apart else replace(call, in_place=())

    first = [lowered(node, scratch or DEFAULT_SCRATCH) for node in graph.nodes]
    if scratch is not None:
        for call in first:
            if call.scratch > scratch:
                raise ExportError(
                    f"--scratch must be at least {call.scratch} for {call.node.op} (operator {call.node.place}, "
                    f"{call.node.output.title}), got {scratch}"
                )
    arena = plan_arena(graph, first)
    kept = kept_taken(graph, first)
    for number in sorted(kept, key=lambda n: -kept[n])[:MOST_TRIES]:
        call = first[number]
        if kept[number] * WORTH_A_TRY >= arena.size:
            tried = [*first[:number], replace(call, in_place=()), *first[number + 1 :]]
            smaller = plan_arena(graph, tried)
            if smaller.size < arena.size:
                first, arena = tried, smaller
                apart.add(call.node.place)
    if scratch is not None:
        return first, arena
    live = live_bytes(graph, first)
    room = [max(DEFAULT_SCRATCH, arena.size - bytes_) for bytes_ in live]
    second = [lowered(node, budget) for node, budget in zip(graph.nodes, room, strict=True)]
    larger = plan_arena(graph, second)
    return (second, larger) if larger.size <= arena.size else (first, arena)
