"""`edgepalette palettize`: shared values for the weights of a finished .tflite or .onnx, without training it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..cluster.plan import check_clusters
from ..errors import DataError, FormatError, RecipeError
from ..evaluate.activations import activation_pairs, onnx_activation_pairs
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

if TYPE_CHECKING:
    from ..export.onnx_palette import InitializerReport


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
    """Write the palette form of an int8 or float .tflite or .onnx, as NAME-palette beside it if `out` is None.

    Raises FormatError for a file that is damaged or of another format, DataError for inputs of another shape, ExportError if a runtime gives other outputs for
    the palette than for its dense form, TargetError if no runtime here runs the file to calibrate it.
    """
    form = format_of(path)
    out = named_beside(path, "palette", out)
    check_clusters(clusters)
    original = path.read_bytes()
    examples = None if given is None else _examples(path, given)
    calibration = (
        None if examples is None or not len(examples.calibration) else examples.calibration
    )
    if form == "tflite":
        palette, dense, rows = _tflite(original, clusters, tables, calibration, progress)
    else:
        palette, dense, rows = _onnx(path, original, clusters, tables, calibration, progress)
    inputs = None if examples is None else examples.comparison
    proof = prove_palette(palette, dense, form, inputs)
    agreement = None if inputs is None else _agreement(form, original, palette, inputs)
    write_bytes(out, palette)
    counts = [0 if part is None else len(part) for part in (calibration, inputs)]
    return Palettized(
        out, len(original), len(palette), rows, proof, counts[0], agreement, counts[1]
    )


def _tflite(
    original: bytes,
    clusters: int,
    tables: Tables,
    calibration: NDArray[np.float32] | None,
    progress: Progress,
) -> tuple[bytes, bytes, list[dict[str, Any]]]:
    """Palette file, dense file, a row per weight."""
    read = read_model(original)
    observe = None if calibration is None else partial(activation_pairs, inputs=calibration)
    with progress.bar("weights", len(weights_read(read))) as bar:
        model, clustered = cluster_tflite(read, clusters, observe, bar.advance)
    dense = lean(model)
    made = palettize(dense, tables)
    stored = {report.tensor: report for report in made.tensors}
    rows = [_row(entry, stored.get(entry.tensor)) for entry in clustered]
    return made.data, write_model(dense), rows


def _onnx(
    path: Path,
    original: bytes,
    clusters: int,
    tables: Tables,
    calibration: NDArray[np.float32] | None,
    progress: Progress,
) -> tuple[bytes, bytes, list[dict[str, Any]]]:
    """Palette file, dense file, a row per weight."""
    from ..export.cluster_onnx import cluster_onnx, constant_weights
    from ..export.onnx_palette import is_matrix, palettize_onnx

    if tables is not Tables.SHARED:
        raise RecipeError("--tables per-channel is for .tflite files, got an .onnx; leave it out")
    observe = None
    if calibration is not None:
        (entry,) = signature(path).inputs
        observe = partial(onnx_activation_pairs, inputs=calibration, entry=entry)
    total = sum(map(is_matrix, constant_weights(original).graph.initializer))
    with progress.bar("weights", total) as bar:
        model, clustered = cluster_onnx(original, clusters, observe, bar.advance)
    if not clustered:
        raise FormatError(
            f"palettize needs a file with constant weights, got {path}, which has none; a palette file is made plain by "
            "edgepalette expand"
        )
    made = palettize_onnx(model)
    stored = {report.name: report for report in made.initializers}
    return made.palette, made.dense, [_row(entry, stored.get(entry.name)) for entry in clustered]


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


def _agreement(form: str, original: bytes, palette: bytes, inputs: NDArray[np.float32]) -> float:
    """Part of the inputs both files decide alike, on the format's first runtime."""
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as folder:
        given = Path(folder, "x.npy")
        np.save(given, inputs)
        decided = []
        for name, data in (("original", original), ("palette", palette)):
            file = Path(folder, f"{name}.{form}")
            file.write_bytes(data)
            outcome = run_file(Request(form, str(file), str(given), len(inputs)))
            decided.append(decisions(outcome.outputs))
    return float(np.mean(decided[0] == decided[1]))


def _row(entry: ClusteredTensor, found: TensorReport | InitializerReport | None) -> dict[str, Any]:
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


def _why(entry: ClusteredTensor, stored: TensorReport | InitializerReport | None) -> str:
    """What a reader of the table should know of a weight."""
    parts = [entry.reason, entry.nearest and f"nearest values, for {entry.nearest}"]
    parts.append("" if stored is None else stored.reason)
    return "; ".join(part for part in parts if part)
