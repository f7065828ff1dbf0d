"""Model cycles of an inference, from the instructions that were executed and a documented model of each core.

QEMU counts instructions and models no time. Here it logs what it runs (`trace`), the disassembly says what that is
(`instruction`), and the core's model (`timing`, `in_order`) what it costs: memory without wait states, caches that never
miss, no interrupts. No figure was checked on a board: take it as right to about 20 % on an M0+, M3 or M4 and to 30 % on an
M7, M33 or M55. Wait states of flash alone make boards of one core differ by up to 1.4 times.

CoreMark per MHz by these models (gcc 12.2, -O3 -funroll-loops) beside Arm's own figures (its own compiler): M0+ 2.07 of 2.46,
M3 2.79 of 3.34, M4 2.81 of 3.42, M7 4.48 of 5.01, M33 3.57 of 4.02, M55 3.26 of 4.2.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import TargetError
from .in_order import M7, M33, M55, Pipeline
from .instruction import Block, Instruction, Kind, disassembly, jumps
from .timing import Table, m0plus, m0plus_jump, m3, m4, refill
from .trace import Edge, Span, trace

OBJDUMP, NM = "arm-none-eabi-objdump", "arm-none-eabi-nm"
TIME_LIMIT_S = 1800.0
MODELS: Mapping[str, Table | Pipeline] = {
    "cortex-m0plus": Table(m0plus, m0plus_jump),
    "cortex-m3": Table(m3, refill),
    "cortex-m4": Table(m4, refill),
    "cortex-m7": M7,
    "cortex-m33": M33,
    "cortex-m55": M55,
}
# without it objdump shows vector instructions as a coprocessor's
_MACHINES = {"cortex-m55": ("-m", "armv8.1-m.main")}


@dataclass(frozen=True)
class Call:
    """One call. instructions: executed in it; mix: by kind, most frequent first."""

    cycles: int
    instructions: int
    mix: Mapping[str, int]


def calls_of(
    functions: Sequence[str],
    core_name: str,
    image: Path,
    command: Sequence[str],
    caller: str = "main",
) -> list[Call]:
    """Each call of `caller` that reaches one of the functions, in the order of one run of `command`.

    image: the program QEMU is told to run; it runs in its folder. Raises TargetError if a tool is missing or fails.
    """
    code = disassembly(_tool(OBJDUMP, "-d", *_MACHINES.get(core_name, ()), str(image)))
    symbols = _tool(NM, str(image))
    entries = {_address(symbols, function) for function in functions}
    calls = trace(command, image.parent, entries, caller, TIME_LIMIT_S)
    blocks: dict[Span, Block] = {}
    return [call(edges, code, blocks, core_name) for edges in calls]


def call(
    edges: Counter[Edge],
    code: Mapping[int, Instruction],
    blocks: dict[Span, Block],
    core_name: str,
) -> Call:
    """What one call took. blocks: those known already; it grows."""
    model = MODELS[core_name]
    cycles = 0
    kinds: Counter[Kind] = Counter()
    # of each block that ends in a choice: how often it jumped, and how often not
    ways: dict[Block, list[int]] = {}
    for (span, next_span), times in edges.items():
        block = _block(span, code, blocks)
        after = _block(next_span, code, blocks) if next_span else None
        cycles += times * model.cycles(block, after)
        for this in block:
            kinds[this.kind] += times
        if block[-1].kind is Kind.CONDITIONAL:
            ways.setdefault(block, [0, 0])[jumps(block, after)] += times
    cycles += model.mispredicted * sum(min(both) for both in ways.values())
    return Call(cycles, kinds.total(), {str(kind): n for kind, n in kinds.most_common()})


def _block(span: Span, code: Mapping[int, Instruction], blocks: dict[Span, Block]) -> Block:
    """The instructions of a block, one and the same object for each span."""
    if span not in blocks:
        found, address = [], span.start
        while address < span.end and address in code:
            found.append(code[address])
            address = found[-1].end
        if address != span.end:
            raise TargetError(
                f"{OBJDUMP} must show the code the emulator ran, got none at {address:#x}"
            )
        blocks[span] = tuple(found)
    return blocks[span]


def _address(symbols: str, function: str) -> int:
    for line in symbols.splitlines():
        match line.split():
            case [address, "T" | "t", name] if name == function:
                return int(address, 16)
    raise TargetError(f"the program must hold the function {function}, got none of that name")


def _tool(name: str, *arguments: str) -> str:
    if shutil.which(name) is None:
        raise TargetError(f"model cycles need {name}, got none; apt install binutils-arm-none-eabi")
    done = subprocess.run(  # noqa: S603 # a tool named above, on a program built here
        [name, *arguments], capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
    )
    if done.returncode != 0:
        raise TargetError(
            f"{name} failed with exit code {done.returncode}; it said: {done.stderr[:1000]}"
        )
    return done.stdout
