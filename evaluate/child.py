"""Native runtimes in a process of their own: a hostile file can take down the child, never the command.

`run_file` asks, `main` (python -m edgepalette.evaluate.child REQUEST) answers through files in a temporary folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgepaletteError, TargetError
from ..export.crash import crash_name

WARM_UP_RUNS = 10
TIME_LIMIT_S = 3600.0


@dataclass(frozen=True)
class Request:
    """What to run: `runtime` names one of runtimes.RUNTIMES; `latency_runs` 0 = no latency."""

    runtime: str
    file: str
    inputs: str
    samples: int
    threads: int = 1
    latency_runs: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the runtime gave: raw outputs, the same as real numbers, times of single runs in ms."""

    raw: NDArray[Any]
    outputs: NDArray[np.float32]
    times_ms: NDArray[np.float64]
    ram_bytes: int | None
    version: str


def run_file(request: Request, time_limit_s: float = TIME_LIMIT_S) -> Outcome:
    """Run a file on its first `samples` inputs in a child process.

    Raises TargetError if the runtime refuses the file, crashes or passes the time limit.
    """
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as folder:
        asked, answered = Path(folder, "request.json"), Path(folder, "answer.npz")
        asked.write_text(json.dumps({**asdict(request), "answer": str(answered)}))
        environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
        # -P: the folder the command is called from may hold an `evaluate` or a `numpy` of its own
        command = [sys.executable, "-P", "-m", "edgepalette.evaluate.child", str(asked)]
        try:
            done = subprocess.run(  # noqa: S603 # our own interpreter and module
                command, capture_output=True, timeout=time_limit_s, env=environment, check=False
            )
        except subprocess.TimeoutExpired:
            raise TargetError(
                f"{request.runtime} did not finish {request.file} within {time_limit_s:.0f} s"
            ) from None
        if done.returncode != 0 or not answered.exists():
            raise TargetError(_failure(request, done))
        with np.load(answered, allow_pickle=False) as answer:
            ram = int(answer["ram_bytes"])
            return Outcome(
                answer["raw"],
                answer["outputs"],
                answer["times_ms"],
                ram if ram >= 0 else None,
                str(answer["version"]),
            )


def _failure(request: Request, done: subprocess.CompletedProcess[bytes]) -> str:
    if done.returncode < 0:
        name = crash_name(done.returncode)
        return f"{request.runtime} crashed ({name}) on {request.file}; the file is damaged or hits a fault of the runtime"
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    # native code says why on lines before the exception's
    said = "; ".join(lines[-3:]) if lines else f"exit code {done.returncode}"
    return f"{request.runtime} refused {request.file}; it said: {said[:500]}"


def main(path: str) -> int:
    """Answer one request; 1 and a line on standard error if the runtime refuses."""
    from .runtimes import RUNTIMES

    asked = json.loads(Path(path).read_text())
    answer = asked.pop("answer")
    request = Request(**asked)
    try:
        runtime = RUNTIMES[request.runtime](Path(request.file), request.threads, **request.options)
    except (EdgepaletteError, ValueError, RuntimeError, ImportError, OSError) as error:
        print(str(error).replace("\n", " "), file=sys.stderr)
        return 1
    inputs = np.load(request.inputs, mmap_mode="r", allow_pickle=False)[: request.samples]
    raw = []
    for example in inputs:
        runtime.set_input(np.asarray(example, np.float32))
        runtime.invoke()
        raw.append(runtime.output())
    times = _times(runtime, np.asarray(inputs[0], np.float32), request.latency_runs)
    outputs = np.stack(raw)
    ram = runtime.ram_bytes()
    np.savez(
        answer,
        raw=outputs,
        outputs=runtime.exit.dequantize(outputs),
        times_ms=times,
        ram_bytes=-1 if ram is None else ram,
        version=runtime.version,
    )
    return 0


def _times(runtime: Any, example: NDArray[np.float32], runs: int) -> NDArray[np.float64]:
    """Milliseconds of single runs after warm-up; input and output copies are not counted."""
    runtime.set_input(example)
    for _ in range(WARM_UP_RUNS if runs else 0):
        runtime.invoke()
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        runtime.invoke()
        times.append((time.perf_counter() - start) * 1e3)
    return np.array(times)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
