"""Tensors in the middle of a file hold what the whole file makes of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgepalette.evaluate.activations import activation_pairs, ending_at
from edgepalette.evaluate.child import Request, run_file
from edgepalette.evaluate.signature import port_of
from edgepalette.export.tflite_schema import Buffer, read_model

from .conftest import Exported


def test_values_of_any_tensor_of_two_models(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = exported.file("dense.tflite")
    model = read_model(path.read_bytes())
    graph = model.subgraphs[0]
    assert graph.inputs is not None
    assert graph.outputs is not None
    first, last = int(graph.inputs[0]), int(graph.outputs[0])
    # another model: the last constant's values negated
    changed = max(number for number, tensor in enumerate(graph.tensors) if model.buffers[tensor.buffer].data and tensor.type == 9)  # fmt: skip
    tensor = graph.tensors[changed]
    values = -np.frombuffer(model.buffers[tensor.buffer].data or b"", np.int8)
    tensors = [*graph.tensors]
    tensors[changed] = replace(tensor, buffer=len(model.buffers))
    other = replace(
        model,
        subgraphs=(replace(graph, tensors=tuple(tensors)),),
        buffers=(*model.buffers, Buffer(data=values.tobytes())),
    )
    inputs = np.load(exported.inputs)[:5]
    monkeypatch.setattr("edgepalette.evaluate.activations.HELD", 3 * 8 * graph.tensors[last].dims[-1])  # fmt: skip
    pairs = list(activation_pairs(model, other, last, inputs=inputs))
    assert [len(now) for now, _ in pairs] == [3, 2]
    ours, theirs = (np.concatenate(part) for part in zip(*pairs, strict=True))
    whole = run_file(Request("tflite", str(path), str(exported.inputs), 5)).outputs
    np.testing.assert_allclose(ours, whole, rtol=1e-6)
    assert not np.array_equal(ours, theirs)
    monkeypatch.undo()
    ((now, then),) = activation_pairs(model, other, first, inputs=inputs)
    assert now.tobytes() == then.tobytes()
    assert np.abs(now - inputs).max() <= port_of(graph.tensors[first]).scale * 0.51


def test_a_model_ends_at_the_operator_that_makes_the_tensor(exported: Exported) -> None:
    model = read_model(exported.file("dense.tflite").read_bytes())
    operators = model.subgraphs[0].operators
    for place, op in enumerate(operators):
        assert op.outputs is not None
        cut = ending_at(model, int(op.outputs[0])).subgraphs[0]
        assert cut.operators == operators[: place + 1]
        assert cut.outputs is not None
        assert cut.outputs.tolist() == [op.outputs[0]]
