"""DECODE's cost: from every decoded tensor's width and use."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import pytest

from edgepalette.evaluate.decode_cost import FAST, SLOW, DecodeCost, decode_cost, rates
from edgepalette.export.cluster_tflite import cluster_tflite
from edgepalette.export.lean import lean
from edgepalette.export.palette_tflite import palettize
from edgepalette.export.tflite_bytes import decoded_tensors
from edgepalette.export.tflite_schema import Op, OperatorCode, read_model, write_model

# a palette file with a depthwise convolution
PALETTE = Path(__file__).parents[2] / "scripts" / "fuzz_corpus" / "palette.tflite"


def test_narrow_indices_cost_little_and_all_others_much() -> None:
    assert [rates(bits, depthwise=False) for bits in range(1, 8)] == [SLOW, FAST, FAST, FAST, SLOW, SLOW, SLOW]  # fmt: skip
    assert {rates(bits, depthwise=True) for bits in range(1, 8)} == {SLOW}


@pytest.mark.parametrize(("clusters", "bits", "expected"), [(4, 2, FAST), (2, 1, SLOW)])  # fmt: skip
def test_every_decoded_weight_is_counted_at_its_width(
    clusters: int, bits: int, expected: tuple[float, float], exported: Any
) -> None:
    dense = read_model(exported.file("dense.tflite").read_bytes())
    data = palettize(lean(cluster_tflite(dense, clusters)[0])).data
    model, found = read_model(data), decode_cost(data)
    decoded = decoded_tensors(model)
    assert {entry.record.bits for entry in decoded.values()} == {bits}
    sizes = [prod(model.subgraphs[graph].tensors[number].dims) for graph, number in decoded]
    assert found.weights == sum(sizes) >= 5120
    assert (found.least, found.most) == pytest.approx([sum(sizes) * rate for rate in expected])


def test_depthwise_weights_cost_much_at_any_width() -> None:
    model = read_model(PALETTE.read_bytes())
    plain = OperatorCode(deprecated_builtin_code=3, builtin_code=3, version=1)
    codes = tuple(plain if code.code == Op.DEPTHWISE_CONV_2D else code for code in model.operator_codes)  # fmt: skip
    assert codes != model.operator_codes
    changed = decode_cost(write_model(replace(model, operator_codes=codes)))
    found = decode_cost(PALETTE.read_bytes())
    assert found.weights == changed.weights
    assert found.least - changed.least >= SLOW[0] - FAST[1]


def test_a_plain_file_has_none_to_tell() -> None:
    assert decode_cost(PALETTE.with_name("dense.tflite").read_bytes()) == DecodeCost(0, 0.0, 0.0)
    assert list(DecodeCost(0, 0.0, 0.0).notes()) == []
    (line,) = DecodeCost(1000, 3.4e6, 4e6).notes()
    assert "1,000 weights" in line
    assert "3.40–4.00 M Cortex-M4 instructions (modelled" in line
