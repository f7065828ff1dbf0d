"""What QEMU executed: its log of translation blocks, counted while it runs and never stored.

With -d exec,nochain,in_asm QEMU writes a block's code when it translates it and a line each time it runs it:

    IN: name
    0x0000004a:  3a01       subs     r2, #1
    Trace 0: 0x7f34e0000400 [00800408/0000004a/00000110/ff020200] name

The second number in brackets is the address, the name behind them the function's. A block ends at a branch, at the end of a
page, or where the clock of -icount has run out; "Stopped execution" takes back the line before it.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import re
import subprocess
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import TargetError

_CODE = re.compile(rb"0x([0-9a-f]{8}):  [0-9a-f]{4}( [0-9a-f]{4})?")
_RUN = re.compile(rb"Trace \d+: \S+ \[[0-9a-f]+/([0-9a-f]+)/[^]]*\] ?(.*)")


@dataclass(frozen=True)
class Span:
    """A block of code: the address of its first instruction and the one behind its last."""

    start: int
    end: int


# a block, and the block that ran after it or None at the end of the call
Edge = tuple[Span, Span | None]


def trace(
    command: Sequence[str], folder: Path, entries: Collection[int], caller: str, time_limit_s: float
) -> list[Counter[Edge]]:
    """Run QEMU in `folder`; of each call the function `caller` makes, how often every edge was taken.

    entries: addresses of functions; calls that reach none of them are left out. Calls come in the order of the run, what they
    call in turn is theirs. Raises TargetError if QEMU fails.
    """
    reading, writing = os.pipe()
    with tempfile.TemporaryFile() as said, os.fdopen(reading, "rb", 0) as log:
        with os.fdopen(writing, "wb"):
            process = subprocess.Popen(  # noqa: S603 # QEMU, on an image built here
                [*command, "-d", "exec,nochain,in_asm", "-D", f"/dev/fd/{writing}"],
                cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said, pass_fds=[writing],
            )  # fmt: skip
        timer = threading.Timer(time_limit_s, process.kill)
        timer.start()
        try:
            calls = count(_lines(log), entries, caller)
        except BaseException:
            process.kill()
            raise
        finally:
            code, late = process.wait(), not timer.is_alive()
            timer.cancel()
        if late:
            raise TargetError(f"{command[0]} did not finish within {time_limit_s:.0f} s")
        if code != 0:
            said.seek(0)
            text = said.read(1000).decode(errors="replace")
            raise TargetError(f"{command[0]} failed with exit code {code}; it said: {text}")
    return calls


def _lines(log: io.FileIO) -> Iterator[bytes]:
    """The lines of a pipe, many at a time: QEMU writes each by itself, and waking for every one would take longest."""
    with contextlib.suppress(AttributeError, OSError):
        # Linux only, and up to what the system allows
        fcntl.fcntl(log, fcntl.F_SETPIPE_SZ, 1 << 20)
    rest = b""
    while chunk := log.read(1 << 20):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from lines
        if len(chunk) < 1 << 15:
            time.sleep(0.001)
    yield rest


def count(log: Iterable[bytes], entries: Collection[int], caller: str) -> list[Counter[Edge]]:
    """The edges of each call, from the lines of a log. Raises TargetError if it does not show what it runs."""
    known: dict[bytes, int] = {}
    # number 0 is all of the caller
    spans = [Span(0, 0)]
    numbers: dict[Span, int] = {}
    taken: Counter[tuple[int, int]] = Counter()
    calls: list[Counter[Edge]] = []
    start = end = before = last = 0
    for line in log:
        number = known.get(line)
        if number is None:
            if code := _CODE.match(line):
                end = int(code[1], 16) + (4 if code[2] else 2)
                start = start or int(code[1], 16)
            elif line.startswith(b"IN:"):
                start = 0
            elif line.startswith(b"Stopped execution"):
                taken[before, last] -= 1
                last = before
            if not (run := _RUN.match(line)):
                continue
            span = Span(int(run[1], 16), end)
            if span.start != start:
                raise TargetError(
                    f"the emulator must log the code of a block before it runs, got none at {span.start:#x}"
                )
            if run[2].decode(errors="replace").strip() == caller:
                number = 0
            else:
                number = numbers.setdefault(span, len(spans))
                spans += [span] if number == len(spans) else []
            known[line] = number
        taken[last, number] += 1
        before, last = last, number
        if before and not number:
            call = _edges(taken, spans)
            if any(span.start in entries for span, _ in call):
                calls.append(call)
            taken.clear()
    return calls


def _edges(taken: Counter[tuple[int, int]], spans: list[Span]) -> Counter[Edge]:
    """By what the numbers stand for; the edge that leads into a call is none of its own."""
    return Counter(
        {
            (spans[one], spans[after] if after else None): times
            for (one, after), times in taken.items()
            if one and times
        }
    )
