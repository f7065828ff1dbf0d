"""The name of what killed a child process."""

from __future__ import annotations

import signal


def crash_name(returncode: int) -> str:
    """SIGSEGV and the like for the negative return code of a process a signal ended."""
    number = -returncode
    return next((known.name for known in signal.Signals if known == number), f"signal {number}")
