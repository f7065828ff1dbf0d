"""Lean files: smaller, and the same computation to the bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgepalette.evaluate.child import Outcome
from edgepalette.export.lean import lean
from edgepalette.export.tflite import TfliteFiles
from edgepalette.export.tflite_schema import read_model, write_model

Exported = Callable[[str, int], TfliteFiles]
Run = Callable[..., Outcome]


@pytest.fixture(params=["small", "recurrent", "kernels"])
def pair(request: pytest.FixtureRequest, exported: Exported) -> tuple[str, bytes, bytes]:
    """(model's name, the converter's file, the same one lean)."""
    stock = exported(request.param, 16).stock
    return request.param, stock, write_model(lean(read_model(stock)))


def test_a_lean_file_gives_the_stock_files_bits(
    pair: tuple[str, bytes, bytes],
    run: Run,
    clustered: Callable[[str, int], Any],
    inputs: Callable[[Any], NDArray[np.float32]],
) -> None:
    name, stock, slim = pair
    samples = inputs(clustered(name, 16))[:8]
    outputs = [run(file, samples, "tflite", resolver="BUILTIN_REF").raw for file in (stock, slim)]
    np.testing.assert_array_equal(outputs[0], outputs[1])
    assert len(np.unique(outputs[0])) > 3, "outputs must vary to show anything"


def test_a_lean_file_is_smaller_and_keeps_no_names(pair: tuple[str, bytes, bytes]) -> None:
    _, stock, slim = pair
    assert len(slim) < len(stock)
    model = schema.ModelT.InitFromPackedBuf(slim, 0)
    assert not model.description
    assert not model.metadata
    assert not model.signatureDefs
    assert all(not tensor.name for tensor in model.subgraphs[0].tensors)
    assert not model.subgraphs[0].name


def test_buffers_and_operator_codes_are_in_use_and_written_once(
    pair: tuple[str, bytes, bytes],
) -> None:
    model = schema.ModelT.InitFromPackedBuf(pair[2], 0)
    graph = model.subgraphs[0]
    used = {tensor.buffer for tensor in graph.tensors}
    assert used | {0} == set(range(len(model.buffers)))
    contents = [bytes(b.data) for b in model.buffers if b.data is not None]
    assert len(contents) == len(set(contents))
    codes = {op.opcodeIndex for op in graph.operators}
    assert codes == set(range(len(model.operatorCodes)))
    uses = [sum(op.opcodeIndex == number for op in graph.operators) for number in sorted(codes)]
    assert uses == sorted(uses, reverse=True)
    for code in model.operatorCodes:
        assert min(code.builtinCode, 127) == code.deprecatedBuiltinCode


def test_being_lean_is_an_end(pair: tuple[str, bytes, bytes]) -> None:
    assert write_model(lean(read_model(pair[2]))) == pair[2]
