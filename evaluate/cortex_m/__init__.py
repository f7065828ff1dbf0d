"""Firmware on an emulated Cortex-M: what runs there beside it, and what is counted."""
