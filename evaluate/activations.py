"""Values of a tensor in the middle of a .tflite: the model cut off behind it, run on the first TFLite runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..export.tflite_schema import Model, write_model
from .process import ask
from .signature import port_of

# bytes of the real values held at a time
HELD = 1 << 27


def activation_pairs(
    first: Model, second: Model, number: int, *, inputs: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """(N, …) real values of tensor `number` of the first subgraph in two models that share it, some examples at a time.

    inputs: (N, …) real ones for models of one input. Raises TargetError if the runtime refuses a model.
    """
    graph = first.subgraphs[0]
    port = port_of(graph.tensors[number])
    step = max(1, HELD // (8 * max(1, int(np.prod(port.shape)))))
    for start in range(0, len(inputs), step):
        part = inputs[start : start + step]
        found = _run([first, second], number, part)
        now, then = (port.real(raw).astype(np.float32).reshape(len(part), *port.shape[1:]) for raw in found)  # fmt: skip
        yield now, then


def _run(
    models: list[Model], number: int, inputs: NDArray[np.float32]
) -> list[NDArray[np.generic]]:
    graph = models[0].subgraphs[0]
    assert graph.inputs is not None  # noqa: S101 # models of one input
    entry = int(graph.inputs[0])
    port = port_of(graph.tensors[entry])
    raw = port.raw(inputs.reshape(len(inputs), *port.shape))
    if number == entry:
        return [raw, raw]
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as folder:
        given = Path(folder, "inputs.npz")
        np.savez(given, x0=raw)
        files = []
        for place, model in enumerate(models):
            path = Path(folder, f"{place}.tflite")
            path.write_bytes(write_model(ending_at(model, number)))
            files.append([str(path), str(given)])
        question = {"runtime": "tflite", "options": {}, "files": files, "outputs": 1}
        answer = ask("pair_child", question, "tflite", files[0][0])
    return [answer[f"f{place}y0"] for place in range(len(models))]


def ending_at(model: Model, number: int) -> Model:
    """The model whose one output is tensor `number` of the first subgraph: operators up to the one that makes it."""
    graph = model.subgraphs[0]
    makers = [
        place
        for place, op in enumerate(graph.operators)
        if op.outputs is not None and number in op.outputs
    ]
    operators = graph.operators[: makers[0] + 1] if makers else graph.operators
    cut = replace(graph, operators=operators, outputs=np.array([number], np.int32))
    return replace(model, subgraphs=(cut, *model.subgraphs[1:]), signature_defs=())
