"""`edgepalette palettize`: shared values for the weights of a finished .tflite, without training it."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster.plan import check_clusters
from ..errors import DataError, FormatError
from ..evaluate.child import Request, run_file
from ..evaluate.metric import decisions
from ..evaluate.signature import format_of, signature
from ..export.cluster_tflite import ClusteredTensor, cluster_tflite
from ..export.lean import lean
from ..export.palette_tflite import Tables, TensorReport, palettize
from ..export.tflite_schema import read_model, write_model
from .data import load_inputs
from .files import write_bytes
from .verification import Proof, named_beside, prove_palette


@dataclass(frozen=True)
class Palettized:
    """A palette file and what it was made of.

    tensors: a row per weight. agreement: part of `samples` inputs for which it decides as the file it was made of; None
    without inputs.
    """

    file: Path
    file_bytes: int
    palette_bytes: int
    tensors: list[dict[str, Any]]
    proof: Proof
    agreement: float | None
    samples: int


def palettize_file(
    path: Path, clusters: int, tables: Tables, data: str | None, samples: int, out: Path | None
) -> Palettized:
    """Write the palette form of an int8 or float .tflite, as NAME-palette beside it if `out` is None.

    data: inputs to compare decisions on. Raises FormatError for a file that is damaged or of another format, DataError
    for inputs of another shape, ExportError if a runtime gives other outputs for the palette than for its dense form.
    """
    if format_of(path) != "tflite":
        raise FormatError(f"palettize reads a .tflite file, got {path}")
    out = named_beside(path, "palette", out)
    check_clusters(clusters)
    original = path.read_bytes()
    inputs = None if data is None else _inputs(path, data, samples)
    model, clustered = cluster_tflite(read_model(original), clusters)
    dense = lean(model)
    made = palettize(dense, tables)
    proof = prove_palette(made.data, write_model(dense), "tflite", inputs)
    agreement = None if inputs is None else _agreement(original, made.data, inputs)
    write_bytes(out, made.data)
    rows = [_row(entry, made.tensors) for entry in clustered]
    count = 0 if inputs is None else len(inputs)
    return Palettized(out, len(original), len(made.data), rows, proof, agreement, count)


def _inputs(path: Path, data: str, samples: int) -> NDArray[np.float32]:
    found = load_inputs(data)[:samples]
    ports = signature(path).inputs
    if len(ports) != 1 or int(np.prod(found.shape[1:])) != int(np.prod(ports[0].shape)):
        taken = " and ".join(str(port.shape) for port in ports)
        raise DataError(
            f"{data} must hold inputs for a model that takes {taken}, got {found.shape}"
        )
    return found.reshape(-1, *ports[0].shape[1:])


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
        "why": entry.reason or ("" if found is None else found.reason),
    }
