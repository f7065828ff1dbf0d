"""How a centroid's gradient is made of its members' gradients."""

from __future__ import annotations

from enum import Enum


class GradientAggregation(Enum):
    """SUM adds the members' gradients, AVG takes their mean."""

    SUM = "sum"
    AVG = "avg"
