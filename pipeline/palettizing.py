"""`edgepalette palettize`: shared values for the weights of a finished .tflite, without training it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster.plan import check_clusters
from ..errors import DataError, FormatError
from ..evaluate.activations import activation_pairs
from ..evaluate.child import Request, run_file
from ..evaluate.metric import decisions
from ..evaluate.signature import format_of, signature
from ..export.cluster_tflite import ClusteredTensor, cluster_tflite
from ..export.lean import lean
from ..export.palette_tflite import Tables, TensorReport, palettize
from ..export.requantize import weights_read
from ..export.tflite_schema import read_model, write_model
from .data import load_dataset, load_inputs
from .files import write_bytes
from .progress import Progress
from .verification import Proof, named_beside, prove_palette


@dataclass(frozen=True)
class Given:
    """A data source: so many of its training inputs calibrate, at most so many of its test inputs are compared.

    Of a .npy file the first half at most calibrates.
    """

    source: str
    calibration: int
    samples: int


@dataclass(frozen=True)
class Examples:
    """Inputs as the file takes them, (N, …): some to calibrate by, others to compare decisions on."""

    calibration: NDArray[np.float32]
    comparison: NDArray[np.float32]


@dataclass(frozen=True)
class Palettized:
    """A palette file and what it was made of.

    tensors: a row per weight. calibration: inputs it was calibrated by. agreement: part of `samples` other inputs for
    which it decides as the file it was made of; None without inputs.
    """

    file: Path
    file_bytes: int
    palette_bytes: int
    tensors: list[dict[str, Any]]
    proof: Proof
    calibration: int
    agreement: float | None
    samples: int


def palettize_file(
    path: Path,
    clusters: int,
    tables: Tables,
    given: Given | None,
    out: Path | None,
    progress: Progress,
) -> Palettized:
    """Write the palette form of an int8 or float .tflite, as NAME-palette beside it if `out` is None.

    Raises FormatError for a file that is damaged or of another format, DataError for inputs of another shape, ExportError if a runtime gives other outputs for
    the palette than for its dense form, TargetError if no runtime here runs the file to calibrate it.
    """
    if format_of(path) != "tflite":
        raise FormatError(f"palettize reads a .tflite file, got {path}")
    out = named_beside(path, "palette", out)
    check_clusters(clusters)
    original = path.read_bytes()
    read = read_model(original)
    examples = None if given is None else _examples(path, given)
    calibration = (
        examples.calibration if examples is not None and len(examples.calibration) else None
    )
    observe = None if calibration is None else partial(activation_pairs, inputs=calibration)
    with progress.bar("weights", len(weights_read(read))) as bar:
        model, clustered = cluster_tflite(read, clusters, observe, bar.advance)
    dense = lean(model)
    made = palettize(dense, tables)
    inputs = None if examples is None else examples.comparison
    proof = prove_palette(made.data, write_model(dense), "tflite", inputs)
    agreement = None if inputs is None else _agreement(original, made.data, inputs)
    write_bytes(out, made.data)
    return Palettized(
        out,
        len(original),
        len(made.data),
        [_row(entry, made.tensors) for entry in clustered],
        proof,
        0 if calibration is None else len(calibration),
        agreement,
        0 if inputs is None else len(inputs),
    )


def _examples(path: Path, given: Given) -> Examples:
    if given.source.endswith(".npy"):
        whole = load_inputs(given.source)
        cut = min(given.calibration, len(whole) // 2)
        parts = whole[:cut], whole[cut : cut + given.samples]
    else:
        data = load_dataset(given.source)
        compared = np.asarray(data.x_test[: given.samples], np.float32)
        parts = data.examples(given.calibration, 0), compared
    ports = signature(path).inputs
    found = parts[1].shape
    if len(ports) != 1 or int(np.prod(found[1:])) != int(np.prod(ports[0].shape)):
        taken = " and ".join(str(port.shape) for port in ports)
        raise DataError(
            f"{given.source} must hold inputs for a model that takes {taken}, got {found}"
        )
    first, second = (part.reshape(-1, *ports[0].shape[1:]) for part in parts)
    return Examples(first, second)


def _agreement(original: bytes, palette: bytes, inputs: NDArray[np.float32]) -> float:
    """Part of the inputs both files decide alike, on the first TFLite runtime."""
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as folder:
        given = Path(folder, "x.npy")
        np.save(given, inputs)
        decided = []
        for name, data in (("original", original), ("palette", palette)):
            file = Path(folder, f"{name}.tflite")
            file.write_bytes(data)
            outcome = run_file(Request("tflite", str(file), str(given), len(inputs)))
            decided.append(decisions(outcome.outputs))
    return float(np.mean(decided[0] == decided[1]))


def _row(entry: ClusteredTensor, stored: tuple[TensorReport, ...]) -> dict[str, Any]:
    found = next((report for report in stored if report.tensor == entry.tensor), None)
    return {
        "name": entry.name or f"tensor {entry.tensor}",
        "shape": list(entry.shape),
        "values": entry.before,
        "shared": entry.after,
        "error": round(entry.error, 4),
        "bits": None if found is None else found.bits,
        "bytes": None if found is None else found.stored_bytes,
        "why": _why(entry, found),
    }


def _why(entry: ClusteredTensor, stored: TensorReport | None) -> str:
    """What a reader of the table should know of a weight."""
    parts = [entry.reason, entry.nearest and f"nearest values, for {entry.nearest}"]
    parts.append("" if stored is None else stored.reason)
    return "; ".join(part for part in parts if part)
