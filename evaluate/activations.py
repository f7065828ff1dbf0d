"""Values in the middle of a .tflite or .onnx: the model cut off behind them, run on the format's first runtime."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..export.tflite_schema import Model, write_model
from .process import ask
from .signature import Port, port_of

if TYPE_CHECKING:
    from onnx import ModelProto

Pairs = Iterator[tuple[NDArray[np.float32], NDArray[np.float32]]]
# bytes of the real values held at a time
HELD = 1 << 27
# examples of a model whose sizes are not known before it runs
FEW = 32


def activation_pairs(
    first: Model, second: Model, number: int, *, inputs: NDArray[np.float32]
) -> Pairs:
    """(N, …) real values of tensor `number` of the first subgraph in two models that share it, some examples at a time.

    inputs: (N, …) real ones for models of one input. Raises TargetError if the runtime refuses a model.
    """
    graph = first.subgraphs[0]
    assert graph.inputs is not None  # noqa: S101 # models of one input
    entry, port = (port_of(graph.tensors[n]) for n in (int(graph.inputs[0]), number))
    step = max(1, HELD // (8 * max(1, int(np.prod(port.shape)))))
    files = [write_model(ending_at(model, number)) for model in (first, second)]
    for start in range(0, len(inputs), step):
        raw = _raw(entry, inputs[start : start + step])
        # a file of no operators gives nothing
        found = [raw, raw] if number == graph.inputs[0] else _run("tflite", files, raw)
        now, then = (port.real(part).astype(np.float32) for part in found)
        yield now.reshape(len(raw), *port.shape[1:]), then.reshape(len(raw), *port.shape[1:])


def onnx_activation_pairs(
    first: ModelProto, second: ModelProto, name: str, *, inputs: NDArray[np.float32], entry: Port
) -> Pairs:
    """The same of the value `name` of two .onnx models, their input being `entry`."""
    files = [bytes(giving(model, name).SerializeToString()) for model in (first, second)]
    for start in range(0, len(inputs), FEW):
        raw = _raw(entry, inputs[start : start + FEW])
        found = [raw, raw] if name == entry.name else _run("onnx", files, raw)
        # (examples, batch of 1, …)
        now, then = (part.astype(np.float32).reshape(-1, *part.shape[2:]) for part in found)
        yield now, then


def _raw(entry: Port, inputs: NDArray[np.float32]) -> NDArray[Any]:
    return entry.raw(inputs.reshape(len(inputs), *entry.shape))


def _run(form: str, models: Sequence[bytes], raw: NDArray[Any]) -> list[NDArray[Any]]:
    """The one output of each model, (examples, …)."""
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as folder:
        given = Path(folder, "inputs.npz")
        np.savez(given, x0=raw)
        files = []
        for place, model in enumerate(models):
            path = Path(folder, f"{place}.{form}")
            path.write_bytes(model)
            files.append([str(path), str(given)])
        question = {"runtime": form, "options": {}, "files": files, "outputs": 1}
        answer = ask("pair_child", question, form, files[0][0])
    return [answer[f"f{place}y0"] for place in range(len(models))]


def giving(model: ModelProto, name: str) -> ModelProto:
    """The .onnx whose one output is the value `name`; the runtime drops what that does not need."""
    import onnx

    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    del cut.graph.output[:]
    cut.graph.output.append(onnx.ValueInfoProto(name=name))
    return cut


def telling(model: Model, numbers: Sequence[int]) -> Model:
    """The .tflite whose outputs are these tensors of the first subgraph: none of them is written over, not even in place."""
    told = replace(model.subgraphs[0], outputs=np.array(numbers, np.int32))
    return replace(model, subgraphs=(told, *model.subgraphs[1:]), signature_defs=())


def ending_at(model: Model, number: int) -> Model:
    """The model whose one output is tensor `number` of the first subgraph: operators up to the one that makes it."""
    graph = model.subgraphs[0]
    makers = [
        place
        for place, op in enumerate(graph.operators)
        if op.outputs is not None and number in op.outputs
    ]
    operators = graph.operators[: makers[0] + 1] if makers else graph.operators
    cut = replace(graph, operators=operators)
    return telling(replace(model, subgraphs=(cut, *model.subgraphs[1:])), [number])
