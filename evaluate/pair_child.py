"""Runs two files of one format on the same raw inputs: `python -m edgepalette.evaluate.pair_child QUESTION.json`.

A question names the runtime of runtimes.RUNTIMES, its options, files as [file, .npz of inputs x0, x1, …], the number of
outputs, and where the answer goes: outputs y0, y1, … of file 0 as f0y0, …, each (samples, …).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from ..errors import EdgepaletteError


def main(path: str) -> int:
    """Answer one question; 1 and a line on standard error if the runtime refuses."""
    from .runtimes import RUNTIMES

    asked = json.loads(Path(path).read_text())
    answer = {}
    for number, (file, given) in enumerate(asked["files"]):
        print(file, flush=True)
        with np.load(given, allow_pickle=False) as archive:
            inputs = [archive[f"x{place}"] for place in range(len(archive.files))]
        try:
            runtime = RUNTIMES[asked["runtime"]](Path(file), 1, **asked["options"])
            outputs = [
                runtime.run_raw([part[sample] for part in inputs], asked["outputs"])
                for sample in range(len(inputs[0]))
            ]
        except (EdgepaletteError, ValueError, RuntimeError, ImportError, OSError) as error:
            print(str(error).replace("\n", " "), file=sys.stderr)
            return 1
        answer["version"] = np.array(runtime.version)
        for place in range(asked["outputs"]):
            answer[f"f{number}y{place}"] = np.stack([output[place] for output in outputs])
    np.savez(asked["answer"], **answer)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1]))
