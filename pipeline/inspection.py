"""What a file holds: tensors, distinct values, bits and bytes, and what its bytes are for."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster.palette import MAX_CLUSTERS, index_width
from ..errors import FormatError
from ..export.entropy import packed_bound, shannon_bound
from ..export.loader import expand, unpack_codes
from ..export.share import Part, Share
from ..export.tflite_bytes import account_tflite, decoded_tensors, tensor_name
from ..export.tflite_schema import TensorType, constant, read_model
from .codebook import Codebook

Rows = list[dict[str, Any]]
# signs of a whole file's bar in the terminal
BAR = 40


def inspect_file(path: Path) -> dict[str, Any]:
    """Tensors of a .keras, .h5, .tflite or .onnx file or a SavedModel, and the shares of its bytes, as plain values.

    Raises FormatError for anything else, ModelError for a Keras file that cannot be loaded.
    """
    from .keras2 import is_saved_model

    readers: dict[str, Callable[[Path], tuple[Rows, tuple[Share, ...]]]] = {
        ".tflite": _tflite,
        ".onnx": _onnx,
        ".keras": _keras,
        ".h5": _keras,
    }
    saved = is_saved_model(path)
    reader = _saved_model if saved else readers.get(path.suffix)
    if reader is None or not (saved or path.is_file()):
        raise FormatError(
            f"inspect reads a {', '.join(readers)} file or a SavedModel's folder, got {path}"
            + ("" if path.is_file() else ", which is no file")
        )
    size = sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())  # fmt: skip
    tensors, shares = reader(path)
    if not shares:
        shares = _keras_shares(tensors, size)
    bounds = [row["shannon_bound"] for row in tensors]
    return {
        "file": str(path),
        "file_bytes": size,
        "weight_bytes": sum(row["bytes"] for row in tensors),
        "palettes": sum(row["stored"] == "palette" for row in tensors),
        "packed_bound": sum(row["packed_bound"] for row in tensors),
        "shannon_bound": None if None in bounds else sum(bounds),
        "tensors": tensors,
        "shares": [
            {"part": share.part.value, "tensor": share.tensor, "bytes": share.size}
            for share in shares
        ],
    }


def renamed(found: dict[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """What was found, without its path, its weights by other names where there are such."""
    tensors = [{**row, "name": names.get(row["name"], row["name"])} for row in found["tensors"]]
    shares = [{**s, "tensor": names.get(s["tensor"], s["tensor"])} for s in found["shares"]]
    return {**found, "file": Path(found["file"]).name, "tensors": tensors, "shares": shares}


def parts_of(shares: Iterable[dict[str, Any]]) -> dict[str, int]:
    """Bytes by part, in the order of the shares."""
    sizes: dict[str, int] = defaultdict(int)
    for share in shares:
        sizes[share["part"]] += share["bytes"]
    return dict(sizes)


def part_rows(found: dict[str, Any]) -> Rows:
    """What a file's bytes are for, as a table with bars, largest first."""
    sizes = sorted(parts_of(found["shares"]).items(), key=lambda part: -part[1])
    total = found["file_bytes"] or 1
    return [
        {"part": part, "bytes": size, "percent": round(100 * size / total, 1), "": "█" * round(BAR * size / total)}
        for part, size in sizes
    ]  # fmt: skip


def said_of_bounds(found: dict[str, Any]) -> str:
    """Both bounds of all weights in a phrase."""
    shannon = found["shannon_bound"]
    told = "" if shannon is None else f", {shannon} B by Shannon's bound"
    return f"an index for each weight takes {found['packed_bound']} B packed{told}"


def _row(
    name: str,
    values: NDArray[Any],
    kind: str,
    stored: str,
    size: int,
    bits: int | None = None,
    codes: NDArray[Any] | None = None,
) -> dict[str, Any]:
    """A weight. bits, codes: of its indices; None where the values themselves are stored.

    packed_bound, shannon_bound: bytes of its indices; of what an index for each of its values would take where it has
    none, if 256 values are enough.
    """
    book = Codebook.of(values)
    few = codes is not None or len(book.values) <= MAX_CLUSTERS
    width = bits or (index_width(len(book.values)) if few else 8 * values.itemsize)
    return {
        "name": name,
        "shape": list(values.shape),
        "type": kind,
        "values": len(book.values),
        "stored": stored,
        "bits": bits or 8 * values.itemsize,
        "bytes": size,
        "packed_bound": packed_bound(values.size, width),
        "shannon_bound": shannon_bound(values if codes is None else codes) if few else None,
        "codebook": book.to_json() if bits and len(book.values) <= MAX_CLUSTERS else None,
    }


def _tflite(path: Path) -> tuple[Rows, tuple[Share, ...]]:
    data = path.read_bytes()
    model = read_model(data)
    palettes = decoded_tensors(model)
    plain = read_model(expand(data))
    rows = []
    for number, graph in enumerate(plain.subgraphs):
        for index, tensor in enumerate(graph.tensors):
            values = constant(plain, tensor)
            if values is None or len(tensor.dims) < 2:
                continue
            name, kind = tensor_name(plain, number, index), TensorType(tensor.type).name
            found = palettes.get((number, index))
            if found is None:
                rows.append(_row(name, values, kind, "dense", values.nbytes))
                continue
            codes = unpack_codes(found.packed, found.record.bits, prod(tensor.dims))
            rows.append(_row(name, values, kind, "palette", found.size, found.record.bits, codes))
    return rows, account_tflite(data)


def _onnx(path: Path) -> tuple[Rows, tuple[Share, ...]]:
    import onnx

    from ..export.onnx_bytes import account_onnx, dense_initializers, onnx_palettes
    from ..export.onnx_file import read_onnx, tensor_values

    length = path.stat().st_size
    model = read_onnx(path.read_bytes(), path)
    palettes = onnx_palettes(model, length)
    shares = account_onnx(model, length, palettes)
    rows = []
    for name, palette in palettes.items():
        size = sum(share.size for share in shares if share.tensor == name)
        kind, bits = str(palette.values.dtype).upper(), index_width(palette.entries)
        rows.append(_row(name, palette.values, kind, "palette", size, bits, palette.codes))
    for initializer in dense_initializers(model, palettes):
        values = tensor_values(initializer)
        kind = onnx.TensorProto.DataType.Name(initializer.data_type)
        rows.append(_row(initializer.name, values, kind, "dense", values.nbytes))
    return rows, shares


def _keras(path: Path) -> tuple[Rows, tuple[Share, ...]]:
    from ..cluster.weights import layer_weights
    from .models import load_model

    weights = layer_weights(load_model(str(path)))
    return _shared_rows((weight.name, weight.variable.numpy()) for weight in weights), ()


def _saved_model(path: Path) -> tuple[Rows, tuple[Share, ...]]:
    from .keras2 import saved_variables

    return _shared_rows(saved_variables(path)), ()


def _shared_rows(weights: Iterable[tuple[str, NDArray[Any]]]) -> Rows:
    """Weights that are stored as they are, whether they share values or not."""
    rows = []
    for name, values in weights:
        if values.ndim < 2:
            continue
        distinct = len(np.unique(values))
        shared = distinct <= MAX_CLUSTERS and 2 * distinct <= values.size
        bits = index_width(distinct) if shared else None
        stored = "shared values" if shared else "dense"
        rows.append(_row(name, values, str(values.dtype).upper(), stored, values.nbytes, bits))
    return rows


def _keras_shares(rows: Rows, size: int) -> tuple[Share, ...]:
    """Weights, and the rest."""
    weights = tuple(Share(Part.DENSE, row["name"], row["bytes"]) for row in rows)
    return (*weights, Share(Part.STRUCTURE, "", size - sum(share.size for share in weights)))
