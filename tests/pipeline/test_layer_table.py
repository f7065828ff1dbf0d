"""LAYERS.md: what becomes of every layer type, made here from real models. EDGEPALETTE_WRITE=1 writes it anew."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edgepalette.cluster.model import cluster_weights, strip_clustering
from edgepalette.cluster.plan import ClusterPlan
from edgepalette.errors import ExportError
from edgepalette.export.clustered import clustered_weights
from edgepalette.export.onnx_palette import export_onnx
from edgepalette.export.tflite import export_tflite

TABLE = Path(__file__).parents[2] / "LAYERS.md"
HEAD = """# Layer types

Made by `tests/pipeline/test_layer_table.py`: a small model of each type is clustered to 8 values, trained for a few
steps, stripped, saved, loaded by plain Keras and exported. "palette" means that all its clustered weights lie in the
file as palettes; otherwise the cell says how many do, and why the others stay dense. Every weight of a layer not listed
here is left alone and named, but for those of your own layers, which are clustered if they have two dimensions or more.
Recurrent layers are unrolled here (`unroll=True`, as int8 and firmware want them): as a loop, a .tflite has their weights in
a subgraph, where they stay dense.

| layer | clustered weights | strips, saves, loads | .tflite, int8 | .onnx |
|---|---|---|---|---|
"""


class Mixing(layers.Layer):
    """A user's layer with a weight of its own."""

    def build(self, input_shape: tuple[int, ...]) -> None:
        self.matrix = self.add_weight(shape=(input_shape[-1], 32), name="matrix")

    def call(self, inputs: Any) -> Any:
        return keras.ops.matmul(inputs, self.matrix)


def attention(inputs: Any) -> Any:
    return layers.MultiHeadAttention(2, 16)(inputs, inputs)


ROW, PICTURE, VOLUME = (24, 16), (10, 10, 16), (6, 6, 6, 12)
CASES: dict[str, tuple[tuple[int, ...], Callable[[Any], Any]]] = {
    "Dense": ((64,), layers.Dense(48)),
    "EinsumDense": (ROW, layers.EinsumDense("abc,cd->abd", output_shape=(24, 48))),
    "Embedding": ((12,), layers.Embedding(60, 16)),
    "Conv1D": (ROW, layers.Conv1D(24, 3)),
    "Conv2D": (PICTURE, layers.Conv2D(16, 3)),
    "Conv2D, grouped": (PICTURE, layers.Conv2D(32, 3, groups=2)),
    "Conv3D": (VOLUME, layers.Conv3D(12, 3)),
    "Conv1DTranspose": (ROW, layers.Conv1DTranspose(24, 3)),
    "Conv2DTranspose": (PICTURE, layers.Conv2DTranspose(16, 3)),
    "Conv3DTranspose": (VOLUME, layers.Conv3DTranspose(12, 3)),
    "DepthwiseConv1D": ((24, 128), layers.DepthwiseConv1D(5)),
    "DepthwiseConv2D": ((10, 10, 96), layers.DepthwiseConv2D(3)),
    "SeparableConv1D": ((24, 96), layers.SeparableConv1D(24, 5)),
    "SeparableConv2D": ((10, 10, 96), layers.SeparableConv2D(24, 3)),
    "SimpleRNN": (ROW, layers.SimpleRNN(32, unroll=True)),
    "LSTM": (ROW, layers.LSTM(16, unroll=True)),
    "GRU": (ROW, layers.GRU(16, unroll=True)),
    "Bidirectional": (ROW, layers.Bidirectional(layers.LSTM(16, unroll=True))),
    "ConvLSTM2D": ((3, 8, 8, 4), layers.ConvLSTM2D(6, 3)),
    "MultiHeadAttention": (ROW, attention),
    "a layer of your own": ((64,), Mixing()),
}


def model_of(name: str) -> Any:
    shape, layer = CASES[name]
    keras.utils.set_random_seed(1)
    inputs = keras.Input(shape, dtype="int32" if name == "Embedding" else None)
    return keras.Model(inputs, layers.Flatten()(layer(inputs)))


def examples(name: str, count: int) -> Any:
    random = np.random.default_rng(0)
    shape = (count, *CASES[name][0])
    if name == "Embedding":
        return random.integers(0, 60, shape).astype(np.int32)
    return random.normal(size=shape).astype(np.float32)


def row_of(name: str, folder: Path) -> str:
    model = model_of(name)
    x = examples(name, 16)
    model.compile(keras.optimizers.Adam(1e-3), "mse", jit_compile=False)
    cluster_weights(model, ClusterPlan.of(model, 8))
    variables = model.optimizer.clustered_variables
    before = [v.kernel.numpy() for v in variables]
    model.fit(x, np.ones((16, model.output_shape[-1])), batch_size=8, verbose=0)
    for variable, kernel in zip(variables, before, strict=True):
        assert (variable.kernel.numpy() != kernel).any(), f"{variable.kernel.path} must train"
        assert len(np.unique(variable.kernel.numpy())) <= variable.centroids.shape[-1]
    names = sorted({variable.kernel.name for variable in variables})
    strip_clustering(model)
    model.save(folder / "m.keras")
    loaded = keras.models.load_model(
        folder / "m.keras", custom_objects={"Mixing": Mixing}, compile=False
    )
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))
    weights = clustered_weights(loaded)
    assert len(weights) == len(variables)
    cells = [
        name,
        ", ".join(names),
        "yes",
        tflite_cell(loaded, x, weights),
        onnx_cell(loaded, weights),
    ]
    return f"| {' | '.join(cells)} |"


def tflite_cell(model: Any, x: Any, weights: Any) -> str:
    if x.dtype == np.int32:
        return "integer inputs are not exported"
    try:
        files = export_tflite(model, weights, x)
    except ExportError as error:
        return f"refused: {str(error).splitlines()[0][:60]}"
    names = {weight.name for weight in weights}
    reasons = [fallback.reason for fallback in files.fallbacks if fallback.name in names]
    return encodings(files.tensors, len(weights), reasons)


def onnx_cell(model: Any, weights: Any) -> str:
    try:
        files = export_onnx(model, weights)
    except ExportError as error:
        return f"refused: {str(error).splitlines()[0][:60]}"
    reasons = [report.reason for report in files.initializers if report.encoding == "dense"]
    return encodings(files.initializers, len(weights), reasons)


def encodings(reports: Any, clustered: int, reasons: list[str]) -> str:
    palettes = sum(report.encoding != "dense" for report in reports)
    if palettes >= clustered:
        return "palette"
    # the reasons of those that are not, without the tensors' own numbers
    return f"{palettes} of {clustered} palettes: {'; '.join(sorted(set(reasons)))}"


def written() -> dict[str, str]:
    rows = TABLE.read_text().splitlines() if TABLE.exists() else []
    return {row.split("|")[1].strip(): row for row in rows if row.startswith("| ")}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CASES))
def test_a_layers_row_is_what_happens(name: str, tmp_path: Path) -> None:
    keras.utils.clear_session()
    row = row_of(name, tmp_path)
    if os.environ.get("EDGEPALETTE_WRITE"):
        rows = {**written(), name: row}
        TABLE.write_text(HEAD + "\n".join(rows[case] for case in CASES if case in rows) + "\n")
    assert written()[name] == row


def test_the_table_has_a_row_of_every_case_and_its_head() -> None:
    assert TABLE.read_text().startswith(HEAD)
    assert list(written())[1:] == list(CASES)
