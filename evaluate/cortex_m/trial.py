"""A .tflite as firmware on an emulated core: outputs, and what one inference takes there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...errors import ExportError, FormatError, TargetError
from ...export.firmware.call import Share
from ...export.firmware.firmware import Firmware, generate_firmware
from ..measurement import FlashSplit, OperatorCost, RamSplit, bytes_over
from ..signature import signature
from .device import DEVICES, Device
from .emulator import CORES, Emulated, emulate, versions

# targets: bare cores, and devices that have one
PLACES = (*CORES, *DEVICES)
# products of an inference whose cycles are still modelled: every instruction is logged for that
MOST_MACS = 50_000_000


@dataclass(frozen=True, eq=False)
class Trial:
    """raw: (samples, …) outputs as the file's type; outputs: the same as real numbers. cycles: of one inference, None without a model of them.

    remarks: what the firmware stores otherwise than the file.
    """

    raw: NDArray[Any]
    outputs: NDArray[np.float32]
    instructions: int
    cycles: int | None
    operators: tuple[OperatorCost, ...]
    flash: FlashSplit
    ram: RamSplit
    device: Device | None
    versions: str
    remarks: tuple[str, ...] = ()

    @property
    def latency_ms(self) -> float | None:
        """At the device's clock, by the model of cycles."""
        if self.cycles is None or self.device is None:
            return None
        return round(self.cycles / self.device.clock_hz * 1e3, 4)

    @property
    def over(self) -> tuple[int, int]:
        """Bytes of flash and of RAM that the device lacks."""
        return bytes_over(self.flash), bytes_over(self.ram)

    def notes(self) -> str:
        """What the fields of a Measurement have no room for."""
        flash, ram = self.flash, self.ram
        parts = [
            f"{self.versions}, -O2",
            f"flash: code {flash.code:,} + weights {flash.weights:,} + tables {flash.tables:,} + other constants {flash.other:,} B",
            f"RAM: tensors {ram.arena:,} + scratch {ram.scratch:,} + stack {ram.stack:,} B",
        ]
        if self.cycles is None:
            parts.append(f"cycles are modelled up to {MOST_MACS:,} MACs")
        if self.device is not None:
            parts.append(f"{self.device.title}, {self.device.clock_hz / 1e6:g} MHz: {self.verdict()}")  # fmt: skip
        return "; ".join([*parts, *self.remarks])

    def verdict(self) -> str:
        """Whether it fits the device, and what is missing."""
        lacks = [
            f"{split.total:,} B of {kind} for {split.limit:,}, {bytes_over(split):,} too many"
            for kind, split in (("flash", self.flash), ("RAM", self.ram))
            if bytes_over(split)
        ]
        return f"does not fit, {' and '.join(lacks)}" if lacks else "fits"


def title_of(place: str) -> str:
    """`ST STM32F411xE, cortex-m4 at 100 MHz` of `stm32f411`."""
    device = DEVICES.get(place)
    if device is None:
        return f"Arm {place.replace('plus', '+').replace('cortex-m', 'Cortex-M')}"
    return f"{device.title}, {device.core} at {device.clock_hz / 1e6:g} MHz"


def try_firmware(path: Path, place: str, inputs: NDArray[np.float32]) -> Trial:
    """Generate, compile and run the firmware of a .tflite on (samples, …) inputs; place: one of PLACES.

    Raises TargetError for a file firmware does not run, or if a tool is missing or fails.
    """
    device = DEVICES.get(place)
    core = CORES[device.core if device else place]
    try:
        firmware = generate_firmware(path.read_bytes())
        ports = signature(path)
    except (ExportError, FormatError, OSError) as error:
        raise TargetError(f"{place} takes an int8 .tflite that firmware runs, got {path}: {error}") from error  # fmt: skip
    if len(ports.inputs) != 1 or len(ports.outputs) != 1:
        raise TargetError(f"{place} runs models of one input and one output, got {len(ports.inputs)} and {len(ports.outputs)} in {path}")  # fmt: skip
    (entry,), (exit_,) = ports.inputs, ports.outputs
    raw = entry.raw(inputs.reshape(len(inputs), *entry.shape))
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as folder:
        macs = sum(node.macs for node in firmware.graph.nodes)
        found = emulate(firmware, core, [raw], Path(folder), model_cycles=macs <= MOST_MACS)
    outputs = found.outputs[0].reshape(len(inputs), *exit_.shape[1:])
    return Trial(
        outputs,
        exit_.real(outputs).astype(np.float32),
        found.instructions,
        found.cycles,
        tuple(_costs(firmware, found)),
        flash_split(firmware, found, device),
        ram_split(firmware, found, device),
        device,
        versions(),
        firmware.remarks,
    )


def _costs(firmware: Firmware, found: Emulated) -> list[OperatorCost]:
    cycles: Sequence[int | None] = found.part_cycles or [None] * len(found.parts)
    return [
        OperatorCost(node.op, node.output.dimensions, count, modelled, node.macs)
        for node, count, modelled in zip(firmware.graph.nodes, found.parts, cycles, strict=True)
    ]


def flash_split(firmware: Firmware, found: Emulated, device: Device | None) -> FlashSplit:
    """All that is linked but the C library; what is neither weight nor table counts as other."""
    weights, tables = firmware.flash[Share.WEIGHTS], firmware.flash[Share.TABLES]
    other = found.constants - weights - tables
    return FlashSplit(
        found.code, weights, tables, other, None if device is None else device.flash_bytes
    )


def ram_split(firmware: Firmware, found: Emulated, device: Device | None) -> RamSplit:
    """Scratch: what it adds to the arena; where tensors leave room it takes none of its own."""
    scratch = firmware.arena - firmware.tensors
    return RamSplit(
        firmware.tensors, scratch, found.stack, None if device is None else device.ram_bytes
    )
