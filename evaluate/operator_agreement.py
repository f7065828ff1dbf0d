"""Operator by operator: whether TFLM computes a .tflite as TFLite's reference kernels do."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import TargetError
from ..export.firmware.graph import OPERATOR_NAMES
from ..export.loader import DECODE_NAME
from ..export.tflite_bytes import tensor_name
from ..export.tflite_schema import Model, read_model, write_model
from .activations import telling
from .metric import differing_bytes
from .process import ask
from .signature import port_of

# every tensor of every example is held at a time
EXAMPLES = 4
# the notes of a model with many differences stay readable
MOST_NAMED = 3


@dataclass(frozen=True)
class OperatorAgreement:
    """operator, output: its kind and its output's name. differing: of `bytes` bytes of that output."""

    operator: str
    output: str
    bytes: int
    differing: int


def operator_agreement(path: Path, inputs: NDArray[np.float32]) -> tuple[OperatorAgreement, ...]:
    """Each operator's output bytes on TFLM beside the reference kernels' for the plain file, in the file's order.

    inputs: (N, …) real ones for a model of one input, EXAMPLES at most are run. What an operator gets differs where one
    before it differed. Raises TargetError if a runtime is not installed or refuses the file.
    """
    model = read_model(path.read_bytes())
    graph = model.subgraphs[0]
    if graph.inputs is None or len(graph.inputs) != 1:
        raise TargetError(f"operators are compared in models of one input, got {path}")
    entry, found = port_of(graph.tensors[int(graph.inputs[0])]), list(_outputs(model))
    few = np.asarray(inputs[:EXAMPLES])
    raw = entry.raw(few.reshape(len(few), *entry.shape))
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as folder:
        file, given = Path(folder, "all.tflite"), Path(folder, "inputs.npz")
        file.write_bytes(write_model(telling(model, [number for _, number in found])))
        np.savez(given, x0=raw)
        asked = {"files": [[str(file), str(given)]], "outputs": len(found)}
        ours, theirs = (
            ask("pair_child", {**asked, "runtime": runtime, "options": options}, runtime, str(path))
            for runtime, options in (("tflm", {}), ("tflite", {"resolver": "BUILTIN_REF"}))
        )
    return tuple(
        OperatorAgreement(
            operator,
            tensor_name(model, 0, n),
            ours[f"f0y{place}"].nbytes,
            differing_bytes(ours[f"f0y{place}"], theirs[f"f0y{place}"]),
        )
        for place, (operator, n) in enumerate(found)
    )


def agreement_note(found: tuple[OperatorAgreement, ...]) -> str:
    """The same in a line."""
    apart = [entry for entry in found if entry.differing]
    if not apart:
        return f"{len(found)} of {len(found)} operators give the reference kernels' bytes"
    named = ", ".join(
        f"{entry.operator} {entry.output} ({entry.differing} of {entry.bytes} bytes)"
        for entry in apart[:MOST_NAMED]
    )
    others = f" and {len(apart) - MOST_NAMED} others" if len(apart) > MOST_NAMED else ""
    agreeing = len(found) - len(apart)
    return f"{agreeing} of {len(found)} operators give the reference kernels' bytes, not {named}{others}"


def _outputs(model: Model) -> Iterator[tuple[str, int]]:
    """(kind, tensor) of every output of the first subgraph's operators; DECODE is none of the plain file's."""
    for op in model.subgraphs[0].operators:
        code = model.operator_codes[op.opcode_index]
        if code.custom_code == DECODE_NAME or op.outputs is None:
            continue
        custom = (code.custom_code or b"").decode(errors="replace")
        kind = OPERATOR_NAMES.get(code.code) or custom or f"operator {code.code}"
        yield from ((kind, int(number)) for number in op.outputs if number >= 0)
