"""Palettes that firmware stores as int8."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from edgepalette.export.firmware.graph import Graph, Node, Value
from edgepalette.export.firmware.small_layers import MOST_ADDED, MOST_PRODUCTS, unpack_small_layers
from edgepalette.export.loader import LutRecord
from edgepalette.export.tflite_schema import TensorType

LARGE = (640, 128)


def chain(shapes: Sequence[tuple[int, int]], bits: int = 4) -> Graph:
    """Fully-connected layers of palettes, (outputs, inputs) each, one after another."""
    random = np.random.default_rng(0)
    number = iter(range(1000))

    def value(shape: tuple[int, ...], data: np.ndarray | None = None) -> Value:
        record = None if data is None else LutRecord(bits, 0, 0, bytes(2**bits))
        scales = np.ones(1, np.float32)
        return Value(next(number), "", shape, TensorType.INT8, scales, 0, 0, data, record)

    nodes: list[Node] = []
    for place, (outputs, inputs) in enumerate(shapes):
        data = random.integers(0, 2**bits, (outputs, inputs)).astype(np.int8)
        given = (value((1, inputs)), value((outputs, inputs), data), None)
        nodes.append(Node(place, "FULLY_CONNECTED", given, value((1, outputs)), None))
    return Graph((), (), tuple(nodes))


def palettes(graph: Graph) -> list[bool]:
    return [node.operand(1).record is not None for node in graph.nodes]


def test_a_small_layer_of_a_large_model_is_stored_as_int8() -> None:
    graph, unpacked = unpack_small_layers(chain([LARGE, (10, 64)]))
    assert palettes(graph) == [True, False]
    # a byte a weight in place of half of one and 16 values
    assert [one.added for one in unpacked] == [640 - 320 - 16]
    assert "fully_connected_1: 10×64 weights" in unpacked[0].reason
    assert "304 B more" in unpacked[0].reason


def test_a_model_of_small_layers_keeps_its_palettes() -> None:
    graph, unpacked = unpack_small_layers(chain([(10, 64), (64, 10), (16, 16)]))
    assert palettes(graph) == [True, True, True]
    assert unpacked == ()


def test_what_fills_up_rows_and_what_tables_take_is_counted() -> None:
    graph, unpacked = unpack_small_layers(chain([LARGE, (7, 6)]))
    # 8 outputs of 8 inputs as bytes, in place of as many halves and 16 values
    assert [one.added for one in unpacked] == [64 - 32 - 16]
    graph, unpacked = unpack_small_layers(chain([LARGE, (2, 16)]))
    assert [one.added for one in unpacked] == [32 - 16 - 16]
    assert "no more than" in unpacked[0].reason
    assert palettes(graph) == [True, False]


def test_what_is_added_stays_within_its_part_of_the_model() -> None:
    shapes = [LARGE, *[(8, 128)] * 8, (2, 64)]
    graph, unpacked = unpack_small_layers(chain(shapes))
    stored = sum(o * i // 2 + 16 for o, i in shapes)
    added = sum(one.added for one in unpacked)
    assert added <= MOST_ADDED * stored < added + 8 * 128 // 2
    # the smallest first
    assert palettes(graph)[-1] is False


@pytest.mark.parametrize(
    ("shape", "bits"), [((MOST_PRODUCTS // 32 + 1, 32), 4), ((10, 64), 2), ((10, 64), 5)]
)
def test_other_layers_keep_their_palettes(shape: tuple[int, int], bits: int) -> None:
    graph, unpacked = unpack_small_layers(chain([LARGE, LARGE, shape], bits))
    assert palettes(graph) == [True, True, True]
    assert unpacked == ()
