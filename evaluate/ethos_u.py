"""What Vela, Arm's compiler for Ethos-U processors, expects of a file: memory, time, and what is left to the CPU.

Nothing is run: a plain .tflite is compiled in a process of its own, with the system configuration and memory mode that
Vela takes for the processor by default, and its summary read (fields by name; sizes in KiB, time in seconds).
"""

from __future__ import annotations

import csv
import importlib
import importlib.metadata
import math
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..errors import FormatError, TargetError
from ..export.loader import expand
from ..export.tflite_schema import Model, Op, Operator, SubGraph, read_model
from .process import TIME_LIMIT_S, run_module

PACKAGE = "ethos-u-vela"
ACCELERATORS = (
    "ethos-u55-32",
    "ethos-u55-64",
    "ethos-u55-128",
    "ethos-u55-256",
    "ethos-u65-256",
    "ethos-u65-512",
    "ethos-u85-128",
    "ethos-u85-256",
    "ethos-u85-512",
    "ethos-u85-1024",
    "ethos-u85-2048",
)
# the custom operator that stands for everything the NPU runs in a compiled file
NPU_OPERATOR = b"ethos-u"
# how Vela writes a tensor without a name
UNNAMED = "<unnamed>"
KIB = 1024
# the notes of a model that is left to the CPU whole stay readable
MOST_NAMED = 24

Summary = dict[str, str]


@dataclass(frozen=True)
class Estimate:
    """Vela's figures for one file; None for what its summary lacks.

    operators: of the file. cpu_operators: those left to the CPU, each as its kind and its output's name or shape.
    encoded_weights, original_weights: bytes of the weights the NPU reads, as compressed for it and before.
    flash_bytes: constants the NPU reads from flash (encoded weights, scales, biases, tables), not its commands and not
    the CPU's constants; None where the memory mode puts constants elsewhere. sram_bytes: the most that is in use at a
    time. dram_bytes: the same, 0 where the memory mode has none. npu_ms: the NPU's part of an inference.
    compiled_bytes: the file for the device. system: configuration, memory mode and clock.
    """

    operators: int
    cpu_operators: tuple[str, ...]
    encoded_weights: int | None
    original_weights: int | None
    flash_bytes: int | None
    sram_bytes: int | None
    dram_bytes: int | None
    npu_ms: float | None
    compiled_bytes: int
    system: str
    version: str

    @property
    def latency_ms(self) -> float | None:
        """Of an inference; None if the CPU has a part in it, of whose time Vela knows nothing."""
        return None if self.cpu_operators else self.npu_ms

    def notes(self) -> str:
        """What the fields of a Measurement have no room for."""
        on_npu = max(self.operators - len(self.cpu_operators), 0)
        # rounded down: 100 is all of them
        share = 100 * on_npu // max(self.operators, 1)
        parts = [
            f"{PACKAGE} {self.version}, {self.system}",
            f"{share} % of operators on the NPU ({on_npu} of {self.operators})",
        ]
        if self.encoded_weights is not None:
            before = "" if self.original_weights is None else f" of {self.original_weights:,}"
            parts.append(f"encoded weights {self.encoded_weights:,} B{before}")
        if self.dram_bytes:
            parts.append(f"DRAM {self.dram_bytes:,} B")
        parts.append(f"compiled file {self.compiled_bytes:,} B")
        if self.cpu_operators:
            named = [
                text if count == 1 else f"{count} × {text}"
                for text, count in Counter(self.cpu_operators).items()
            ]
            more = [f"and {len(named) - MOST_NAMED} other kinds"] if len(named) > MOST_NAMED else []
            parts.append("on the CPU: " + ", ".join(named[:MOST_NAMED] + more))
            if on_npu and self.npu_ms is not None:
                parts.append(f"{self.npu_ms:.3f} ms on the NPU, the CPU's time unknown")
        return "; ".join(parts)


def estimate(path: Path, accelerator: str, time_limit_s: float = TIME_LIMIT_S) -> Estimate:
    """Vela's figures for a .tflite, its palettes expanded first, on one of ACCELERATORS.

    Raises TargetError if the file is damaged or Vela refuses it, crashes or passes the time limit.
    """
    try:
        plain = expand(path.read_bytes())
        model = read_model(plain)
    except (FormatError, OSError) as error:
        raise TargetError(f"{accelerator} takes a .tflite file, got {path}: {error}") from error
    if _uses_npu(model):
        raise TargetError(
            f"{accelerator} takes a file that is not compiled, got {path}, which Vela has compiled"
        )
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as name:
        folder = Path(name)
        given = folder / "model.tflite"
        given.write_bytes(plain)
        options = ["--accelerator-config", accelerator, "--output-dir", name]
        run_module("ethosu.vela", [*options, str(given)], "Vela", lambda _: str(path), time_limit_s)
        try:
            compiled = (folder / "model_vela.tflite").read_bytes()
            optimised = read_model(compiled)
            summary = _read_summary(next(folder.glob("model_summary_*.csv")))
        except (OSError, StopIteration, FormatError, csv.Error, UnicodeDecodeError) as error:
            raise TargetError(
                f"Vela must write a compiled file and a summary of {path}, got {error!r}; "
                f"pip install '{PACKAGE}>=5.2,<6'"
            ) from error
    # of a model that is left to the CPU whole, zeros say nothing
    used = summary if _uses_npu(optimised) else {}
    return Estimate(
        operators=sum(len(graph.operators) for graph in model.subgraphs),
        cpu_operators=_cpu_operators(optimised),
        encoded_weights=_whole(used, "total_npu_encoded_weights"),
        original_weights=_whole(used, "total_original_weights"),
        flash_bytes=_flash(used),
        sram_bytes=_whole(used, "sram_memory_used", KIB),
        dram_bytes=_whole(used, "dram_memory_used", KIB),
        npu_ms=_milliseconds(used),
        compiled_bytes=len(compiled),
        system=_system(summary),
        version=importlib.metadata.version(PACKAGE),
    )


def _read_summary(path: Path) -> Summary:
    """The one row of Vela's summary by column; columns without a value are left out."""
    with path.open(newline="", encoding="utf-8") as file:
        row = next(csv.DictReader(file))
    return {str(key): value for key, value in row.items() if isinstance(value, str)}


def _number(summary: Summary, field: str, unit: float = 1) -> float | None:
    """A field in units of 1 that is a number as it must be: there, finite and not negative."""
    try:
        value = float(summary[field]) * unit
    except (KeyError, ValueError):
        return None
    return value if math.isfinite(value) and value >= 0 else None


def _whole(summary: Summary, field: str, unit: int = 1) -> int | None:
    value = _number(summary, field, unit)
    return None if value is None else round(value)


def _milliseconds(summary: Summary) -> float | None:
    time = _number(summary, "inference_time", 1e3)
    return None if not time else round(time, 6)


def _flash(summary: Summary) -> int | None:
    if "flash" not in summary.get("weights_storage_area", "").lower():
        return None
    parts = [_whole(summary, f"{place}_chip_flash_memory_used", KIB) for place in ("on", "off")]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def _system(summary: Summary) -> str:
    clock = _number(summary, "core_clock")
    parts = [summary.get("system_config"), summary.get("memory_mode")]
    parts.append(None if clock is None else f"{clock / 1e6:.0f} MHz")
    return ", ".join(part for part in parts if part) or "unknown system"


def _uses_npu(model: Model) -> bool:
    return any(code.custom_code == NPU_OPERATOR for code in model.operator_codes)


def _cpu_operators(compiled: Model) -> tuple[str, ...]:
    kinds = _kinds()
    return tuple(
        _described(compiled, graph, operator, kinds)
        for graph in compiled.subgraphs
        for operator in graph.operators
        if compiled.operator_codes[operator.opcode_index].custom_code != NPU_OPERATOR
    )


def _described(model: Model, graph: SubGraph, operator: Operator, kinds: dict[int, str]) -> str:
    code = model.operator_codes[operator.opcode_index]
    kind = kinds.get(code.code, f"operator {code.code}")
    if code.code == Op.CUSTOM and code.custom_code:
        kind = code.custom_code.decode(errors="replace")
    written = [] if operator.outputs is None else [int(n) for n in operator.outputs if n >= 0]
    if not written:
        return kind
    tensor = graph.tensors[written[0]]
    named = tensor.label not in ("", UNNAMED)
    return f"{kind} {tensor.label if named else '×'.join(map(str, tensor.dims))}".rstrip()


def _kinds() -> dict[int, str]:
    """Builtin operators' names by their number, as Vela's own copy of the schema has them."""
    names = vars(importlib.import_module("ethosu.vela.tflite.BuiltinOperator").BuiltinOperator)
    return {number: name for name, number in names.items() if isinstance(number, int)}
