"""A weight's shared values as a strip of colour: each as wide as it is used, coloured by its value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

# ends of the scale: negative, zero, positive
COLD, PALE, WARM = (37, 99, 235), (241, 245, 249), (234, 88, 12)


@dataclass(frozen=True)
class Codebook:
    """Values ascending, and how many elements take each."""

    values: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, weight: NDArray[Any]) -> Codebook:
        """The distinct values of a weight."""
        values, counts = np.unique(weight, return_counts=True)
        return cls(tuple(map(float, values)), tuple(map(int, counts)))

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"values": list(self.values), "counts": list(self.counts)}


def strip(values: list[float], counts: list[int]) -> list[dict[str, Any]]:
    """Segments of the strip: width in percent, colour, and a text to show."""
    largest = max((abs(value) for value in values), default=0.0) or 1.0
    total = sum(counts) or 1
    return [
        {
            "width": 100 * count / total,
            "color": _color(value / largest),
            "text": f"{value:+.4g}: {count} weights ({100 * count / total:.1f} %)",
        }
        for value, count in zip(values, counts, strict=True)
    ]


def _color(part: float) -> str:
    end = WARM if part > 0 else COLD
    mixed = (round(p + (e - p) * abs(part)) for p, e in zip(PALE, end, strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in mixed)
