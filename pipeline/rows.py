"""Measurements of Keras models; files are measured by their targets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..evaluate.measurement import Measurement
from ..evaluate.metric import agreement
from .session import Session

HOST_KERAS = "host-keras"


def keras_row(
    session: Session,
    model: str,
    clusters: int | None,
    path: Path,
    value: float,
    outputs: NDArray[np.float32],
    reference: NDArray[np.float32],
) -> Measurement:
    """A Keras model's quality, and its agreement with `reference`; its latency says nothing of a device's."""
    return Measurement(
        run=session.directory.resolve().name,
        model=model,
        clusters=clusters,
        target=HOST_KERAS,
        origin="measured on this host",
        metric=session.metric,
        value=value,
        agreement=agreement(outputs, reference, session.task.classifies),
        mismatched_bytes=None,
        file_bytes=path.stat().st_size,
        flash_bytes=None,
        ram_bytes=None,
        latency_ms_median=None,
        latency_ms_p95=None,
        instructions=None,
        cycles_model=None,
        samples=len(outputs),
        notes="float32 Keras model",
    )
