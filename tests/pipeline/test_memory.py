"""What training frees stays with the process; what it does there is seen from outside, as pages the system gives."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from contextlib import nullcontext
import numpy as np
from edgepalette.pipeline.memory import kept_memory

def pages(how):
    with how:
        step()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            step()
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def step():
    [np.ones(1 << 20) for _ in range(12)]

print(pages(nullcontext()), pages(kept_memory()), pages(nullcontext()))
"""

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's settings")


def pages_of_steps(**environment: str) -> list[int]:
    """Pages taken by five steps of 100 MB: without, with and again without what is tested."""
    own = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        capture_output=True,
        text=True,
        check=True,
        env={**own, **environment},
    )
    return [int(number) for number in done.stdout.split()]


def test_steps_take_no_new_pages_and_all_is_given_back_in_the_end() -> None:
    before, inside, after = pages_of_steps()
    assert inside < before / 10
    assert after > before / 2


def test_the_users_own_settings_stay() -> None:
    before, inside, after = pages_of_steps(MALLOC_TRIM_THRESHOLD_="131072")
    assert min(before, inside, after) > max(before, inside, after) / 2
