"""Generated firmware compiled and run on this computer, or for Arm's Linux machines and run in QEMU."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TargetError
from ..export.firmware.firmware import Firmware

STRICT = ("-std=c99", "-Wall", "-Wextra", "-Werror")
SANITIZERS = ("-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
TIME_LIMIT_S = 600.0


@dataclass(frozen=True)
class Machine:
    """What runs Linux. compilers: the first there is; emulator: of its programs, None where it is this computer itself.

    packages: of Debian.
    """

    name: str
    compilers: tuple[str, ...]
    emulator: str | None
    options: tuple[str, ...]
    packages: str

    def missing(self) -> str | None:
        """What to install, or None if firmware can be compiled and run here."""
        lacks = []
        if not any(map(shutil.which, self.compilers)):
            lacks.append(self.compilers[0])
        if self.emulator is not None and shutil.which(self.emulator) is None:
            lacks.append(self.emulator)
        return f"needs {', '.join(lacks)}: apt install {self.packages}" if lacks else None


HERE = Machine("this computer", ("cc", "gcc"), None, (), "gcc")
_ARM32 = (("arm-linux-gnueabihf-gcc",), "qemu-arm-static")
_ARM32_PACKAGES = "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user-static"
# programs are static: a C library of the machine is not installed here
MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            "aarch64",
            ("aarch64-linux-gnu-gcc",),
            "qemu-aarch64-static",
            ("-static",),
            "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static",
        ),
        Machine("armv7", *_ARM32, ("-static", "-march=armv7-a+fp", "-mthumb"), _ARM32_PACKAGES),
        # what 32-bit Raspberry Pi OS compiles for
        Machine("armv6", *_ARM32, ("-static", "-march=armv6+fp", "-marm"), _ARM32_PACKAGES),
    )
}

# reads the inputs of one sample after another from standard input, writes the outputs to standard output
_HARNESS = """
#include <stdio.h>
#include <stdlib.h>

#include "{name}.h"

int main(void)
{{
    /* of exactly the size asked for, so that a sanitizer sees what passes its end */
    int8_t *arena = malloc({upper}_ARENA_BYTES);
    if (!arena)
        return 2;
    for (;;) {{
{reads}
        {name}_run(arena);
{writes}
    }}
}}
"""


def write_folder(firmware: Firmware, folder: Path) -> None:
    """The firmware's files in a folder that may be there."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in firmware.files.items():
        (folder / name).write_text(text)


def build(
    firmware: Firmware, folder: Path, options: Sequence[str] = ("-O2",), machine: Machine = HERE
) -> Path:
    """Compile firmware in `folder` into a program for `run`.

    Raises TargetError without the machine's tools, or if the compiler refuses.
    """
    absent = machine.missing()
    if absent is not None:
        raise TargetError(f"firmware on {machine.name} {absent}")
    write_folder(firmware, folder)
    (folder / "harness.c").write_text(_harness(firmware))
    sources = sorted(f for f in firmware.files if f.endswith(".c") and f != "main.c")
    program = folder / "harness"
    compiler = next(name for name in machine.compilers if shutil.which(name))
    command = [compiler, *STRICT, *machine.options, *options, "-o", program.name, "harness.c", *sources]  # fmt: skip
    done = subprocess.run(  # noqa: S603 # the compiler, on files written here
        command, cwd=folder, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
    )
    if done.returncode != 0:
        raise TargetError(f"{command[0]} refused the firmware; it said: {done.stderr[:1000]}")
    return program


def run(
    program: Path, firmware: Firmware, inputs: Sequence[NDArray[Any]], machine: Machine = HERE
) -> list[NDArray[Any]]:
    """Outputs, (samples, …) each, for inputs (samples, …). Raises TargetError if the program fails."""
    samples = len(inputs[0])
    fed = b"".join(
        np.ascontiguousarray(part[n]).tobytes() for n in range(samples) for part in inputs
    )
    command = [str(program)] if machine.emulator is None else [machine.emulator, str(program)]
    done = subprocess.run(  # noqa: S603 # what `build` made
        command, input=fed, capture_output=True, timeout=TIME_LIMIT_S, check=False
    )
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace")[:2000]
        raise TargetError(f"the firmware failed with exit code {done.returncode}; it said: {said}")
    return split_outputs(firmware, done.stdout, samples)


def split_outputs(firmware: Firmware, raw: bytes, samples: int) -> list[NDArray[Any]]:
    """The outputs' arrays from their bytes, sample after sample."""
    sizes = [value.bytes for value in firmware.graph.outputs]
    if len(raw) != samples * sum(sizes):
        raise TargetError(f"the firmware must give {samples * sum(sizes)} bytes, got {len(raw)}")
    rows = np.frombuffer(raw, np.uint8).reshape(samples, -1)
    parts, start = [], 0
    for value, size in zip(firmware.graph.outputs, sizes, strict=True):
        dtype = np.float32 if value.type == 0 else np.int32 if value.type == 2 else np.int8
        part = np.ascontiguousarray(rows[:, start : start + size]).view(dtype)
        parts.append(part.reshape(samples, *value.shape))
        start += size
    return parts


def _harness(firmware: Firmware) -> str:
    name, upper = firmware.name, firmware.name.upper()

    def access(role: str, place: int) -> str:
        end = f"{upper}_{role}_{place}"
        return f"{end}(arena), sizeof *{end}(arena), {end}_ELEMENTS"

    reads = "\n".join(
        f"        if (fread({access('INPUT', n)}, stdin) != {upper}_INPUT_{n}_ELEMENTS)\n"
        "            return free(arena), 0;"
        for n in range(len(firmware.graph.inputs))
    )
    writes = "\n".join(
        f"        fwrite({access('OUTPUT', n)}, stdout);"
        for n in range(len(firmware.graph.outputs))
    )
    return _HARNESS.format(name=name, upper=upper, reads=reads, writes=writes)
