"""One question to a Python process of its own: native runtimes may crash there, and their libraries clash with TensorFlow's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TargetError
from ..export.crash import crash_name

TIME_LIMIT_S = 3600.0
TRACEBACK = "Traceback (most recent call last):"
Arrays = dict[str, NDArray[Any]]


def ask(
    module: str,
    question: Mapping[str, Any],
    runtime: str,
    file: str,
    time_limit_s: float = TIME_LIMIT_S,
) -> Arrays:
    """What `python -m edgepalette.evaluate.MODULE QUESTION.json` saves at the question's `answer`.

    file: what it opens first; a module that opens several prints each one's path before. Raises TargetError if the runtime
    refuses a file, crashes or passes the time limit.
    """
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as folder:
        asked, answered = Path(folder, "question.json"), Path(folder, "answer.npz")
        asked.write_text(json.dumps({**question, "answer": str(answered)}))
        module = f"edgepalette.evaluate.{module}"
        done = run_module(module, [str(asked)], runtime, lambda out: _last(out, file), time_limit_s)
        if not answered.exists():
            raise TargetError(_failure(runtime, _last(done.stdout, file), done))
        with np.load(answered, allow_pickle=False) as answer:
            return dict(answer)


def run_module(
    module: str,
    arguments: Sequence[str],
    runtime: str,
    file_of: Callable[[bytes | None], str],
    time_limit_s: float = TIME_LIMIT_S,
) -> subprocess.CompletedProcess[bytes]:
    """`python -m MODULE ARGUMENTS…`, which ended well.

    file_of: the file at work, from what was printed so far. Raises TargetError if it ends with another code than 0,
    crashes or passes the time limit.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    # -P: the folder the command is called from may hold an `evaluate` or a `numpy` of its own
    command = [sys.executable, "-P", "-m", module, *arguments]
    try:
        done = subprocess.run(  # noqa: S603 # our own interpreter and modules we name
            command, capture_output=True, timeout=time_limit_s, env=environment, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise TargetError(
            f"{runtime} did not finish {file_of(late.stdout)} within {time_limit_s:.0f} s"
        ) from None
    if done.returncode != 0:
        raise TargetError(_failure(runtime, file_of(done.stdout), done))
    return done


def _failure(runtime: str, file: str, done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        name = crash_name(done.returncode)
        return f"{runtime} crashed ({name}) on {file}; the file is damaged or hits a fault of the runtime"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    if TRACEBACK in lines:
        lines = [*lines[: lines.index(TRACEBACK)], lines[-1]]
    # native code says why on lines before the exception's
    said = "; ".join(lines[-3:]) if lines else f"exit code {done.returncode}"
    return f"{runtime} refused {file}; it said: {said[:500]}"


def _last(printed: bytes | None, file: str) -> str:
    """The file last announced."""
    lines = (printed or b"").decode(errors="replace").splitlines()
    return lines[-1] if lines else file
