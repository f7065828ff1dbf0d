"""Whether two files compute the same: both run on every runtime that can, on the same inputs, compared byte for byte."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, FormatError, TargetError
from .process import ask
from .signature import Port, Signature, format_of, signature
from .target import TARGETS

RANDOM_SAMPLES = 16


@dataclass(frozen=True)
class Engine:
    """A way to run files of one format. target: the one of TARGETS whose runtime it is."""

    name: str
    target: str
    options: Mapping[str, Any] = field(default_factory=dict)


ENGINES = (
    Engine("tflite, default kernels", "host-tflite"),
    Engine("tflite, reference kernels", "host-tflite", {"resolver": "BUILTIN_REF"}),
    Engine("TFLM", "tflm"),
    Engine("ONNX Runtime", "host-onnx"),
)


@dataclass(frozen=True)
class Check:
    """One runtime's verdict on two files.

    samples: inputs run. differing: bytes of outputs that differ, of `compared`; None across formats, whose numbers
    differ in type. largest: difference of any two outputs as real numbers, infinite if one is no number where the
    other is. same: whether that is within the tolerance, or no byte differs without one; False if the runtime runs one
    of the files only; None if it can run neither. `note` says why, or the runtime's version.
    """

    engine: str
    samples: int
    compared: int
    differing: int | None
    largest: float
    same: bool | None
    note: str

    def to_json(self) -> dict[str, Any]:
        """For --json and tables."""
        return {
            "runtime": self.engine,
            "samples": self.samples,
            "bytes": self.compared,
            "differing": self.differing,
            "largest_difference": self.largest if math.isfinite(self.largest) else None,
            "same": self.same,
            "note": self.note,
        }


def compare_files(
    first: Path,
    second: Path,
    real_inputs: NDArray[np.float32] | None = None,
    samples: int = RANDOM_SAMPLES,
    seed: int = 0,
    tolerance: float | None = None,
) -> list[Check]:
    """A check for every runtime here that runs the files' formats.

    real_inputs: (N, …) examples beside `samples` random ones, for models of one input. tolerance: the largest
    difference of two outputs, as real numbers; None asks for equal bytes.
    Raises FormatError for files that are damaged or take other inputs, or of two formats without a tolerance; DataError
    for inputs of another shape; TargetError if no runtime is installed, or none runs a file.
    """
    formats = format_of(first), format_of(second)
    if formats[0] != formats[1] and tolerance is None:
        raise FormatError(
            f"files of two formats must be compared with a tolerance, got {formats[0]} and {formats[1]} without one"
        )
    signatures = signature(first), signature(second)
    _check_alike(*signatures)
    # where one file takes quantized numbers, both get those
    ports = [
        theirs if theirs.is_quantized and not ours.is_quantized else ours
        for ours, theirs in zip(signatures[0].inputs, signatures[1].inputs, strict=True)
    ]
    inputs = [
        _examples(port, real_inputs, samples, np.random.default_rng([seed, place]))
        for place, port in enumerate(ports)
    ]
    if real_inputs is not None and len(inputs) > 1:
        raise DataError(
            f"inputs can be given to a model of one input, got a model of {len(inputs)}"
        )
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as folder:
        files = []
        for number, (path, taken) in enumerate(zip((first, second), signatures, strict=True)):
            given = Path(folder, f"{number}.npz")
            np.savez(given, **_given(inputs, ports, taken))
            files.append([str(path), str(given)])
        if formats[0] == formats[1]:
            checks = [_check(e, files, signatures, tolerance) for e in _installed(formats[0])]
        else:
            checks = [_across(files, formats, signatures, tolerance or 0.0)]
    if all(check.same is None for check in checks):
        raise TargetError(
            "a runtime must run the files, but none does: "
            + "; ".join(f"{check.engine}: {check.note}" for check in checks)
        )
    return checks


def _check_alike(first: Signature, second: Signature) -> None:
    for what, ours, theirs in (
        ("inputs", first.inputs, second.inputs),
        ("outputs", first.outputs, second.outputs),
    ):
        shapes = [[port.shape for port in ports] for ports in (ours, theirs)]
        if shapes[0] != shapes[1]:
            raise FormatError(
                f"both files must have the same {what}, got shapes {shapes[0]} and {shapes[1]}"
            )


def _examples(
    port: Port, real: NDArray[np.float32] | None, samples: int, generator: np.random.Generator
) -> NDArray[Any]:
    """(N, …) raw values: random ones, then those given."""
    random = port.random(samples, generator)
    if real is None:
        return random
    if int(np.prod(real.shape[1:])) != int(np.prod(port.shape)):
        raise DataError(
            f"inputs must have shape (N, {', '.join(map(str, port.shape[1:]))}), got {real.shape}"
        )
    return np.concatenate([random, port.raw(real.reshape(-1, *port.shape))])


def _given(
    inputs: list[NDArray[Any]], ports: list[Port], taken: Signature
) -> dict[str, NDArray[Any]]:
    """Inputs as `taken` takes them: the same bytes where types agree, the same real numbers elsewhere."""
    return {
        f"x{place}": values if _alike(port, own) else own.raw(port.real(values))
        for place, (values, port, own) in enumerate(zip(inputs, ports, taken.inputs, strict=True))
    }


def _alike(ours: Port, theirs: Port) -> bool:
    return (ours.dtype, ours.scale, ours.zero_point) == (
        theirs.dtype,
        theirs.scale,
        theirs.zero_point,
    )


def _installed(form: str) -> list[Engine]:
    of_format = [engine for engine in ENGINES if TARGETS[engine.target].format == form]
    found = [engine for engine in of_format if TARGETS[engine.target].missing() is None]
    if not found:
        installs = " or ".join(str(TARGETS[engine.target].missing()) for engine in of_format)
        raise TargetError(f"a runtime for {form} files must be installed, got none; {installs}")
    return found


def _run(engine: Engine, files: list[list[str]], outputs: int) -> dict[str, NDArray[Any]]:
    runtime = TARGETS[engine.target].runtime
    question = {
        "runtime": runtime,
        "options": dict(engine.options),
        "files": files,
        "outputs": outputs,
    }
    return ask("pair_child", question, engine.name, files[0][0])


def _check(
    engine: Engine,
    files: list[list[str]],
    signatures: tuple[Signature, Signature],
    tolerance: float | None,
) -> Check:
    """Both files on one runtime."""
    outputs = len(signatures[0].outputs)
    try:
        answer = _run(engine, files, outputs)
    except TargetError as error:
        same = False if any(_runs(engine, file, outputs) for file in files) else None
        return Check(engine.name, 0, 0, None, 0.0 if same is None else math.inf, same, str(error))
    pairs = [(answer[f"f0y{place}"], answer[f"f1y{place}"]) for place in range(outputs)]
    return _verdict(engine.name, pairs, signatures, tolerance, str(answer["version"]))


def _runs(engine: Engine, file: list[str], outputs: int) -> bool:
    try:
        _run(engine, [file], outputs)
    except TargetError:
        return False
    return True


def _across(
    files: list[list[str]],
    formats: tuple[str, str],
    signatures: tuple[Signature, Signature],
    tolerance: float,
) -> Check:
    """Each file on its format's first runtime."""
    engines = [_installed(form)[0] for form in formats]
    outputs = len(signatures[0].outputs)
    answers = [_run(engine, [file], outputs) for engine, file in zip(engines, files, strict=True)]
    pairs = [tuple(answer[f"f0y{place}"] for answer in answers) for place in range(outputs)]
    names, versions = (" and ".join(part) for part in ([e.name for e in engines], [str(a["version"]) for a in answers]))  # fmt: skip
    return _verdict(names, pairs, signatures, tolerance, versions)


def _verdict(
    name: str,
    pairs: list[Any],
    signatures: tuple[Signature, Signature],
    tolerance: float | None,
    version: str,
) -> Check:
    largest, differing, compared, same_types = 0.0, 0, 0, True
    for place, (ours, theirs) in enumerate(pairs):
        ports = [taken.outputs[place] for taken in signatures]
        compared += ours.nbytes
        same_types &= _alike(*ports) and ours.shape == theirs.shape
        if same_types:
            differing += int(np.sum(_bytes(ours) != _bytes(theirs)))
        largest = max(largest, _distance(ports[0].real(ours), ports[1].real(theirs)))
    same = largest <= tolerance if tolerance is not None else same_types and not differing
    return Check(
        name, len(pairs[0][0]), compared, differing if same_types else None, largest, same, version
    )


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)


def _distance(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """The largest difference; infinite if one is no number where the other is."""
    ours, theirs = ours.reshape(-1), theirs.reshape(-1)
    equal = np.isnan(ours) & np.isnan(theirs) | (ours == theirs)
    if equal.all():
        return 0.0
    found = np.abs(ours - theirs)[~equal]
    return float("inf") if np.isnan(found).any() else float(found.max())
