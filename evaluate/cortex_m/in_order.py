"""Cycles by issue: the cores that start two instructions in one cycle, or overlap vector instructions.

Arm publishes no table for them. Instructions start in order, each when its registers are ready and its unit is free, two
together where the core pairs them:

    Cortex-M7    latencies, units and pairs of LLVM's ARMScheduleM7.td. Branches are predicted; one that goes both ways is
                 guessed wrong as often as it goes the rarer way. Several registers move two to a cycle
    Cortex-M55   latencies, pipes and pairs of LLVM's ARMScheduleM55.td: a vector instruction keeps its pipe (memory, integer,
                 multiply) for two cycles, those of different pipes overlap. LE costs nothing once its loop is known
    Cortex-M33   the M55 without vectors, one stage shorter: short instructions pair, branches are decided in the second stage

What a long block leaves unfinished is waited for by the first instruction of the next one only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .instruction import Block, Instruction, Kind, jumps

_PRODUCTS = (Kind.MULTIPLY, Kind.MULTIPLY_ADD, Kind.LONG_MULTIPLY, Kind.LONG_MULTIPLY_ADD, Kind.DSP_MULTIPLY)  # fmt: skip
_BRANCHES = (Kind.BRANCH, Kind.CONDITIONAL, Kind.CALL, Kind.BRANCH_REGISTER)
_ALONE = (Kind.LOADS, Kind.STORES, Kind.DIVIDE, Kind.SYSTEM, Kind.TABLE_BRANCH)
# bit fields, extensions and counts start only as the first of two
_FIRST = re.compile("clz|bf[ci]|[us]xt|[us]bfx|rbit|rev")
_SHIFT = re.compile("lsl|lsr|asr|ror")
# the short instructions an M33 or M55 starts beside another short one
_BESIDE = re.compile("(?:add|sub)s?|[us]xt[bh]|movs?")


@dataclass(frozen=True)
class Pipeline:
    """A core that issues in order. latency: cycles until a result is ready; busy: cycles an instruction keeps its unit.

    lasting: cycles in which nothing else starts; refill: what a taken jump adds; mispredicted: what a wrong guess costs,
    0 on a core that does not guess; late: cycles an address must be ready before other operands.
    """

    latency: Callable[[Instruction], int]
    unit: Callable[[Instruction], str | None]
    busy: Callable[[Instruction], int]
    lasting: Callable[[Instruction], int]
    pairs: Callable[[Instruction, Instruction], bool]
    refill: Callable[[Instruction], int]
    mispredicted: int = 0
    late: int = 0

    def cycles(self, block: Block, after: Block | None) -> int:
        """Of a block that `after` followed: from its first instruction to that of `after`. A loop runs warm."""
        if after is block:
            starts = self._starts((block, block, block))
            return starts[2] - starts[1]
        starts = self._starts((block,) if after is None else (block, after[:1]))
        return starts[1] - starts[0]

    def _starts(self, blocks: Sequence[Block]) -> list[int]:
        """The cycle each block starts in, and the one behind the last."""
        state = _State(self)
        starts = []
        for block, after in zip(blocks, (*blocks[1:], None), strict=True):
            for place, this in enumerate(block):
                state.issue(this)
                if place == 0:
                    starts.append(state.cycle)
            if jumps(block, after):
                state.jump(self.refill(block[-1]))
        return [*starts, max(state.floor, state.cycle + 1)]


@dataclass
class _State:
    """Where the core is. cycle: of the last start; floor: before which nothing starts."""

    core: Pipeline
    cycle: int = -1
    floor: int = 0
    before: Instruction | None = None
    paired: bool = False
    ready: dict[str, int] = field(default_factory=dict)
    free: dict[str, int] = field(default_factory=dict)

    def issue(self, this: Instruction) -> None:
        if this.kind is Kind.LOOP_END:
            self.cycle = max(self.cycle, self.floor)
            return
        core, unit = self.core, self.core.unit(this)
        beside = self.before is not None and not self.paired and core.pairs(self.before, this)
        start = max(self.cycle + (not beside), self.floor)
        for register in this.reads & self.ready.keys():
            start = max(start, self.ready[register] + core.late * (register in this.pointers))
        if unit is not None:
            start = max(start, self.free.get(unit, 0))
            self.free[unit] = start + core.busy(this)
        self.paired = beside and start == self.cycle
        self.cycle, self.before = start, this
        for register in this.writes:
            self.ready[register] = start + core.latency(this)
        for register in this.updates:
            self.ready[register] = start + 1 - core.late
        lasting = core.lasting(this)
        if lasting > 1:
            self.floor = start + lasting

    def jump(self, refill: int) -> None:
        # what a jump leads to starts in a cycle of its own
        self.before = None
        if refill:
            self.floor = max(self.floor, self.cycle + 1) + refill


def _m7_latency(this: Instruction) -> int:
    if this.kind in _PRODUCTS:
        return 2
    # bytes and halves come a cycle after words
    return 2 if this.kind is Kind.LOAD and re.match("ldrs?[bh]", this.name) else 1


def _m7_unit(this: Instruction) -> str | None:
    if this.kind in _PRODUCTS:
        return "multiply"
    if this.kind in _BRANCHES:
        return "branch"
    if this.kind in (Kind.STORE, Kind.FLOAT):
        return this.kind
    if this.kind is Kind.DSP or _FIRST.match(this.name):
        return "dsp"
    return "shift" if _SHIFT.match(this.name) else None


def _m7_lasting(this: Instruction) -> int:
    if this.kind in (Kind.LOADS, Kind.STORES):
        return (this.words + 1) // 2
    return {Kind.DIVIDE: 7, Kind.SYSTEM: 3, Kind.TABLE_BRANCH: 2}.get(this.kind, 1)


def _m7_pairs(first: Instruction, second: Instruction) -> bool:
    if first.kind in _ALONE or second.kind in _ALONE:
        return False
    return not (second.kind is Kind.DSP or _FIRST.match(second.name))


def _m7_refill(this: Instruction) -> int:
    return 4 if this.kind is Kind.TABLE_BRANCH else 0


def _v8_latency(this: Instruction) -> int:
    slow = (*_PRODUCTS, Kind.DSP, Kind.LOAD, Kind.LOADS, Kind.FLOAT, Kind.VECTOR_MULTIPLY)
    return 2 if this.kind in slow else 1


def _v8_unit(this: Instruction) -> str | None:
    memory = (Kind.VECTOR_MEMORY, Kind.LOAD, Kind.LOADS, Kind.STORE, Kind.STORES)
    if this.kind in memory:
        return "memory"
    return this.kind if this.kind in (Kind.VECTOR_INTEGER, Kind.VECTOR_MULTIPLY) else None


def _v8_busy(this: Instruction) -> int:
    return 2 if this.kind in (Kind.VECTOR_MEMORY, Kind.VECTOR_INTEGER, Kind.VECTOR_MULTIPLY) else 1


def _v8_lasting(this: Instruction) -> int:
    if this.kind in (Kind.LOADS, Kind.STORES):
        return this.words
    # the first LE of a loop jumps like any branch
    return {Kind.DIVIDE: 8, Kind.SYSTEM: 3, Kind.LOOP_START: 3}.get(this.kind, 1)


def _v8_pairs(first: Instruction, second: Instruction) -> bool:
    if first.size + second.size > 4 or (first.words and second.words):
        return False
    return any(_v8_beside(one) for one in (first, second))


def _v8_beside(this: Instruction) -> bool:
    if this.kind in (Kind.NOP, Kind.IT, *_BRANCHES):
        return True
    simple = this.kind is Kind.ALU and _BESIDE.fullmatch(this.name) is not None
    return simple and (this.immediate or not this.name.startswith(("add", "sub")))


def _v8_refill(this: Instruction) -> int:
    if this.kind is Kind.LOOP_END:
        return 0
    indirect = this.kind in (Kind.BRANCH_REGISTER, Kind.TABLE_BRANCH) or this.words > 0
    return 2 if indirect else 1


def _m55_refill(this: Instruction) -> int:
    return 0 if this.kind is Kind.LOOP_END else 1 + _v8_refill(this)


M7 = Pipeline(_m7_latency, _m7_unit, lambda _: 1, _m7_lasting, _m7_pairs, _m7_refill, 4, 1)
M33 = Pipeline(_v8_latency, _v8_unit, _v8_busy, _v8_lasting, _v8_pairs, _v8_refill)
M55 = Pipeline(_v8_latency, _v8_unit, _v8_busy, _v8_lasting, _v8_pairs, _m55_refill)
