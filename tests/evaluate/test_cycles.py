"""Model cycles: what an instruction is, what it costs, and what was executed, down to the last instruction."""

from __future__ import annotations

import subprocess
from collections import Counter
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgepalette.errors import TargetError
from edgepalette.evaluate.cortex_m.cycles import MODELS, calls_of
from edgepalette.evaluate.cortex_m.emulator import COMPILER, CORES, command_of, emulate, missing
from edgepalette.evaluate.cortex_m.instruction import Block, Kind, instruction
from edgepalette.evaluate.cortex_m.trace import Edge, Span, count, trace
from edgepalette.export.firmware.firmware import generate_firmware

from .conftest import Exported

# as objdump prints them: kind, results, registers of the address, those it moves on, words
LINES = [
    ("  40:\t4809      \tldr\tr0, [pc, #36]\t@ (68 <reset+0x28>)", Kind.LOAD, "r0", "pc", "", 1),
    ("  48:\td207      \tbcs.n\t5a <reset+0x1a>", Kind.CONDITIONAL, "", "", "", 0),
    ("  4e:\tf022 0203 \tbic.w\tr2, r2, #3", Kind.ALU, "r2", "", "", 0),
    ("  50:\td9fe      \tbls.n\t50 <stop>", Kind.CONDITIONAL, "", "", "", 0),
    ("  56:\tf003 fad1 \tbl\t35fc <memset>", Kind.CALL, "r14", "", "", 0),
    ("  56:\tf003 fad1 \tbleq\t35fc <memset>", Kind.CALL, "r14", "", "", 0),
    ("  58:\tb1e5      \tcbz\tr5, 9a <main+0x2>", Kind.CONDITIONAL, "", "", "", 0),
    ("  78:\t4770      \tbx\tlr", Kind.BRANCH_REGISTER, "", "", "", 0),
    ("  78:\t4487      \tadd\tpc, r0", Kind.BRANCH_REGISTER, "pc", "", "", 0),
    ("  7a:\tbf00      \tnop", Kind.NOP, "", "", "", 0),
    ("  80:\tb5f8      \tpush\t{r3, r4, lr}", Kind.STORES, "", "r13", "r13", 3),
    ("  80:\tbd10      \tpop\t{r4, pc}", Kind.LOADS, "r4 pc", "r13", "r13", 2),
    ("  82:\te92d 4ff0 \tstmdb\tsp!, {r4, r5, lr}", Kind.STORES, "", "r13", "r13", 3),
    ("  84:\te9d0 6e00 \tldrd\tr6, lr, [r0]", Kind.LOADS, "r6 r14", "r0", "", 2),
    ("  84:\te8f3 6e02 \tldrd\tr6, r5, [r3], #8", Kind.LOADS, "r6 r5", "r3", "r3", 2),
    ("  88:\te8b6 0172 \tldmia.w\tr6!, {r1, r4, r5, r6, r8}", Kind.LOADS, "r1 r4 r5 r6 r8", "r6", "r6", 5),
    ("  94:\tf803 2b01 \tstrb.w\tr2, [r3], #1", Kind.STORE, "", "r3", "r3", 1),
    ("  94:\tf912 0f01 \tldrsb.w\tr0, [r2, #1]!", Kind.LOAD, "r0", "r2", "r2", 1),
    ("  96:\tf85c 2023 \tldr.w\tr2, [ip, r3, lsl #2]", Kind.LOAD, "r2", "r12 r3", "", 1),
    ("  98:\tbf1c      \titt\tne", Kind.IT, "", "", "", 0),
    ("  9a:\tf993 3000 \tldrsbne.w\tr3, [r3]", Kind.LOAD, "r3", "r3", "", 1),
    ("  9c:\t2201      \tmovne\tr2, #1", Kind.ALU, "r2", "", "", 0),
    ("  9e:\tfb23 2304 \tsmlad\tr3, r3, r4, r2", Kind.DSP_MULTIPLY, "r3", "", "", 0),
    ("  a0:\tfb02 f303 \tmul.w\tr3, r2, r3", Kind.MULTIPLY, "r3", "", "", 0),
    ("  a2:\tfb02 1303 \tmla\tr3, r2, r3, r1", Kind.MULTIPLY_ADD, "r3", "", "", 0),
    ("  a4:\tfb84 3405 \tsmull\tr3, r4, r4, r5", Kind.LONG_MULTIPLY, "r3 r4", "", "", 0),
    ("  a6:\tfbc4 3405 \tsmlal\tr3, r4, r4, r5", Kind.LONG_MULTIPLY_ADD, "r3 r4", "", "", 0),
    ("  a8:\tfb94 f4f3 \tsdiv\tr4, r4, r3", Kind.DIVIDE, "r4", "", "", 0),
    ("  aa:\tfa2f f085 \tsxtb16\tr0, r5", Kind.DSP, "r0", "", "", 0),
    ("  ac:\te8df f01c \ttbh\t[pc, ip, lsl #1]", Kind.TABLE_BRANCH, "", "pc r12", "", 0),
    ("  ae:\t42a3      \tcmp\tr3, r4", Kind.ALU, "", "", "", 0),
    (" 400:\tf040 e001 \tdls\tlr, r0", Kind.LOOP_START, "r14", "", "", 0),
    (" 400:\tf044 c00b \twls\tlr, r4, 41a <f+0x1a>", Kind.LOOP_START, "r14", "", "", 0),
    (" 404:\tf00f c005 \tle\tlr, 400 <f>", Kind.LOOP_END, "", "", "", 0),
    (" 408:\tecb1 3e88 \tvldrh.u16\tq1, [r1], #16", Kind.VECTOR_MEMORY, "q1", "r1", "r1", 4),
    (" 408:\ted82 7f00 \tvstrw.32\tq3, [r2, #0]", Kind.VECTOR_MEMORY, "", "r2", "", 1),
    (" 40c:\tfc93 0fda \tvldrd.u64\tq0, [r3, q5]", Kind.VECTOR_MEMORY, "q0", "r3 q5", "", 4),
    (" 410:\teef0 2e22 \tvmlava.s16\tr2, q0, q1", Kind.VECTOR_MULTIPLY, "r2", "", "", 0),
    (" 414:\tef22 0844 \tvadd.i32\tq0, q1, q2", Kind.VECTOR_INTEGER, "q0", "", "", 0),
    (" 418:\tfe71 0f4d \tvpst", Kind.VECTOR_CONTROL, "", "", "", 0),
    (" 41c:\ted2d 8b08 \tvpush\t{d8-d11}", Kind.STORES, "", "r13", "r13", 8),
    (" 420:\tee33 5b06 \tvadd.f64\td5, d3, d6", Kind.FLOAT, "d5", "", "", 0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("line", "kind", "writes", "pointers", "updates", "words"),
    LINES,
    ids=[" ".join(line.split("\t")[2:4]) for line, *_ in LINES],
)
def test_an_instruction_is_read(
    line: str, kind: Kind, writes: str, pointers: str, updates: str, words: int
) -> None:
    found = instruction(line)
    assert found is not None
    assert found.kind is kind
    assert (found.writes, found.pointers, found.updates) == (
        set(writes.split()),
        set(pointers.split()),
        set(updates.split()),
    )
    assert found.words == words
    assert found.size == len(line.split("\t")[1].replace(" ", "")) // 2


@pytest.mark.parametrize(
    ("line", "reads"),
    [
        ("  52:\t3204      \tadds\tr2, #4", "r2"),
        ("  54:\t2100      \tmovs\tr1, #0", ""),
        ("  56:\t4611      \tmov\tr1, r2", "r2"),
        ("  58:\t18c8      \tadds\tr0, r1, r3", "r1 r3"),
        ("  5a:\t434b      \tmuls\tr3, r1", "r1 r3"),
        ("  5c:\tfb23 2304 \tsmlad\tr3, r5, r4, r2", "r2 r4 r5"),
        ("  60:\tfbc4 3405 \tsmlal\tr3, r4, r6, r5", "r3 r4 r5 r6"),
        ("  64:\t5153      \tstr\tr3, [r2, r5]", "r2 r3 r5"),
        ("  66:\t4298      \tcmp\tr0, r3", "r0 r3"),
        ("  68:\tb510      \tpush\t{r4, lr}", "r4 r14 r13"),
        ("  6a:\teef0 2e22 \tvmlava.s16\tr2, q0, q1", "r2 q0 q1"),
    ],
)
def test_what_an_instruction_reads(line: str, reads: str) -> None:
    found = instruction(line)
    assert found is not None
    assert found.reads == set(reads.split())


@pytest.mark.parametrize(
    "line", ["      68:\t200009c0 \t.word\t0x200009c0", "00000070 <stop>:", "\t...", "", " 6a:\t1234 \t.short\t0x1234"]
)  # fmt: skip
def test_data_are_no_instructions(line: str) -> None:
    assert instruction(line) is None


def block(*lines: str, start: int = 0x100) -> Block:
    """Instructions one behind the other; the hexadecimal digits only say how long each is."""
    found, address = [], start
    for line in lines:
        code, _, text = line.partition(" ")
        one = instruction(f"{address:x}:\t{code[:4]} {code[4:]}\t" + text.replace(" ", "\t", 1))
        assert one is not None
        found.append(one)
        address = one.end
    return tuple(found)


NEXT = block("bf00 nop", start=0x2000)


@pytest.mark.parametrize(
    ("lines", "m3", "m4"),
    [
        (["6808 ldr r0, [r1, #0]", "6850 ldr r0, [r2, #4]"], 3, 3),
        # the second address is what the first loads
        (["6809 ldr r1, [r1, #0]", "6848 ldr r0, [r1, #4]"], 4, 4),
        (["6808 ldr r0, [r1, #0]", "6008 str r0, [r1, #0]"], 3, 3),
        (["5088 str r0, [r1, r2]", "6808 ldr r0, [r1, #0]"], 4, 4),
        # an address just calculated
        (["3104 adds r1, #4", "6808 ldr r0, [r1, #0]"], 4, 4),
        (["c90d ldmia r1!, {r0, r2, r3}"], 4, 4),
        (["b51f push {r0, r1, r2, r3, r4, lr}"], 7, 7),
        (["fb001203 mla r2, r0, r3, r1"], 2, 1),
        (["fbc43405 smlal r3, r4, r4, r5"], 6, 1),
        # folded, unless a wide instruction stands before it
        (["3104 adds r1, #4", "bf18 it ne", "2001 movne r0, #1"], 2, 2),
        (["f1010104 add.w r1, r1, #4", "bf18 it ne", "2001 movne r0, #1"], 3, 3),
    ],
)
def test_sequences_by_table(lines: list[str], m3: int, m4: int) -> None:
    after = block("bf00 nop", start=block(*lines)[-1].end)
    assert MODELS["cortex-m3"].cycles(block(*lines), after) == m3
    assert MODELS["cortex-m4"].cycles(block(*lines), after) == m4


def test_what_a_jump_costs() -> None:
    wide, straddling = (block("f1010104 add.w r1, r1, #4", start=at) for at in (0x2000, 0x2002))
    costs = {
        "b.n": ("e7fe b.n 2000", NEXT, 2, 2),
        "to a wide word": ("e7fe b.n 2000", wide, 2, 2),
        "to one that straddles": ("e7fe b.n 2002", straddling, 2, 3),
        "bl": ("f7fffffe bl 2000", NEXT, 3, 2),
        "bx": ("4770 bx lr", NEXT, 2, 3),
        "pop": ("bd10 pop {r4, pc}", NEXT, 5, 6),
        "taken": ("d0fe beq.n 2000", NEXT, 2, 2),
        "not taken": ("d0fe beq.n 2000", block("bf00 nop", start=0x102), 1, 1),
    }
    for name, (line, after, m0plus, m4) in costs.items():
        assert MODELS["cortex-m0plus"].cycles(block(line), after) == m0plus, name
        assert MODELS["cortex-m4"].cycles(block(line), after) == m4, name


def test_a_block_that_goes_on_costs_as_if_it_were_one() -> None:
    lines = ["6808 ldr r0, [r1, #0]", "6850 ldr r0, [r2, #4]", "3204 adds r2, #4", "6850 ldr r0, [r2, #4]"]  # fmt: skip
    whole = block(*lines, "e7fe b.n 2000")
    for core in ("cortex-m0plus", "cortex-m3", "cortex-m4"):
        model = MODELS[core]
        for cut in range(1, len(whole)):
            parts = model.cycles(whole[:cut], whole[cut:]) + model.cycles(whole[cut:], NEXT)
            assert parts == model.cycles(whole, NEXT), (core, cut)


def log_of(walk: list[tuple[int, bool]], lengths: list[int]) -> list[bytes]:
    """QEMU's log of blocks by number, 0 the caller's; True: announced and stopped, then run after all."""
    lines, seen = [], set()
    for number, stopped in walk:
        start = 0x100 * (number + 1)
        if number not in seen:
            seen.add(number)
            lines += [b"----------------\n", b"IN: f\n"]
            lines += [b"0x%08x:  3a01       subs     r2, #1\n" % (start + 2 * n) for n in range(lengths[number])]  # fmt: skip
            lines.append(b"\n")
        name = b"f" if number else b"main"
        run = b"Trace 0: 0x7f%06x [00800408/%08x/00000110/ff020200] %s\n" % (number, start, name)
        stop = b"Stopped execution of TB chain before 0x7f [%08x] f\n" % start
        lines += [run, stop, run] if stopped else [run]
    return lines


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.tuples(st.integers(2, 5), st.booleans()), max_size=30), min_size=1, max_size=4
    ),
    st.lists(st.integers(1, 4), min_size=6, max_size=6),
)
def test_edges_are_counted_call_by_call(
    walks: list[list[tuple[int, bool]]], lengths: list[int]
) -> None:
    """Block 1 is the function asked for; other calls of the caller are left out."""
    other = [(0, False), (2, False), (3, True), (0, False)]
    told = [*other, *(step for walk in walks for step in [(1, False), *walk, (0, True), *other])]
    span = [Span(0x100 * (n + 1), 0x100 * (n + 1) + 2 * lengths[n]) for n in range(6)]
    expected: list[Counter[Edge]] = []
    for walk in walks:
        numbers = [1, *(number for number, _ in walk)]
        pairs = zip(numbers, [*numbers[1:], None], strict=True)
        expected.append(Counter((span[a], None if b is None else span[b]) for a, b in pairs))
    assert count(log_of(told, lengths), {0x200}, "main") == expected


def test_a_log_without_code_is_refused() -> None:
    log = [line for line in log_of([(0, False), (1, False)], [1, 1]) if not line.startswith(b"0x")]
    with pytest.raises(TargetError, match="must log the code of a block before it runs, got none"):
        count(log, {0x200}, "main")


def test_an_emulator_that_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"sh failed with exit code 3; it said: broken"):
        trace(["sh", "-c", "echo broken; exit 3"], tmp_path, {0}, "main", 10)
    with pytest.raises(TargetError, match=r"sh did not finish within 0 s"):
        trace(["sh", "-c", "exec sleep 5"], tmp_path, {0}, "main", 0.2)


# Each loop runs n times; both its instructions and its cycles a turn are known. {core: cycles}, "m" and the number.
EVERY = "m0plus m3 m4 m7 m33 m55"
LOOPS: dict[str, tuple[str, str, str]] = {
    "count": ("1: subs r0, #1; bne 1b", EVERY, "3 3 3 1 2 3"),
    "not_taken": ("1: cmp r0, #0; beq 2f; subs r0, #1; b 1b; 2:", EVERY, "5 5 5 2 3 4"),
    "loads": ("1: ldr r1, [r2]; ldr r3, [r2, #4]; adds r1, r1, r3; subs r0, #1; bne 1b", EVERY, "8 7 7 3 6 7"),
    "multiply": ("1: muls r1, r3, r1; subs r0, #1; bne 1b", EVERY, "4 4 4 2 3 4"),
    "several": ("1: ldmia r2!, {r1, r3}; subs r2, #8; subs r0, #1; bne 1b", EVERY, "7 7 7 3 5 6"),
    "skipped": ("1: cmp r0, #0; it ne; movne r1, #3; subs r0, #1; bne 1b", EVERY[7:], "5 5 3 4 5"),
    "long_multiply": ("1: smull r1, r3, r1, r3; subs r0, #1; bne 1b", EVERY[7:], "7 4 2 3 4"),
    "divide": ("1: udiv r1, r1, r3; subs r0, #1; bne 1b", EVERY[7:], "11 11 8 10 11"),
    "pair": ("1: ldrd r1, r3, [r2]; subs r0, #1; bne 1b", EVERY[7:], "6 6 2 4 5"),
    "dsp": ("1: smlad r1, r3, r3, r1; subs r0, #1; bne 1b", EVERY[10:], "4 2 3 4"),
    # a load and a product of different pipes overlap, two loads do not; the loop's end is free
    "vectors": ("mov r12, lr; dls lr, r0; 1: vldrw.u32 q0, [r2]; vmla.s32 q1, q0, r3; le lr, 1b; mov lr, r12", "m55", "2"),
    "vector_loads": ("mov r12, lr; dls lr, r0; 1: vldrw.u32 q0, [r2]; vldrw.u32 q1, [r2]; le lr, 1b; mov lr, r12", "m55", "4"),
}  # fmt: skip


def loops_of(core: str) -> dict[str, tuple[str, int]]:
    """{loop: (code, cycles a turn)}."""
    return {
        name: (code, int(cycles.split()[cores.split().index(core)]))
        for name, (code, cores, cycles) in LOOPS.items()
        if core in cores.split()
    }


def build_loops(core: str, folder: Path) -> None:
    """image.elf, whose main runs each loop 100 and then 200 times; all of them leave by `done`."""
    loops = loops_of(core)
    code = "".join(
        rf"\n.balign 4\n.thumb_func\n{name}:\nmov r2, sp\nmovs r1, #1\nmovs r3, #1\n"
        + code.replace("1: ", r".balign 4\n1: ").replace("; ", r"\n")
        + r"\nb done\n"
        for name, (code, _) in loops.items()
    )
    lines = [
        f'__asm__(".syntax unified\\n.thumb{code}.thumb_func\\ndone: bx lr\\n");',
        *(f"void {name}(int turns);" for name in loops),
        "int main(void)",
        "{",
        *(f"    {name}(100), {name}(200);" for name in loops),
        "    return 0;",
        "}",
    ]
    (folder / "main.c").write_text("\n".join(lines))
    own = resources.files("edgepalette.evaluate.cortex_m")
    for name in ("start.c", "link.ld"):
        (folder / name).write_text(own.joinpath(name).read_text())
    board = CORES[f"cortex-{core}"]
    place = [f"-Wl,--defsym={name}={value:#x}" for name, value in (("FLASH_START", board.flash), ("RAM_START", board.ram), ("MEMORY_BYTES", board.memory))]  # fmt: skip
    subprocess.run(
        [COMPILER, *board.options, "-mthumb", "-O2", "-nostartfiles", "--specs=rdimon.specs", "-T", "link.ld", *place, "-o", "image.elf", "start.c", "main.c"],
        cwd=folder, check=True, timeout=60,
    )  # fmt: skip


@pytest.mark.parametrize("core", EVERY.split())
def test_loops_on_an_emulated_core(core: str, tmp_path: Path) -> None:
    absent = missing()
    if absent is not None:
        pytest.skip(absent)
    build_loops(core, tmp_path)
    board = CORES[f"cortex-{core}"]
    calls = calls_of(["done"], board.name, tmp_path / "image.elf", command_of(board))
    loops = loops_of(core)
    assert len(calls) == 2 * len(loops)
    found = {}
    for name, short, long in zip(loops, calls[::2], calls[1::2], strict=True):
        turn = loops[name][0].partition("1: ")[2].partition("; 2:")[0].partition("; mov lr")[0]
        assert long.instructions - short.instructions == 100 * len(turn.split("; ")), name
        found[name] = (long.cycles - short.cycles) / 100
    assert found == {name: cycles for name, (_, cycles) in loops.items()}


@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4", "cortex-m55"])
def test_every_instruction_of_an_inference_is_modelled(
    core: str, exported: Exported, tmp_path: Path
) -> None:
    """QEMU's own count of the whole lies a few instructions of the harness above."""
    absent = missing()
    if absent is not None:
        pytest.skip(absent)
    firmware = generate_firmware(exported.file("palette.tflite").read_bytes())
    inputs = [np.random.default_rng(0).integers(-128, 128, (2, 1, 8, 8, 1)).astype(np.int8)]
    done = emulate(firmware, CORES[core], inputs, tmp_path, model_cycles=True)
    assert done.cycles is not None
    assert done.part_cycles is not None
    assert done.mix is not None
    assert 0 <= done.instructions - sum(done.mix.values()) <= 3
    assert len(done.part_cycles) == len(done.parts)
    assert 0 <= sum(done.part_cycles) - done.cycles <= 80 * len(done.parts)
    assert 0.9 < done.cycles / done.instructions < 2.5
