"""Strips of colour: widths by use, colours by value."""

from __future__ import annotations

import numpy as np
import pytest

from edgepalette.pipeline.codebook import Codebook, strip


def test_a_codebook_counts_the_distinct_values() -> None:
    weight = np.array([[0.5, -1.0], [0.5, 0.25]], np.float32)
    assert Codebook.of(weight).to_json() == {"values": [-1.0, 0.25, 0.5], "counts": [1, 1, 2]}


def test_segments_are_as_wide_as_their_values_are_used() -> None:
    segments = strip([-1.0, 0.0, 2.0], [1, 2, 5])
    assert [segment["width"] for segment in segments] == [12.5, 25.0, 62.5]
    assert segments[2]["text"] == "+2: 5 weights (62.5 %)"


def test_colours_run_from_cold_over_pale_to_warm() -> None:
    cold, pale, warm = (segment["color"] for segment in strip([-1.0, 0.0, 1.0], [1, 1, 1]))
    assert (cold, pale, warm) == ("#2563eb", "#f1f5f9", "#ea580c")


@pytest.mark.parametrize("values", [[], [0.0]])
def test_nothing_and_zero_have_a_strip_too(values: list[float]) -> None:
    assert len(strip(values, [3] * len(values))) == len(values)
