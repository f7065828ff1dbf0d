"""The arena: which tensor lies where and when.

Tensors that share memory (an output in its input's place, a view) are one buffer; a buffer lives from the operator that
first writes it to the last that reads it. The largest are placed first, each at the lowest offset that is free for its life.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .call import Call
from .graph import Graph, Value

# borders of all offsets: what int32 and double loads ask for
ALIGNMENT = 8


@dataclass(frozen=True)
class Arena:
    """Byte offsets of tensors (by number) and of scratch (by operator's place); size in bytes."""

    tensors: dict[int, int]
    scratch: dict[int, int]
    size: int


@dataclass(eq=False)
class _Buffer:
    size: int
    first: int
    last: int
    tensors: list[int] = field(default_factory=list)


def plan_arena(graph: Graph, calls: Sequence[Call]) -> Arena:
    """Offsets for a graph's tensors and its operators' scratch."""
    buffers = _buffers(graph, calls)
    scratch = {
        call.node.place: _Buffer(_aligned(call.scratch), time, time)
        for time, call in enumerate(calls)
        if call.scratch
    }
    offsets = _placed([*buffers, *scratch.values()])
    return Arena(
        {number: offsets[buffer] for buffer in buffers for number in buffer.tensors},
        {place: offsets[buffer] for place, buffer in scratch.items()},
        max(offsets[buffer] + buffer.size for buffer in offsets),
    )


def live_bytes(graph: Graph, calls: Sequence[Call]) -> list[int]:
    """Bytes of tensors alive during each call."""
    buffers = _buffers(graph, calls)
    return [sum(b.size for b in buffers if b.first <= time <= b.last) for time in range(len(calls))]


def kept_taken(graph: Graph, calls: Sequence[Call]) -> dict[int, int]:
    """Numbers of the calls whose output lies in a larger tensor's place → bytes it keeps taken beyond its own."""
    sizes = {n: buffer.size for buffer in _buffers(graph, calls) for n in buffer.tensors[1:]}
    found = {}
    for number, call in enumerate(calls):
        output = call.node.output
        beyond = sizes.get(output.number, 0) - _aligned(output.bytes)
        if call.in_place and beyond > 0:
            found[number] = beyond
    return found


def _buffers(graph: Graph, calls: Sequence[Call]) -> list[_Buffer]:
    last = dict.fromkeys((value.number for value in graph.inputs), 0)
    for time, call in enumerate(calls):
        last[call.node.output.number] = time
        for value in call.node.inputs:
            if value is not None and value.data is None:
                last[value.number] = time
    # outputs stay for the caller
    last.update({value.number: len(calls) for value in graph.outputs})
    of: dict[int, _Buffer] = {}
    for value in graph.inputs:
        of[value.number] = _Buffer(_aligned(value.bytes), -1, last[value.number], [value.number])
    for time, call in enumerate(calls):
        output = call.node.output
        buffer = _shared(call, time, of)
        if buffer is None:
            buffer = _Buffer(0, time, time)
        buffer.size = max(buffer.size, _aligned(output.bytes))
        buffer.last = max(buffer.last, last[output.number])
        buffer.tensors.append(output.number)
        of[output.number] = buffer
    return list({id(buffer): buffer for buffer in of.values()}.values())


def _shared(call: Call, time: int, of: dict[int, _Buffer]) -> _Buffer | None:
    """The buffer of an input that the output takes over, if there is one."""
    if call.view:
        return of[_input(call).number]
    for value in call.in_place:
        if value.data is None and of[value.number].last <= time:
            return of[value.number]
    return None


def _input(call: Call) -> Value:
    return call.node.operand(0)


def _placed(buffers: list[_Buffer]) -> dict[_Buffer, int]:
    offsets: dict[_Buffer, int] = {}
    for buffer in sorted(buffers, key=lambda b: (-b.size, b.first, b.last, b.tensors)):
        offset = 0
        for start, end in sorted(
            (offsets[other], offsets[other] + other.size)
            for other in offsets
            if other.first <= buffer.last and buffer.first <= other.last
        ):
            if offset + buffer.size <= start:
                break
            offset = max(offset, end)
        offsets[buffer] = offset
    return offsets


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
