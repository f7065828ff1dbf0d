"""Gains in the scales: int8 weights keep their palettes, outputs keep their values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.plan import ClusterPlan
from edgepalette.evaluate.child import Outcome
from edgepalette.export.clustered import ClusteredWeight
from edgepalette.export.model_gains import model_gains
from edgepalette.export.requantize import MAX_BIAS, MIN_MULTIPLIER, RequantizedModel, requantize
from edgepalette.export.tflite import TfliteFiles
from edgepalette.export.tflite_schema import (
    Buffer,
    Model,
    Op,
    Operator,
    OperatorCode,
    QuantizationParameters,
    SubGraph,
    Tensor,
    TensorType,
    constant,
)

Exported = Callable[[str, int], TfliteFiles]
Export = Callable[[Any, NDArray[np.float32]], TfliteFiles]
Run = Callable[..., Outcome]

INPUT_SCALE, OUTPUT_SCALE = 0.05, 0.1
CENTROIDS = np.array([-1.0, -0.25, 0.0, 0.5], np.float32)
# S of the module's formula
STEP = 1.0 / 127
# half a step of the coarsest bias of these tests, whose scale is INPUT_SCALE · STEP
BIAS_STEP = 0.5 * INPUT_SCALE * STEP
# a scale is a float32
ROUNDING = 4 * float(np.finfo(np.float32).eps)


def quantized(
    values: NDArray[Any], scale: NDArray[np.float64], kind: TensorType, buffer: int
) -> tuple[Tensor, Buffer]:
    """A constant as the converter writes it; `scale` per channel of axis 0, or one."""
    along = [-1] + [1] * (values.ndim - 1)
    dtype = {TensorType.INT8: np.int8, TensorType.INT32: np.int32}[kind]
    steps = np.round(values / scale.reshape(along)).astype(dtype)
    tensor = Tensor(
        shape=np.array(values.shape, np.int32),
        type=kind,
        buffer=buffer,
        name=f"constant{buffer}".encode(),
        quantization=QuantizationParameters(
            scale=scale.astype(np.float32), zero_point=np.zeros(len(scale), np.int64)
        ),
    )
    return tensor, Buffer(data=steps.tobytes())


def activation(scale: float, size: int) -> Tensor:
    parameters = QuantizationParameters(
        scale=np.array([scale], np.float32), zero_point=np.array([3], np.int64)
    )
    return Tensor(
        shape=np.array([1, size], np.int32), type=TensorType.INT8, quantization=parameters
    )


@dataclass(frozen=True)
class Example:
    """A fully-connected layer of 4 outputs as both files hold it, and the Keras weight it is made of."""

    int8: Model
    float_model: Model
    weight: ClusteredWeight

    def requantize(self) -> RequantizedModel:
        return requantize(self.int8, self.float_model, [self.weight])


def example(
    gains: list[float], bias: list[float], per_tensor: bool = False, clustered: bool = True
) -> Example:
    random = np.random.default_rng(0)
    kernel = CENTROIDS[random.integers(0, len(CENTROIDS), (8, 4))]
    kernel[:4] = CENTROIDS[:, None]
    exact = (kernel.T * np.array(gains)[:, None]).astype(np.float32)
    exact_bias = np.array(bias, np.float32)
    largest = np.abs(exact).max() if per_tensor else np.abs(exact).max(axis=1)
    # the converter, too, raises a scale until its bias fits
    holds_bias = np.abs(exact_bias) / (INPUT_SCALE * 2**30)
    scale = np.maximum(largest / 127, holds_bias.max() if per_tensor else holds_bias)
    scale = np.atleast_1d(np.where(scale > 0, scale, 1)).astype(np.float64)
    bias_scale = INPUT_SCALE * scale
    weights, weights_data = quantized(exact, scale, TensorType.INT8, 1)
    biases, bias_data = quantized(exact_bias, bias_scale, TensorType.INT32, 2)
    operator = Operator(inputs=np.array([0, 1, 2], np.int32), outputs=np.array([3], np.int32))
    graph = SubGraph(
        tensors=(activation(INPUT_SCALE, 8), weights, biases, activation(OUTPUT_SCALE, 4)),
        inputs=np.array([0], np.int32),
        outputs=np.array([3], np.int32),
        operators=(operator,),
    )
    code = OperatorCode(builtin_code=Op.FULLY_CONNECTED)
    int8 = Model(3, (code,), (graph,), buffers=(Buffer(), weights_data, bias_data))
    floats = tuple(
        Tensor(shape=np.array(array.shape, np.int32), type=TensorType.FLOAT32, buffer=n + 1)
        for n, array in enumerate((exact, exact_bias))
    )
    buffers = (Buffer(), Buffer(data=exact.tobytes()), Buffer(data=exact_bias.tobytes()))
    float_model = Model(3, (code,), (SubGraph(tensors=floats),), buffers=buffers)
    values = kernel if clustered else random.normal(size=kernel.shape).astype(np.float32)
    return Example(int8, float_model, ClusteredWeight("dense/kernel", values))


def parts(model: Model) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(int8 weights, their scales, int32 bias, its scales)."""
    found: list[NDArray[Any]] = []
    for tensor in model.subgraphs[0].tensors[1:3]:
        values, quantization = constant(model, tensor), tensor.quantization
        assert values is not None
        assert quantization is not None
        assert quantization.scale is not None
        found += [values, quantization.scale]
    return found[0], found[1], found[2], found[3]


def test_the_table_is_rounded_centroids_and_the_gains_are_in_the_scales() -> None:
    gains = [1.0, 0.3, 20.0, 1e-3]
    bias = [0.5, -0.1, 3.0, 0.01]
    case = example(gains, bias)
    work = case.requantize()

    values, scale, biases, bias_scale = parts(work.model)
    table = {c: int(np.sign(c) * np.floor(abs(c) / STEP + 0.5)) for c in CENTROIDS.tolist()}
    expected = np.vectorize(table.get)(case.weight.values.T)
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_allclose(scale, STEP * np.array(gains), rtol=ROUNDING)
    np.testing.assert_allclose(bias_scale, INPUT_SCALE * scale, rtol=ROUNDING)
    np.testing.assert_array_equal(
        biases, np.round(np.array(bias) / (INPUT_SCALE * STEP * np.array(gains)))
    )
    (done,) = work.done
    assert (done.tensor, done.name, done.clusters, done.notes) == (1, "dense/kernel", 4, ())
    assert work.fallbacks == ()


def test_a_negative_gain_negates_its_channel_and_a_zero_one_clears_it() -> None:
    plain = parts(example([1, 1, 1, 1], [0, 0, 0, 0]).requantize().model)[0]
    work = example([1, -2, 0, 1], [0.1, 0.2, 0.3, 0.4]).requantize()
    values, scale, biases, _ = parts(work.model)
    np.testing.assert_array_equal(values, plain * np.array([[1], [-1], [0], [1]]))
    np.testing.assert_allclose(scale, STEP * np.array([1, 2, 1, 1]), rtol=ROUNDING)
    assert biases[2] == np.round(0.3 / (INPUT_SCALE * STEP))
    assert work.done[0].notes == (
        "1 of 4 channels: negative gain",
        "1 of 4 channels: all zeros",
    )


def test_a_scale_is_raised_until_its_bias_fits() -> None:
    bias = [1.0, 1.0, 1.0, 5.0]
    work = example([1, 1, 1, 1e-8], bias).requantize()
    _, scale, biases, bias_scale = parts(work.model)
    assert np.abs(biases).max() <= MAX_BIAS
    np.testing.assert_allclose(biases * bias_scale.astype(np.float64), bias, rtol=BIAS_STEP)
    assert scale[3] > STEP * 1e-8
    assert "1 of 4 channels: scale raised to hold its bias" in work.done[0].notes


def test_a_scale_is_raised_until_its_multiplier_counts() -> None:
    _, scale, _, _ = parts(example([1, 1, 1, 1e-12], [0.1, 0.1, 0.1, 0.0]).requantize().model)
    smallest = MIN_MULTIPLIER * OUTPUT_SCALE / INPUT_SCALE
    np.testing.assert_allclose(scale.min(), smallest, rtol=ROUNDING)


def test_one_scale_for_all_channels_serves_when_their_gains_are_equal() -> None:
    work = example([3, 3, 3, 3], [0.1, 0.2, 0.3, 0.4], per_tensor=True).requantize()
    values, scale, _, bias_scale = parts(work.model)
    assert len(np.unique(values)) == len(CENTROIDS)
    np.testing.assert_allclose(scale, [3 * STEP], rtol=ROUNDING)
    np.testing.assert_allclose(bias_scale, INPUT_SCALE * scale, rtol=ROUNDING)


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        (
            example([1, 2, 3, 4], [0, 0, 0, 0], per_tensor=True),
            "its operator takes one scale, its channels have different gains",
        ),
        (
            example([1, 2, 3, 4], [0, 0, 0, 0], clustered=False),
            "it is no clustered weight times a gain per channel",
        ),
        (
            replace(example([1, 2, 3, 4], [0, 0, 0, 0]), float_model=Model()),
            "no float tensor lies within half a step of it",
        ),
    ],
)
def test_what_cannot_keep_its_palette_stays_as_the_converter_wrote_it_with_the_reason(
    case: Example, reason: str
) -> None:
    work = case.requantize()
    assert work.done == ()
    assert [(f.name, f.reason) for f in work.fallbacks] == [
        ("constant1", reason),
        ("dense/kernel", "the converter makes no int8 tensor of it"),
    ]
    for ours, before in zip(parts(work.model), parts(case.int8), strict=True):
        np.testing.assert_array_equal(ours, before)


def test_more_values_than_int8_has_are_named() -> None:
    random = np.random.default_rng(0)
    case = example([1, 1, 1, 1], [0, 0, 0, 0])
    kernel = random.normal(size=(128, 4)).astype(np.float32)
    scale = np.abs(kernel).max(axis=0) / 127
    tensor, data = quantized(kernel.T, scale.astype(np.float64), TensorType.INT8, 1)
    graph = case.int8.subgraphs[0]
    tensors = (graph.tensors[0], tensor, *graph.tensors[2:])
    int8 = replace(
        case.int8,
        subgraphs=(replace(graph, tensors=tensors),),
        buffers=(Buffer(), data, case.int8.buffers[2]),
    )
    floats = Tensor(shape=np.array((4, 128), np.int32), type=TensorType.FLOAT32, buffer=1)
    float_model = Model(
        subgraphs=(SubGraph(tensors=(floats,)),),
        buffers=(Buffer(), Buffer(data=np.ascontiguousarray(kernel.T).tobytes())),
    )
    work = requantize(int8, float_model, [ClusteredWeight("dense/kernel", kernel)])
    assert work.fallbacks[0].reason == "dense/kernel has more values than int8"


def int8_constants(data: bytes) -> dict[int, NDArray[np.int8]]:
    """Constant int8 tensors by number, as LiteRT's own reader sees them."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    found = {}
    for number, tensor in enumerate(model.subgraphs[0].tensors):
        values = model.buffers[tensor.buffer].data
        if tensor.type == schema.TensorType.INT8 and values is not None and len(values):
            found[number] = np.asarray(values, np.uint8).view(np.int8).reshape(tensor.shape)
    return found


@pytest.mark.parametrize("clusters", [2, 4, 16, 100])
def test_a_files_weights_have_no_more_values_than_their_clusters(
    exported: Exported, clusters: int
) -> None:
    files = exported("kernels", clusters)
    assert {entry.name for entry in files.requantized} == {
        "conv/kernel",
        "depthwise/kernel",
        "transpose/kernel",
        "head/kernel",
    }
    assert files.fallbacks == ()
    constants = int8_constants(files.dense)
    for entry in files.requantized:
        assert len(np.unique(constants[entry.tensor])) <= clusters


def test_int8_weights_lie_within_half_a_step_of_the_folded_ones(
    exported: Exported, clustered: Callable[[str, int], Any]
) -> None:
    model, files = clustered("kernels", 16), exported("kernels", 16)
    tensors = schema.ModelT.InitFromPackedBuf(files.dense, 0).subgraphs[0].tensors
    constants = int8_constants(files.dense)
    numbers = {entry.name: entry.tensor for entry in files.requantized}
    for layer, norm in [(0, 1), (3, 4)]:
        layer, norm = model.layers[layer], model.layers[norm]
        gain = norm.gamma.numpy() / np.sqrt(norm.moving_variance.numpy() + norm.epsilon)
        kernel = layer.kernel.numpy()
        if isinstance(layer, keras.layers.DepthwiseConv2D):
            exact = kernel.reshape(1, *kernel.shape[:2], -1) * gain
        else:
            exact = np.moveaxis(kernel * gain, 3, 0)
        number = numbers[f"{layer.name}/kernel"]
        quantization = tensors[number].quantization
        along = [1] * 4
        along[quantization.quantizedDimension] = -1
        scale = np.asarray(quantization.scale).reshape(along)
        error = np.abs(constants[number] * scale - exact)
        assert np.all(error <= scale * (0.5 + 128 * ROUNDING))


# rounding of the input, of the weights and of the output, each half a step or less after the sums
OUTPUT_STEPS = 3


def difficult(kind: str) -> Any:
    """One layer and a BatchNorm whose gains are negative, 0 and 1e-6; one channel of the kernel is all zeros."""
    layers = keras.layers
    keras.utils.set_random_seed(1)
    layer = {
        "conv": lambda: layers.Conv2D(8, 3, use_bias=False),
        "depthwise": lambda: layers.DepthwiseConv2D(3, depth_multiplier=2),
        "transpose": lambda: layers.Conv2DTranspose(8, 3),
        "dense": lambda: layers.Dense(8),
        "conv1d": lambda: layers.Conv1D(8, 3),
    }[kind]()
    shape = {"dense": (24,), "conv1d": (8, 4)}.get(kind, (6, 6, 4))
    norm = layers.BatchNormalization()
    model = keras.Sequential([keras.Input(shape), layer, norm])
    random = np.random.default_rng(2)
    gains = random.uniform(0.3, 2, 8)
    gains[:4] = [-1.3, 0.0, 1e-6, -0.4]
    norm.gamma.assign(gains)
    norm.beta.assign(random.normal(size=8))
    norm.moving_variance.assign(random.uniform(0.5, 2, 8))
    kernel = layer.kernel.numpy()
    if kind == "transpose":
        kernel[:, :, 5] = 0
    else:
        kernel.reshape(-1, 8)[:, 5] = 0
    layer.kernel.assign(kernel)
    return model


@pytest.mark.parametrize(
    ("kind", "gains_known"),
    [
        ("conv", False),
        ("conv", True),
        ("depthwise", False),
        ("depthwise", True),
        ("transpose", True),
        ("dense", False),
        ("conv1d", False),
    ],
)
def test_difficult_gains_keep_the_outputs(
    kind: str, gains_known: bool, export: Export, run: Run
) -> None:
    model = difficult(kind)
    gains = model_gains(model) if gains_known else None
    cluster_weights(model, ClusterPlan.of(model, 8, gains=gains))
    samples = np.random.default_rng(0).normal(size=(16, *model.input_shape[1:]))
    samples = samples.astype(np.float32)
    files = export(model, samples)

    found = run(files.dense, samples, "tflite", resolver="BUILTIN_REF").outputs

    exact = model.predict(samples, verbose=0)
    output = schema.ModelT.InitFromPackedBuf(files.dense, 0).subgraphs[0]
    (step,) = output.tensors[output.outputs[0]].quantization.scale
    assert np.abs(found - exact).max() <= OUTPUT_STEPS * step
    # a gain of 0 leaves beta alone, and so do zeros that were told to stay
    for channel in (1, 5) if gains_known else (1,):
        assert np.ptp(found[..., channel]) == 0
    (done,) = files.requantized
    assert any("all zeros" in note for note in done.notes)
    assert any("negative gain" in note for note in done.notes)
