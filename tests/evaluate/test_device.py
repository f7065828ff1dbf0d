"""Devices: each has a core that is emulated, and sizes as its data sheet counts them."""

from __future__ import annotations

from edgepalette.evaluate.cortex_m.device import DEVICES, KIB
from edgepalette.evaluate.cortex_m.emulator import CORES
from edgepalette.evaluate.cortex_m.trial import PLACES, title_of


def test_devices_are_made_of_emulated_cores_and_whole_kib() -> None:
    assert {device.core for device in DEVICES.values()} == set(CORES)
    for name, device in DEVICES.items():
        assert device.name == name
        assert device.flash_bytes % KIB == device.ram_bytes % KIB == 0
        # decimal and binary sizes are not mixed up: what data sheets state is even in binary
        assert device.ram_bytes < device.flash_bytes or device.core == "cortex-m55"
        assert 16_000_000 <= device.clock_hz <= 600_000_000
        assert device.source


def test_cores_and_devices_have_names_of_their_own_and_titles() -> None:
    assert len(set(PLACES)) == len(CORES) + len(DEVICES)
    assert title_of("cortex-m0plus") == "Arm Cortex-M0+"
    assert title_of("stm32f411") == "ST STM32F411xE, cortex-m4 at 100 MHz"
