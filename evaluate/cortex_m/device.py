"""Microcontrollers by name: core, fastest clock, flash, and RAM in one piece.

Figures are the data sheets'. RAM is the largest region without a gap, since the arena is one piece; the program around
the model takes its part of all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

KIB = 1024


@dataclass(frozen=True)
class Device:
    """core: of emulator.CORES. clock_hz: the fastest the data sheet allows. source: where the figures stand."""

    name: str
    title: str
    core: str
    clock_hz: int
    flash_bytes: int
    ram_bytes: int
    source: str


DEVICES = {
    device.name: device
    for device in (
        Device("samd21", "Microchip SAM D21 (Arduino Zero)", "cortex-m0plus", 48_000_000, 256 * KIB, 32 * KIB,
               "data sheet DS40001882, ATSAMD21G18"),
        Device("rp2040", "Raspberry Pi RP2040 (Pico)", "cortex-m0plus", 133_000_000, 2048 * KIB, 264 * KIB,
               "RP2040 data sheet; flash is outside, a Pico has 2 MiB"),
        Device("stm32f103", "ST STM32F103RB", "cortex-m3", 72_000_000, 128 * KIB, 20 * KIB,
               "data sheet DS5319"),
        Device("sam3x8e", "Microchip SAM3X8E (Arduino Due)", "cortex-m3", 84_000_000, 512 * KIB, 96 * KIB,
               "data sheet 11057; SRAM0 and SRAM1 adjoin"),
        Device("nrf52840", "Nordic nRF52840 (Arduino Nano 33 BLE)", "cortex-m4", 64_000_000, 1024 * KIB, 256 * KIB,
               "nRF52840 product specification"),
        Device("stm32f411", "ST STM32F411xE", "cortex-m4", 100_000_000, 512 * KIB, 128 * KIB,
               "data sheet DS10314"),
        Device("stm32l4r5", "ST STM32L4R5xI (MLPerf Tiny's reference board)", "cortex-m4", 120_000_000, 2048 * KIB, 640 * KIB,
               "data sheet DS12023; SRAM1 to SRAM3 adjoin"),
        Device("stm32h743", "ST STM32H743xI", "cortex-m7", 480_000_000, 2048 * KIB, 512 * KIB,
               "data sheet DS12110; RAM: AXI SRAM, the largest region of 1 MiB"),
        Device("nrf5340", "Nordic nRF5340, application core", "cortex-m33", 128_000_000, 1024 * KIB, 512 * KIB,
               "nRF5340 product specification"),
        Device("stm32u575", "ST STM32U575xI", "cortex-m33", 160_000_000, 2048 * KIB, 768 * KIB,
               "data sheet DS13737; RAM: SRAM1 to SRAM3, which adjoin, of 786 KiB"),
        Device("corstone-300", "Arm Corstone-300 on an MPS3 board's FPGA", "cortex-m55", 32_000_000, 512 * KIB, 512 * KIB,
               "application note AN547; ITCM as flash, DTCM as RAM"),
    )
}  # fmt: skip
