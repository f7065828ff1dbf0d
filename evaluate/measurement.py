"""One row: a model on a target, each figure with its origin."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import RunError


@dataclass(frozen=True)
class OperatorCost:
    """One operator in one inference. output: its shape. macs: products of inputs and weights, 0 where it has none."""

    operator: str
    output: str
    instructions: int
    cycles_model: int | None
    macs: int


@dataclass(frozen=True)
class FlashSplit:
    """Bytes of flash by use. other: biases, multipliers and the like. limit: what the device has, None for a bare core."""

    code: int
    weights: int
    tables: int
    other: int
    limit: int | None

    @property
    def total(self) -> int:
        """All of it."""
        return self.code + self.weights + self.tables + self.other


@dataclass(frozen=True)
class RamSplit:
    """Bytes of RAM by use. arena: tensors alone; scratch: what operators need beyond that. limit: as in FlashSplit."""

    arena: int
    scratch: int
    stack: int
    limit: int | None

    @property
    def total(self) -> int:
        """All of it."""
        return self.arena + self.scratch + self.stack


def bytes_over(split: FlashSplit | RamSplit) -> int:
    """Bytes beyond what the device has; 0 if all fits, or there is no limit."""
    return 0 if split.limit is None else max(0, split.total - split.limit)


@dataclass(frozen=True)
class Measurement:
    """What was found of one model on one target; None where the target cannot know.

    model: baseline, clustered (Keras), dense or palette (a file of one format).
    origin: how the figures were obtained. value: of `metric`, on `samples` test examples; 0 = none was run.
    agreement: share of test examples on which it decides as the float model it was made from does.
    mismatched_bytes: output bytes that differ from the dense file's on the same target; of firmware, from TFLM's.
    flash_bytes: the model's constants on the device; of firmware, with its code. ram_bytes: arena, or SRAM; of firmware,
    with its stack. instructions, cycles_model: of one inference; operators: of each of its operators. 1 KB = 1000 B.
    """

    run: str
    model: str
    clusters: int | None
    target: str
    origin: str
    metric: str
    value: float | None
    agreement: float | None
    mismatched_bytes: int | None
    file_bytes: int
    flash_bytes: int | None
    ram_bytes: int | None
    latency_ms_median: float | None
    latency_ms_p95: float | None
    instructions: int | None
    cycles_model: int | None
    samples: int
    notes: str
    flash_split: FlashSplit | None = None
    ram_split: RamSplit | None = None
    operators: tuple[OperatorCost, ...] | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Any) -> Measurement:
        """A row of measurements.json; rows from before firmware lack its keys. Raises RunError for other keys."""
        plain = _checked("a measurement", cls, row, optional=_PARTS)
        parts = {
            key: read(plain[key]) for key, read in _PARTS.items() if plain.get(key) is not None
        }
        return cls(**{**plain, **parts})


def _checked(what: str, kind: type[Any], row: Any, optional: Iterable[str] = ()) -> dict[str, Any]:
    names = {field.name for field in fields(kind)}
    if not isinstance(row, dict) or not names - set(optional) <= set(row) <= names:
        got = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise RunError(f"{what} must have the keys {sorted(names)}, got {got}")
    return row


def _costs(rows: Any) -> tuple[OperatorCost, ...]:
    if not isinstance(rows, list):
        raise RunError(f"a measurement's operators must be a list, got {type(rows).__name__}")
    return tuple(OperatorCost(**_checked("an operator's cost", OperatorCost, row)) for row in rows)


_PARTS: dict[str, Callable[[Any], Any]] = {
    "flash_split": lambda row: FlashSplit(**_checked("a flash split", FlashSplit, row)),
    "ram_split": lambda row: RamSplit(**_checked("a RAM split", RamSplit, row)),
    "operators": _costs,
}
