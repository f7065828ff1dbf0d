"""An average of a whole map has a scale of its own in the file; every other pooling stays what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper

from edgepalette.export.averages import averages_as_means
from edgepalette.export.clustered import clustered_weights
from edgepalette.export.firmware.graph import OPERATOR_NAMES
from edgepalette.export.onnx_int8 import export_onnx_int8
from edgepalette.export.tflite import TfliteFiles
from edgepalette.export.tflite_schema import read_model

layers = keras.layers
SAMPLES = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype(np.float32)


class Own(layers.AveragePooling2D):
    """A layer of the user's."""

    def call(self, inputs: Any) -> Any:
        return 2 * super().call(inputs)


def pooled(*pools: Any) -> Any:
    """A convolution, the pools and a head."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(64, 3, padding="same", activation="relu", name="conv")(inputs)
    for pool in pools:
        x = pool(x)
    return keras.Model(inputs, layers.Dense(4, name="head")(layers.Flatten()(x)))


def traced(model: Any) -> list[str]:
    with averages_as_means(model) as names:
        model(SAMPLES)
    return names


def test_an_average_of_the_whole_map_is_rounded_by_its_own_scale(
    export: Callable[[Any, NDArray[np.float32]], TfliteFiles],
) -> None:
    files = export(pooled(layers.AveragePooling2D(8, name="whole")), SAMPLES)
    assert files.means == ("whole",)
    model = read_model(files.dense)
    graph = model.subgraphs[0]
    scales = {}
    for operator in graph.operators:
        numbers = operator.inputs[0], operator.outputs[0]
        name = OPERATOR_NAMES[model.operator_codes[operator.opcode_index].code]
        scales[name] = [float(graph.tensors[int(n)].quantization.scale[0]) for n in numbers]
    assert "AVERAGE_POOL_2D" not in scales
    before, after = scales["MEAN"]
    assert after < before / 4


def test_in_int8_onnx_too() -> None:
    model = pooled(layers.AveragePooling2D(8, name="whole"))
    files = export_onnx_int8(model, clustered_weights(model), SAMPLES)
    assert files.means == ("whole",)
    graph = onnx.load_from_string(files.dense).graph
    values = {
        one.name: float(numpy_helper.to_array(one)) for one in graph.initializer if not one.dims
    }
    makers = {name: node for node in graph.node for name in node.output}
    readers = {name: node for node in graph.node for name in node.input}
    (pool,) = [node for node in graph.node if node.op_type == "GlobalAveragePool"]
    before = values[makers[pool.input[0]].input[1]]
    after = values[readers[pool.output[0]].input[1]]
    assert after < before / 4
    kept = export_onnx_int8(model, clustered_weights(model), SAMPLES, means=False)
    assert kept.means == ()
    assert any(n.op_type == "AveragePool" for n in onnx.load_from_string(kept.dense).graph.node)


@pytest.mark.parametrize(
    "pools",
    [
        (layers.AveragePooling2D(4),),
        (layers.AveragePooling2D(8, padding="same", strides=4),),
        (Own(8),),
    ],
    ids=["part of the map", "padded", "the user's"],
)
def test_other_poolings_stay(pools: tuple[Any, ...]) -> None:
    assert traced(pooled(*pools)) == []


def test_a_nested_model_is_looked_into_and_the_model_stays_as_it_was() -> None:
    pool = layers.AveragePooling2D(4, name="second")
    nested = keras.Sequential([keras.Input((4, 4, 64)), pool])
    model = pooled(layers.AveragePooling2D(2, name="first"), nested)
    before = model(SAMPLES)
    with averages_as_means(model) as names:
        np.testing.assert_allclose(model(SAMPLES), before, rtol=1e-5, atol=1e-6)
    assert names == ["second"]
    assert "call" not in vars(pool)
