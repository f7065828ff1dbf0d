"""Native runtimes in a process of their own: a hostile file can take down the child, never the command.

`run_file` asks, `main` (python -m edgepalette.evaluate.child REQUEST) answers through files in a temporary folder.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import EdgepaletteError
from .process import TIME_LIMIT_S, ask

WARM_UP_RUNS = 10


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
    answer = ask("child", asdict(request), request.runtime, request.file, time_limit_s)
    ram = int(answer["ram_bytes"])
    return Outcome(
        answer["raw"],
        answer["outputs"],
        answer["times_ms"],
        ram if ram >= 0 else None,
        str(answer["version"]),
    )


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
