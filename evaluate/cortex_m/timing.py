"""Cycles by table: the cores Arm publishes instruction timings for, which issue one instruction after the other.

    Cortex-M0+   Technical Reference Manual DDI 0484, table 3.1 (single-cycle multiplier, no single-cycle port)
    Cortex-M3    Technical Reference Manuals DDI 0337 (chapter 18) and 100165
    Cortex-M4    Technical Reference Manual 100166, table 3-1 and the load/store timings behind it

All are for memory without wait states. Where a table gives a range one value of it stands here: a division of 2 to 12 cycles
takes 8, M3's long products of 3 to 5 take 4, accumulating ones of 4 to 7 take 6. A refill of the pipeline takes 1 to 3
cycles (`refill`). A skipped instruction of an IT block counts like one that ran.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .instruction import Block, Instruction, Kind, jumps

Cost = Callable[[Instruction, Instruction | None], int]


def m0plus(this: Instruction, before: Instruction | None) -> int:
    """Cycles of one instruction that goes on to the next."""
    if this.kind in (Kind.LOAD, Kind.STORE):
        return 2
    if this.kind in (Kind.LOADS, Kind.STORES):
        return 1 + this.words
    return 3 if this.kind is Kind.SYSTEM else 1


def m0plus_jump(this: Instruction, target: Instruction | None) -> int:
    """Cycles a jump adds to those of `m0plus`."""
    return 2 if this.kind in (Kind.CALL, Kind.LOADS) else 1


def _armv7m(this: Instruction, before: Instruction | None, longer: Mapping[Kind, int]) -> int:
    if this.kind in (Kind.LOADS, Kind.STORES):
        return 1 + this.words
    if this.kind is Kind.IT:
        # folded onto a short instruction before it
        return 0 if before is not None and before.size == 2 else 1
    if this.kind not in (Kind.LOAD, Kind.STORE):
        return longer.get(this.kind, 1)
    # no forwarding from a calculation to an address
    waits = before is not None and before.words == 0 and bool(this.pointers & before.writes)
    return _access(this, before) + waits


def _access(this: Instruction, before: Instruction | None) -> int:
    """A load or store of one register: address and data phases of neighbours overlap."""
    if this.kind is Kind.STORE and not this.offset:
        return 1
    neighbour = before is not None and (
        (before.kind is Kind.LOAD and not this.pointers & before.writes)
        or (before.kind is Kind.STORE and not before.offset)
    )
    return 1 if neighbour else 2


def m3(this: Instruction, before: Instruction | None) -> int:
    """Cycles of one instruction that goes on to the next."""
    return _armv7m(this, before, _M3)


def m4(this: Instruction, before: Instruction | None) -> int:
    """Cycles of one instruction that goes on to the next."""
    return _armv7m(this, before, _M4)


def refill(this: Instruction, target: Instruction | None) -> int:
    """Cycles a jump adds: an address in the instruction is fetched early, one in memory or to a wide word that straddles late."""
    cycles = (
        3
        if this.words or this.kind is Kind.TABLE_BRANCH
        else 2
        if this.kind is Kind.BRANCH_REGISTER
        else 1
    )
    straddles = target is not None and target.size == 4 and target.address % 4 != 0
    # the table load and the addition of a table branch
    return min(3, cycles + straddles) + 2 * (this.kind is Kind.TABLE_BRANCH)


_M4 = MappingProxyType({Kind.DIVIDE: 8})
_M3 = MappingProxyType(
    {
        Kind.DIVIDE: 8,
        Kind.MULTIPLY_ADD: 2,
        Kind.LONG_MULTIPLY: 4,
        Kind.LONG_MULTIPLY_ADD: 6,
    }
)


@dataclass(frozen=True)
class Table:
    """A core of one instruction at a time. cost: of each in sight of the one before it; jump: what a taken jump adds."""

    cost: Cost
    jump: Callable[[Instruction, Instruction | None], int]
    mispredicted: int = 0

    def cycles(self, block: Block, after: Block | None) -> int:
        """Of a block that `after` followed."""
        total = sum(
            self.cost(this, before) for this, before in zip(block, (None, *block[:-1]), strict=True)
        )
        if jumps(block, after):
            return total + self.jump(block[-1], after[0] if after else None)
        # `after` is costed as if nothing came before it
        return total + (self.cost(after[0], block[-1]) - self.cost(after[0], None) if after else 0)
