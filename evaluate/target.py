"""Targets: what a model can be measured on, and how one is measured there."""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, RecipeError, TargetError
from .child import Outcome, Request, run_file
from .cortex_m import emulator
from .cortex_m.trial import PLACES, title_of, try_firmware
from .decode_cost import decode_cost
from .ethos_u import ACCELERATORS, PACKAGE, estimate
from .measurement import Measurement
from .metric import agreement, differing_bytes, get_metric
from .operator_agreement import EXAMPLES, agreement_note, operator_agreement

# TFLM's reference kernels take milliseconds where the host takes microseconds
TFLM_SAMPLES = 200
# the runtime of targets on which nothing is run
VELA = "vela"
# the runtime of targets that run firmware
EMULATOR = "emulator"


@dataclass(frozen=True)
class Target:
    """A place to run files of one format.

    runtime: of runtimes.RUNTIMES, or VELA or EMULATOR. modules: any one of them must be installed; the emulator tells
    of its tools itself. samples: test examples run; None = all, or as many as Effort says of emulated ones.
    measures_latency: whether times mean anything there. only_named: left out of "all that are installed".
    """

    name: str
    format: str
    runtime: str
    modules: tuple[str, ...]
    samples: int | None
    measures_latency: bool
    origin: str
    description: str
    install: str
    only_named: bool = False

    def missing(self) -> str | None:
        """What to install, or None if the target can be measured on."""
        if self.runtime == EMULATOR:
            return emulator.missing()
        if any(importlib.util.find_spec(module) for module in self.modules):
            return None
        return self.install


def _processor(accelerator: str) -> str:
    """`Arm Ethos-U55, 128 MACs a cycle` of `ethos-u55-128`."""
    _, kind, macs = accelerator.split("-")
    return f"Arm Ethos-{kind.upper()}, {macs} MACs a cycle"


TARGETS = {
    target.name: target
    for target in (
        Target(
            "host-tflite",
            "tflite",
            "tflite",
            ("tflite_runtime", "ai_edge_litert"),
            None,
            True,
            "measured on this host",
            "this CPU, tflite-runtime or ai-edge-litert; palettes expanded in memory by the loader",
            "pip install tflite-runtime (Python 3.11) or ai-edge-litert",
        ),
        Target(
            "host-onnx",
            "onnx",
            "onnx",
            ("onnxruntime",),
            None,
            True,
            "measured on this host",
            "this CPU, ONNX Runtime",
            "pip install onnxruntime",
        ),
        Target(
            "host-onnx-int8",
            "onnx-int8",
            "onnx",
            ("onnxruntime",),
            None,
            True,
            "measured on this host",
            "this CPU, ONNX Runtime, int8",
            "pip install onnxruntime",
        ),
        Target(
            "tflm",
            "tflite",
            "tflm",
            ("tflite_micro",),
            TFLM_SAMPLES,
            False,
            "run on this host; arena of an x86-64 build",
            "TensorFlow Lite Micro's interpreter on this host; the palette file runs in place",
            "pip install tflite-micro (Linux x86-64 only)",
        ),
        *(
            Target(
                name,
                "tflite",
                VELA,
                ("ethosu",),
                0,
                False,
                "vendor's estimate (Arm's Vela), not run",
                f"{_processor(name)}, Vela's estimate for the expanded file; when named",
                f"pip install {PACKAGE}",
                only_named=True,
            )
            for name in ACCELERATORS
        ),
        *(
            Target(
                name,
                "tflite",
                EMULATOR,
                (),
                None,
                False,
                "counted in an emulator (QEMU)",
                f"{title_of(name)}: firmware, its instructions and memory; when named",
                emulator.PACKAGES,
                only_named=True,
            )
            for name in PLACES
        ),
    )
}


def get_target(name: str) -> Target:
    """A target by name. Raises RecipeError for an unknown one."""
    if name not in TARGETS:
        raise RecipeError(f"a target must be one of {', '.join(TARGETS)}, got {name!r}")
    return TARGETS[name]


@dataclass(frozen=True, eq=False)
class TestSet:
    """What models are measured on: inputs as a .npy file (shared with child processes), labels, float outputs."""

    __test__ = False  # not a test for pytest to collect

    inputs: Path
    labels: NDArray[np.generic]
    float_outputs: NDArray[np.float32]
    classifies: bool
    metric: str
    scores: Callable[[NDArray[np.float32]], NDArray[np.float32]] = lambda outputs: outputs


@dataclass(frozen=True)
class Effort:
    """How latency is measured, and how many test examples emulators run."""

    threads: int = 1
    latency_runs: int = 50
    emulated_samples: int = 20


def measure(
    target: Target, run: str, clusters: int, files: dict[str, Path], tests: TestSet, effort: Effort
) -> list[Measurement]:
    """One row per file: its quality on the target's sample, its size, its latency, its agreement.

    files: model name → path, the dense file first: the others' output bytes are compared with its.
    Raises TargetError if the runtime refuses or crashes, or none of the files fits the device.
    """
    if target.runtime == VELA:
        return [
            _estimated(target, run, clusters, model, path, tests.metric)
            for model, path in files.items()
        ]
    if target.runtime == EMULATOR:
        return _emulated(target, run, clusters, files, tests, effort)
    samples = (
        len(tests.labels) if target.samples is None else min(target.samples, len(tests.labels))
    )
    rows: list[Measurement] = []
    reference: Outcome | None = None
    for model, path in files.items():
        outcome = run_file(
            Request(
                target.runtime,
                str(path),
                str(tests.inputs),
                samples,
                effort.threads,
                effort.latency_runs if target.measures_latency else 0,
            )
        )
        reference = reference or outcome
        rows.append(
            Measurement(
                run=run,
                model=model,
                clusters=clusters,
                target=target.name,
                origin=target.origin,
                metric=tests.metric,
                value=get_metric(tests.metric)(
                    tests.labels[:samples], tests.scores(outcome.outputs)
                ),
                agreement=agreement(
                    tests.scores(outcome.outputs), tests.float_outputs[:samples], tests.classifies
                ),
                mismatched_bytes=_mismatched(outcome.raw, reference.raw),
                file_bytes=path.stat().st_size,
                flash_bytes=None,
                ram_bytes=outcome.ram_bytes,
                latency_ms_median=_percentile(outcome.times_ms, 50),
                latency_ms_p95=_percentile(outcome.times_ms, 95),
                instructions=None,
                cycles_model=None,
                samples=samples,
                notes=_notes(target, path, tests, outcome, effort),
            )
        )
    return rows


def _emulated(
    target: Target, run: str, clusters: int, files: dict[str, Path], tests: TestSet, effort: Effort
) -> list[Measurement]:
    """Firmware's rows, its output bytes compared with TFLM's, or where that is not here with the dense file's firmware's."""
    samples = min(effort.emulated_samples, len(tests.labels))
    inputs = np.load(tests.inputs, mmap_mode="r", allow_pickle=False)[:samples]
    trials = {model: try_firmware(path, target.name, inputs) for model, path in files.items()}
    if all(any(trial.over) for trial in trials.values()):
        raise TargetError(
            f"{title_of(target.name)}: the device must hold the model, but "
            + "; ".join(f"{model}: {trial.verdict()}" for model, trial in trials.items())
        )
    rows = []
    for model, trial in trials.items():
        expected, whose = _expected(files[model], tests, samples)
        if expected is None:
            expected = next(iter(trials.values())).raw
        differing = differing_bytes(trial.raw, expected)
        outputs = tests.scores(trial.outputs)
        said = [f"{differing} of {expected.nbytes} output bytes differ from {whose}", trial.notes()]
        try:
            value = get_metric(tests.metric)(tests.labels[:samples], outputs)
        except DataError as error:  # auc of examples without some class
            value, said = None, [*said, f"no {tests.metric}: {error}"]
        rows.append(
            Measurement(
                run=run,
                model=model,
                clusters=clusters,
                target=target.name,
                origin=target.origin + ("" if trial.cycles is None else ", time modelled"),
                metric=tests.metric,
                value=value,
                agreement=agreement(outputs, tests.float_outputs[:samples], tests.classifies),
                mismatched_bytes=differing,
                file_bytes=files[model].stat().st_size,
                flash_bytes=trial.flash.total,
                ram_bytes=trial.ram.total,
                latency_ms_median=trial.latency_ms,
                latency_ms_p95=None,
                instructions=trial.instructions,
                cycles_model=trial.cycles,
                samples=samples,
                notes="; ".join(said),
                flash_split=trial.flash,
                ram_split=trial.ram,
                operators=trial.operators,
            )
        )
    return rows


def _expected(path: Path, tests: TestSet, samples: int) -> tuple[NDArray[Any] | None, str]:
    """TFLM's raw outputs for a file, and whose they are; None and the stand-in where TFLM cannot say."""
    absent = TARGETS["tflm"].missing()
    if absent is not None:
        return None, f"the dense file's firmware's (for TFLM's: {absent})"
    try:
        outcome = run_file(Request("tflm", str(path), str(tests.inputs), samples))
    except TargetError as error:
        return None, f"the dense file's firmware's ({error})"
    return outcome.raw, f"TFLM's ({outcome.version})"


def _estimated(
    target: Target, run: str, clusters: int, model: str, path: Path, metric: str
) -> Measurement:
    """A row without quality: the NPU computes as TFLite's reference kernels do, says its vendor, but nothing was run."""
    found = estimate(path, target.name)
    return Measurement(
        run=run,
        model=model,
        clusters=clusters,
        target=target.name,
        origin=target.origin,
        metric=metric,
        value=None,
        agreement=None,
        mismatched_bytes=None,
        file_bytes=path.stat().st_size,
        flash_bytes=found.flash_bytes,
        ram_bytes=found.sram_bytes,
        latency_ms_median=found.latency_ms,
        latency_ms_p95=None,
        instructions=None,
        cycles_model=None,
        samples=0,
        notes=found.notes(),
    )


def _mismatched(raw: NDArray[Any], reference: NDArray[Any]) -> int | None:
    """Output bytes that differ; None for float outputs, whose last bits may."""
    return None if raw.dtype.kind == "f" else differing_bytes(raw, reference)


def _percentile(times: NDArray[np.float64], percent: float) -> float | None:
    return round(float(np.percentile(times, percent)), 4) if len(times) else None


def _notes(target: Target, path: Path, tests: TestSet, outcome: Outcome, effort: Effort) -> str:
    parts = [outcome.version, platform.machine()]
    if target.runtime == "tflm":
        parts += [_agreeing(path, tests), *decode_cost(path.read_bytes()).notes()]
    if target.measures_latency:
        threads = "1 thread" if effort.threads == 1 else f"{effort.threads} threads"
        parts += [threads, f"{effort.latency_runs} runs after warm-up"]
    return ", ".join(parts)


def _agreeing(path: Path, tests: TestSet) -> str:
    """TFLM's operators beside the reference kernels'."""
    try:
        few = np.load(tests.inputs, mmap_mode="r", allow_pickle=False)[:EXAMPLES]
        return agreement_note(operator_agreement(path, few))
    except TargetError as error:
        return f"operators not compared ({error})"
