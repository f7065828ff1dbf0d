"""Firmware on a Cortex-M in QEMU: outputs, instructions per inference and per operator, flash, stack.

QEMU advances its clock by 64 ns an instruction (-icount shift=6), and the board's free-running counter ticks by that
clock: the counts are the same from run to run. It counts instructions, it does not model cycles: `cycles` does.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from ...errors import TargetError
from ...export.firmware.firmware import Firmware
from ..host_c import split_outputs, write_folder
from .cycles import Call, calls_of

COMPILER, SIZE, EMULATOR = "arm-none-eabi-gcc", "arm-none-eabi-size", "qemu-system-arm"
PACKAGES = "apt install gcc-arm-none-eabi libnewlib-arm-none-eabi qemu-system-arm"
NANOSECONDS_PER_INSTRUCTION = 64
TIME_LIMIT_S = 1800.0


@dataclass(frozen=True)
class Core:
    """A core and QEMU's board of it. counter: base of its FPGAIO block, which ticks every `tick_ns`."""

    name: str
    machine: str
    options: tuple[str, ...]
    flash: int
    ram: int
    memory: int
    counter: int
    tick_ns: int


CORES = {
    core.name: core
    for core in (
        Core("cortex-m0plus", "mps2-an385", ("-mcpu=cortex-m0plus",), 0, 0x20000000, 1 << 22, 0x40028000, 40),
        Core("cortex-m3", "mps2-an385", ("-mcpu=cortex-m3",), 0, 0x20000000, 1 << 22, 0x40028000, 40),
        Core("cortex-m4", "mps2-an386", ("-mcpu=cortex-m4",), 0, 0x20000000, 1 << 22, 0x40028000, 40),
        Core("cortex-m7", "mps2-an500", ("-mcpu=cortex-m7",), 0, 0x20000000, 1 << 22, 0x40028000, 40),
        Core("cortex-m33", "mps2-an505", ("-mcpu=cortex-m33",), 0x10000000, 0x38000000, 1 << 22, 0x50302000, 50),
        Core("cortex-m55", "mps3-an547", ("-mcpu=cortex-m55", "-mfloat-abi=hard"), 0, 0x20000000, 1 << 19, 0x59302000, 50),
    )
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Emulated:
    """outputs: (samples, …) each. instructions: of one inference; parts: of each operator. code, constants: bytes of flash.

    stack: bytes one inference takes. cycles, part_cycles: modelled, of the first sample, if asked for; mix: instructions by
    kind.
    """

    outputs: list[NDArray[Any]]
    instructions: int
    parts: tuple[int, ...]
    code: int
    constants: int
    stack: int
    cycles: int | None = None
    part_cycles: tuple[int, ...] | None = None
    mix: Mapping[str, int] | None = None


def missing() -> str | None:
    """What to install, or None if firmware can be emulated here."""
    absent = [tool for tool in (COMPILER, SIZE, EMULATOR) if shutil.which(tool) is None]
    return f"needs {', '.join(absent)}: {PACKAGES}" if absent else None


def emulate(
    firmware: Firmware,
    core: Core,
    inputs: Sequence[NDArray[Any]],
    folder: Path,
    options: Sequence[str] = ("-O2",),
    model_cycles: bool = False,
) -> Emulated:
    """Compile in `folder` and run on inputs (samples, …). Raises TargetError without the tools, or if one fails.

    model_cycles: run the first sample once more, logged; takes some 10 to 20 times as long as a plain run of one.
    """
    absent = missing()
    if absent is not None:
        raise TargetError(f"{core.name} {absent}")
    flags = [*core.options, "-mthumb", "-std=c99", "-Wall", "-Wextra", "-Werror", "-ffunction-sections", "-fdata-sections", *options]  # fmt: skip
    _write(firmware, core, inputs, folder)
    sources = sorted(f for f in firmware.files if f.endswith(".c") and f != "main.c")
    parts = [f"-Wl,-e,{firmware.name}_run", f"-Wl,-u,{firmware.name}_run_parts"]
    _run(
        [COMPILER, *flags, "-nostdlib", "-r", "-Wl,--gc-sections", *parts, "-o", "firmware.o", *sources],
        folder,
    )  # fmt: skip
    place = [f"-Wl,--defsym={name}={value:#x}" for name, value in (("FLASH_START", core.flash), ("RAM_START", core.ram), ("MEMORY_BYTES", core.memory))]  # fmt: skip
    _run(
        [COMPILER, *flags, "-nostartfiles", "--specs=rdimon.specs", "-T", "link.ld", *place, "-o", "image.elf", "start.c", "harness.c", "firmware.o"],
        folder,
    )  # fmt: skip
    said = _run(command_of(core), folder)
    code, constants = _sizes(_run([SIZE, "-A", "firmware.o"], folder))
    ticks = {m[1]: int(m[2]) for m in re.finditer(r"^(whole|stack|part \d+) (\d+)$", said, re.M)}
    count = [
        round(ticks[key] * core.tick_ns / NANOSECONDS_PER_INSTRUCTION)
        for key in ("whole", *(f"part {n}" for n in range(len(firmware.operators))))
    ]
    raw = (folder / "outputs.bin").read_bytes()
    outputs = split_outputs(firmware, raw, len(inputs[0]))
    done = Emulated(outputs, count[0], tuple(count[1:]), code, constants, ticks["stack"])
    if not model_cycles:
        return done
    whole, *each = _modelled(firmware, core, inputs, folder)
    part_cycles = tuple(part.cycles for part in each)
    return replace(done, cycles=whole.cycles, part_cycles=part_cycles, mix=whole.mix)


def command_of(core: Core) -> list[str]:
    """QEMU with the core's board, on image.elf of the folder it runs in."""
    shift = NANOSECONDS_PER_INSTRUCTION.bit_length() - 1
    return [EMULATOR, "-M", core.machine, "-nographic", "-semihosting-config", "enable=on,target=native",
            "-icount", f"shift={shift},sleep=off", "-kernel", "image.elf"]  # fmt: skip


def _modelled(
    firmware: Firmware, core: Core, inputs: Sequence[NDArray[Any]], folder: Path
) -> list[Call]:
    """The whole inference, then each part, of the first sample."""
    alone = folder / "traced"
    alone.mkdir(exist_ok=True)
    shutil.copyfile(folder / "image.elf", alone / "image.elf")
    (alone / "inputs.bin").write_bytes(_fed([part[:1] for part in inputs]))
    # a small model's parts are inlined in the function that runs them all
    functions = [f"{firmware.name}_run", f"{firmware.name}_run_parts"]
    calls = calls_of(functions, core.name, alone / "image.elf", command_of(core))
    # as harness.c calls: the whole, the one that measures the stack, the parts
    if len(calls) != 2 + len(firmware.operators):
        raise TargetError(
            f"the emulator must log {2 + len(firmware.operators)} calls of the firmware, got {len(calls)}"
        )
    return [calls[0], *calls[2:]]


def _write(firmware: Firmware, core: Core, inputs: Sequence[NDArray[Any]], folder: Path) -> None:
    write_folder(firmware, folder)
    own = resources.files(__package__)
    for name in ("start.c", "link.ld"):
        (folder / name).write_text(own.joinpath(name).read_text())
    template = jinja2.Template(own.joinpath("harness.c.j2").read_text(), undefined=jinja2.StrictUndefined)  # fmt: skip
    text = template.render(
        name=firmware.name,
        upper=firmware.name.upper(),
        counter=f"{core.counter:#x}u",
        inputs=range(len(firmware.graph.inputs)),
        outputs=range(len(firmware.graph.outputs)),
    )
    (folder / "harness.c").write_text(text)
    (folder / "inputs.bin").write_bytes(_fed(inputs))


def _fed(inputs: Sequence[NDArray[Any]]) -> bytes:
    """One sample after another, all inputs of each."""
    return b"".join(
        np.ascontiguousarray(part[n]).tobytes() for n in range(len(inputs[0])) for part in inputs
    )


def _run(command: list[str], folder: Path) -> str:
    try:
        done = subprocess.run(  # noqa: S603 # tools named above, on files written here
            command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise TargetError(f"{command[0]} did not finish within {TIME_LIMIT_S:.0f} s") from None
    if done.returncode != 0:
        said = done.stderr or done.stdout
        over = re.search(r"region `(FLASH|RAM)' overflowed by (\d+) bytes", said)
        if over is not None:
            raise TargetError(f"QEMU's board must hold the model, but its {over[1]} is {int(over[2]):,} B too small")  # fmt: skip
        hint = f"; {PACKAGES}" if "specs" in said else ""
        raise TargetError(
            f"{command[0]} failed with exit code {done.returncode}; it said: {said[:1000]}{hint}"
        )
    return done.stdout


def versions() -> str:
    """Of the compiler and the emulator, as they say themselves."""
    compiler = _run([COMPILER, "-dumpfullversion"], Path()).strip()
    found = re.search(r"version (\S+)", _run([EMULATOR, "--version"], Path()))
    return f"{COMPILER} {compiler}, QEMU {found[1] if found else 'of unknown version'}"


def _sizes(table: str) -> tuple[int, int]:
    """(code, constants) of `size -A`."""
    code = constants = 0
    for name, size in re.findall(r"^(\.\S+)\s+(\d+)", table, re.M):
        if name.startswith(".text"):
            code += int(size)
        elif name.startswith((".rodata", ".data")):
            constants += int(size)
    return code, constants
