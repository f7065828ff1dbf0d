"""One question to a Python process of its own: native runtimes may crash there, and their libraries clash with TensorFlow's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TargetError
from ..export.crash import crash_name

TIME_LIMIT_S = 3600.0
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
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        # -P: the folder the command is called from may hold an `evaluate` or a `numpy` of its own
        command = [sys.executable, "-P", "-m", f"edgepalette.evaluate.{module}", str(asked)]
        try:
            done = subprocess.run(  # noqa: S603 # our own interpreter and module
                command, capture_output=True, timeout=time_limit_s, env=environment, check=False
            )
        except subprocess.TimeoutExpired as late:
            raise TargetError(
                f"{runtime} did not finish {_last(late.stdout, file)} within {time_limit_s:.0f} s"
            ) from None
        if done.returncode != 0 or not answered.exists():
            raise TargetError(_failure(runtime, _last(done.stdout, file), done))
        with np.load(answered, allow_pickle=False) as answer:
            return dict(answer)


def _failure(runtime: str, file: str, done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        name = crash_name(done.returncode)
        return f"{runtime} crashed ({name}) on {file}; the file is damaged or hits a fault of the runtime"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    # native code says why on lines before the exception's
    said = "; ".join(lines[-3:]) if lines else f"exit code {done.returncode}"
    return f"{runtime} refused {file}; it said: {said[:500]}"


def _last(printed: bytes | None, file: str) -> str:
    """The file last announced."""
    lines = (printed or b"").decode(errors="replace").splitlines()
    return lines[-1] if lines else file
