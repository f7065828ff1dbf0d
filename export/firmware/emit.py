"""The files of a firmware folder, as text."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import jinja2
import numpy as np

from ..tflite_schema import TensorType
from .call import Array, Call, Share, Struct, pointer, scratch_of
from .graph import Graph, Value
from .operators.quantize import real
from .plan import Arena

LINE = 100
# what every kernel may include
HEADERS = (
    "ep_requantize.h",
    "ep_decode.h",
    "ep_dot.h",
    "ep_vector.h",
    "ep_broadcast.h",
    "ep_two_terms.h",
)
SOURCES = ("ep_weights.c", "ep_weights.h")
ELEMENT_TYPES = {TensorType.FLOAT32: "float", TensorType.INT32: "int32_t"}


def emit(
    graph: Graph, calls: Sequence[Call], arena: Arena, name: str, provenance: str, remarks: Sequence[str] = ()
) -> dict[str, str]:  # fmt: skip
    """Text by file name. remarks: what is not as it was in the file, and why."""
    kernels = sorted({call.kernel for call in calls if call.kernel is not None})
    shares = flash_bytes(calls)
    kernel_files = dict(_kernel_files(kernels))
    context: dict[str, Any] = {
        "name": name,
        "upper": name.upper(),
        "title": "A neural network as C, written by edgepalette.",
        "provenance": provenance,
        "remarks": remarks,
        "arena": arena.size,
        "sizes": ", ".join(f"{share.value} {size} B" for share, size in shares.items()),
        "flash": [{"name": share.value, "bytes": size} for share, size in shares.items()],
        "kernels": kernels,
        "parts": len(calls),
        "calls": _call_rows(calls),
        "tensors": list(_tensor_rows(graph, calls, arena)),
        "scratch": [
            {"pointer": scratch_of(call.node), "offset": arena.scratch[call.node.place], "size": call.scratch}
            for call in calls
            if call.scratch
        ],
        "ends": [
            _end_row(role, place, value, arena)
            for role, values in (("INPUT", graph.inputs), ("OUTPUT", graph.outputs))
            for place, value in enumerate(values)
        ],
        "sources": sorted([f"{name}.c", *(file for file in kernel_files if file.endswith(".c"))]),
    }  # fmt: skip
    context["objects"] = [source.replace(".c", ".o") for source in context["sources"]]
    templates = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False  # noqa: S701 # C, not HTML
    )  # fmt: skip
    folder = resources.files(__package__).joinpath("templates")
    written = {
        f"{name}.c": "model.c.j2",
        f"{name}.h": "model.h.j2",
        "main.c": "main.c.j2",
        "Makefile": "Makefile.j2",
        "CMakeLists.txt": "CMakeLists.txt.j2",
        "README.md": "README.md.j2",
    }
    files = {
        file: templates.from_string(folder.joinpath(template).read_text()).render(context)
        for file, template in written.items()
    }
    return files | kernel_files


def flash_bytes(calls: Sequence[Call]) -> dict[Share, int]:
    """Bytes of constants by what they are; layers' structs are not counted."""
    sizes = defaultdict(int, dict.fromkeys(Share, 0))
    for array in _once(calls):
        if isinstance(array, Array):
            sizes[array.share] += array.values.nbytes
    return dict(sizes)


def _once(calls: Sequence[Call]) -> Iterator[Array | Struct]:
    """Constants of all calls, those of several calls with the first."""
    seen: set[str] = set()
    for call in calls:
        for constant in call.constants:
            if constant.name not in seen:
                seen.add(constant.name)
                yield constant


def _kernel_files(kernels: Sequence[str]) -> Iterator[tuple[str, str]]:
    folder = resources.files(__package__).joinpath("kernels")
    for file in (*HEADERS, *SOURCES, *(f"ep_{k}.{end}" for k in kernels for end in ("c", "h"))):
        yield file, folder.joinpath(file).read_text()


def _call_rows(calls: Sequence[Call]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    for call in calls:
        new = [c for c in call.constants if c.name not in seen]
        seen.update(constant.name for constant in new)
        weights = [c for c in new if isinstance(c, Array) and c.share is Share.WEIGHTS]
        label = _comment(call.node.output.label)
        rows.append(
            {
                "op": call.node.op,
                "shape": call.node.output.dimensions,
                "heading": f"{call.node.op}, operator {call.node.place}: {call.node.output.dimensions} {label}".rstrip(),
                "constants": [_constant(constant) for constant in new],
                "text": call.text,
                "weights": f"{sum(w.values.nbytes for w in weights)} B" if weights else "",
                "scratch": f"{call.scratch} B" if call.scratch else "",
            }
        )
    return rows


def _tensor_rows(graph: Graph, calls: Sequence[Call], arena: Arena) -> Iterator[dict[str, Any]]:
    """Pointers that some call names, in the order in which they are given."""
    text = {word for call in calls for line in call.text for word in _words(line)}
    for value in (*graph.inputs, *(call.node.output for call in calls)):
        if pointer(value) in text:
            kind = ELEMENT_TYPES.get(value.type, "int8_t")
            offset = f"base + {arena.tensors[value.number]}"
            yield {
                "type": kind,
                "pointer": pointer(value),
                "address": offset if kind == "int8_t" else f"({kind} *)(void *)({offset})",
                "comment": f"{value.dimensions} {_comment(value.label)}".rstrip(),
            }


def _words(line: str) -> list[str]:
    return "".join(c if c.isalnum() or c == "_" else " " for c in line).split()


def _end_row(role: str, place: int, value: Value, arena: Arena) -> dict[str, Any]:
    return {
        "role": role,
        "place": place,
        "type": ELEMENT_TYPES.get(value.type, "int8_t"),
        "offset": arena.tensors[value.number],
        "elements": value.size,
        "scale": real(value.scale) if value.scales.size == 1 else "1.0f",
        "zero_point": value.zero_point,
        "comment": f"{role.lower()} {place}: {value.dimensions} {_comment(value.label)}".rstrip(),
    }


def _constant(constant: Array | Struct) -> str:
    if isinstance(constant, Struct):
        fields = "".join(f"    .{key} = {text},\n" for key, text in constant.fields)
        return f"static const {constant.type} {constant.name} = {{\n{fields}}};\n"
    comment = f"/* {_comment(constant.comment)} */\n" if constant.comment else ""
    place = " EP_ALIGNED" if constant.aligned else ""
    return (
        f"{comment}static const {constant.type} {constant.name}[{constant.values.size}]{place} = {{\n"
        f"{_lines(constant)}}};\n"
    )


def _lines(array: Array) -> str:
    if array.values.dtype == np.float32:
        texts = [real(float(value)) for value in array.values]
    else:
        texts = ["INT32_MIN" if value == -(2**31) else str(value) for value in array.values.tolist()]  # fmt: skip
    lines, line = [], ""
    for text in texts:
        if len(line) + len(text) > LINE:
            lines.append(line.rstrip())
            line = ""
        line += f"{text}, "
    return "".join(f"    {part}\n" for part in [*lines, line.rstrip()])


def _comment(text: str) -> str:
    """A name from the file, unable to end a comment or to pass its line."""
    kept = "".join(c if c.isprintable() and c not in "*\\?" else "_" for c in text)
    return kept if len(kept) <= 100 else kept[:97] + "..."
