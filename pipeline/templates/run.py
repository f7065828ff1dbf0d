"""Run palette.tflite on this device: needs numpy, flatbuffers and tflite-runtime or ai-edge-litert.

python run.py                    the examples of sample.npz: outputs, share of right answers, latency
python run.py --input x.npy      your own examples, (N, …) in real numbers
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
from loader import load  # type: ignore[import-not-found] # stands beside this file once deployed

HERE = Path(__file__).resolve().parent
WARM_UP_RUNS = 10


def make_interpreter(model: bytes, threads: int) -> Any:
    """Whichever TFLite runtime is installed."""
    try:
        from tflite_runtime.interpreter import Interpreter
    except ImportError:
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError:
            raise SystemExit(
                "a TFLite runtime is needed: pip install tflite-runtime (Python up to 3.11) or ai-edge-litert"
            ) from None
    interpreter = Interpreter(model_content=model, num_threads=threads)
    interpreter.allocate_tensors()
    return interpreter


def run(interpreter: Any, example: Any) -> Any:
    """One example in, its output in real numbers."""
    entry, exit_ = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero_point = entry["quantization"]
    steps = np.clip(np.round(example / np.float32(scale)) + zero_point, -128, 127)
    interpreter.set_tensor(entry["index"], steps.astype(np.int8)[None])
    interpreter.invoke()
    scale, zero_point = exit_["quantization"]
    raw = interpreter.get_tensor(exit_["index"])[0]
    return (raw.astype(np.float32) - zero_point) * np.float32(scale)


def main() -> None:
    """Parse the options, run, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=HERE / "palette.tflite")
    parser.add_argument("--input", type=Path, help=".npy file of examples; default: sample.npz")
    parser.add_argument(
        "--cache", type=Path, help="folder to keep the expanded model in: the next start is faster"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=50, help="timed runs")
    options = parser.parse_args()

    labels = None
    if options.input:
        examples = np.load(options.input, allow_pickle=False)
    else:
        with np.load(HERE / "sample.npz", allow_pickle=False) as sample:
            examples, labels = sample["x"], sample["y"]
    interpreter = make_interpreter(load(options.model, options.cache), options.threads)
    outputs = np.stack([run(interpreter, example) for example in examples])
    for number, output in enumerate(outputs):
        print(number, np.array2string(output, precision=4, suppress_small=True, max_line_width=120))
    if labels is not None and labels.dtype.kind == "i":
        decided = outputs.argmax(1) if outputs.shape[1] > 1 else (outputs[:, 0] > 0.5)
        print(f"right: {int((decided == labels).sum())} of {len(labels)}")

    times = []
    for count in range(WARM_UP_RUNS + options.runs):
        start = time.perf_counter()
        interpreter.invoke()
        if count >= WARM_UP_RUNS:
            times.append((time.perf_counter() - start) * 1e3)
    median, p95 = np.percentile(times, [50, 95])
    print(f"latency: median {median:.3f} ms, 95th percentile {p95:.3f} ms over {len(times)} runs")


if __name__ == "__main__":
    main()
