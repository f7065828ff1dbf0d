"""A clustered Keras model as int8 .tflite: the lean dense file and the palette file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ExportError
from .averages import averages_as_means
from .clustered import ClusteredWeight
from .convert import batch_one, convert_float, convert_int8
from .lean import lean
from .loader import expand
from .palette_tflite import PaletteFile, Tables, TensorReport, palettize
from .requantize import Fallback, Requantized, requantize
from .tflite_schema import Model, constant, read_model, write_model


@dataclass(frozen=True, eq=False)
class TfliteFiles:
    """The files of one model.

    stock: what TensorFlow's converter writes. dense: lean, with the palettes' values. palette: the same in DECODE form.
    requantized, fallbacks, tensors: what became of each weight. means: layers whose averages became MEAN.
    """

    stock: bytes
    dense: bytes
    palette: bytes
    requantized: tuple[Requantized, ...]
    fallbacks: tuple[Fallback, ...]
    tensors: tuple[TensorReport, ...]
    means: tuple[str, ...]


def export_tflite(
    model: Any,
    weights: Sequence[ClusteredWeight],
    samples: NDArray[np.float32],
    tables: Tables = Tables.SHARED,
    float_file: bytes | None = None,
    means: bool = True,
) -> TfliteFiles:
    """Convert, keep the palettes, write lean.

    model: a Keras model. weights: its clustered weights. samples: (N, …) inputs like those it will see.
    float_file: what `convert_float` gives for the model, if it is at hand. means: averages of whole maps become MEAN.
    Raises ExportError for a model that has no int8 TFLite form.
    """
    fixed = batch_one(model)
    with averages_as_means(fixed, means) as averaged:
        stock = convert_int8(fixed, samples)
    floats = read_model(float_file or convert_float(fixed))
    work = requantize(read_model(stock), floats, weights)
    dense = lean(work.model)
    file = palettize(dense, tables)
    _check_expansion(file, dense)
    return TfliteFiles(
        stock=stock,
        dense=write_model(dense),
        palette=file.data,
        requantized=work.done,
        fallbacks=work.fallbacks,
        tensors=file.tensors,
        means=tuple(averaged),
    )


def _check_expansion(file: PaletteFile, dense: Model) -> None:
    """The palette file must expand to the dense file's own tensors: nothing leaves this module unproved."""
    expanded = read_model(expand(file.data))
    for ours, theirs in zip(dense.subgraphs[0].tensors, expanded.subgraphs[0].tensors, strict=True):
        a, b = constant(dense, ours), constant(expanded, theirs)
        if (a is None) != (b is None) or not (a is None or b is None or np.array_equal(a, b)):
            raise ExportError(
                "the palette file does not expand to the dense file's weights; this is a fault of edgepalette, "
                "please report it with the model"
            )
