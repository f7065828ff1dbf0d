"""Memory that training frees stays with the process until it ends."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
KEEP = {M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}
# mallopt(3)
DEFAULTS = {M_MMAP_MAX: 65536, M_TRIM_THRESHOLD: 128 << 10}


@contextmanager
def kept_memory() -> Iterator[None]:
    """Tensors of a step lie where those of the last did.

    glibc gives large blocks back to the system as soon as they are freed, and every step pays for them again, page by
    page: a third of a training step of ResNet8 on a virtual machine. Settings of the user's own (MALLOC_…,
    GLIBC_TUNABLES) and other C libraries are left alone. What was kept goes back at the end.
    """
    library = _glibc()
    if library is None or _set_by_user():
        yield
        return
    _apply(library.mallopt, KEEP)
    try:
        yield
    finally:
        _apply(library.mallopt, DEFAULTS)
        library.malloc_trim(0)


def _apply(mallopt: Callable[[int, int], int], settings: dict[int, int]) -> None:
    for name, value in settings.items():
        mallopt(name, value)


def _set_by_user() -> bool:
    return "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", "") or any(
        name.startswith("MALLOC_") and name.endswith("_") for name in os.environ
    )


def _glibc() -> ctypes.CDLL | None:
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):  # what Windows says
        return None
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None
