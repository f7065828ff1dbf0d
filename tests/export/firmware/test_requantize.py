"""Arithmetic of the kernels that only a core without 64-bit products runs."""

from __future__ import annotations

import shutil
import subprocess
from importlib import resources
from pathlib import Path

import pytest

from edgepalette.evaluate.host_c import HERE, SANITIZERS, STRICT

PROGRAM = """
#define __ARM_ARCH_6M__ 1
#include <stdio.h>

#include "ep_requantize.h"

static uint32_t state = 1;

/* all sizes, and numbers whose halves are extremes */
static int32_t drawn(void)
{
    static const uint32_t halves[] = {0, 1, 0x7fff, 0x8000, 0xffff};
    state = state * 1664525 + 1013904223;
    const uint32_t bits = state >> 8;
    if (bits % 2)
        return (int32_t)(halves[bits / 2 % 5] << 16 | halves[bits / 10 % 5]);
    state = state * 1664525 + 1013904223;
    return (int32_t)(state ^ bits) >> bits / 2 % 32;
}

int main(void)
{
    int wrong = 0;
    for (int n = 0; n < 1000000; ++n) {
        const int32_t a = drawn(), b = drawn();
        wrong += ep_half_product(a, b) != (int32_t)(((int64_t)a * b + (INT64_C(1) << 31)) >> 32);
    }
    printf("%d", wrong);
    return 0;
}
"""


def test_a_product_by_halves_is_that_of_64_bits(tmp_path: Path) -> None:
    absent = HERE.missing()
    if absent is not None:
        pytest.skip(absent)
    (tmp_path / "main.c").write_text(PROGRAM)
    kernels = resources.files("edgepalette.export.firmware").joinpath("kernels")
    compiler = next(name for name in HERE.compilers if shutil.which(name))
    subprocess.run([compiler, *STRICT, "-O1", *SANITIZERS, "-I", str(kernels), "-o", "main", "main.c"], cwd=tmp_path, check=True)  # fmt: skip
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=True)
    assert done.stdout == "0"
