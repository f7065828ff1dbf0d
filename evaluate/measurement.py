"""One row: a model on a target, each figure with its origin."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import RunError


@dataclass(frozen=True)
class Measurement:
    """What was found of one model on one target; None where the target cannot know.

    model: baseline, clustered (Keras), dense or palette (a file of one format).
    origin: how the figures were obtained. value: of `metric`, on `samples` test examples; 0 = none was run.
    agreement: share of test examples on which it decides as the float model it was made from does.
    mismatched_bytes: output bytes that differ from the dense file's on the same target.
    flash_bytes: the model's constants on the device. ram_bytes: arena, or SRAM. instructions, cycles_model: of one inference. 1 KB = 1000 B.
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

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, row: Any) -> Measurement:
        """A row of measurements.json. Raises RunError for other keys."""
        names = {field.name for field in fields(cls)}
        if not isinstance(row, dict) or set(row) != names:
            got = sorted(row) if isinstance(row, dict) else type(row).__name__
            raise RunError(f"a measurement must have the keys {sorted(names)}, got {got}")
        return cls(**row)
