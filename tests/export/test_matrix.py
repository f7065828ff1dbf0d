"""Every index width of every kind of kernel, table form and weight type: the dense file's bits on every runtime.

Models of one operator with odd sizes, so that neither rows nor channels end on byte borders.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import prod
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgepalette.evaluate.comparison import ENGINES, Engine
from edgepalette.evaluate.process import ask
from edgepalette.evaluate.target import TARGETS
from edgepalette.export.flatbuffer import OpaqueTable
from edgepalette.export.loader import ONE_TABLE, expand
from edgepalette.export.palette_tflite import (
    Encoding,
    Tables,
    channel_axes,
    insert_decodes,
    one_table,
    palettize,
    per_channel,
)
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
    read_model,
    write_model,
)

SAMPLES = 2
INPUT_SCALE, WEIGHT_SCALE, OUTPUT_SCALE = 0.05, 0.01, 0.5
BIT_WIDTHS = range(1, 8)
TYPES = (TensorType.INT8, TensorType.FLOAT32)
LITERT = Engine("LiteRT, default kernels", "host-tflite", {"package": "ai-edge-litert"})
TFLITE_ENGINES = [e for e in ENGINES if TARGETS[e.target].format == "tflite"] + [LITERT]


@dataclass(frozen=True)
class Kernel:
    """An operator on one input. places: of (data, weights, bias) among its inputs; a shape comes first if they leave room.

    options: (number of the options' table, its fields). version: of the operator with int8 weights of several scales.
    """

    name: str
    op: Op
    version: int
    data: tuple[int, ...]
    weights: tuple[int, ...]
    output: tuple[int, ...]
    axis: int
    places: tuple[int, int, int]
    options: tuple[int, tuple[tuple[int, bytes], ...]]

    @property
    def channels(self) -> int:
        """Output channels."""
        return self.weights[self.axis]


def whole(number: int) -> bytes:
    """An int32 of an options table."""
    return number.to_bytes(4, "little")


SAME = b"\x00"
CONV = Kernel(
    "conv", Op.CONV_2D, 5, (1, 7, 5, 15), (5, 3, 3, 15), (1, 4, 3, 5), 0, (0, 1, 2),
    (1, ((0, SAME), (1, whole(2)), (2, whole(2)))),
)  # fmt: skip
# three channels for every one of the input
DEPTHWISE = Kernel(
    "depthwise", Op.DEPTHWISE_CONV_2D, 6, (1, 8, 7, 3), (1, 13, 11, 9), (1, 8, 7, 9), 3, (0, 1, 2),
    (2, ((0, SAME), (1, whole(1)), (2, whole(1)), (3, whole(3)))),
)  # fmt: skip
DENSE = Kernel(
    "dense", Op.FULLY_CONNECTED, 4, (1, 135), (7, 135), (1, 7), 0, (0, 1, 2), (8, ()),
)  # fmt: skip
TRANSPOSE = Kernel(
    "transpose conv", Op.TRANSPOSE_CONV, 3, (1, 4, 3, 7), (5, 5, 5, 7), (1, 8, 6, 5), 0, (2, 1, 3),
    (49, ((0, SAME), (1, whole(2)), (2, whole(2)))),
)  # fmt: skip
# TFLM's DECODE takes the last axis for the channels' only where there are several
ONE_CHANNEL = Kernel(
    "depthwise of one channel", Op.DEPTHWISE_CONV_2D, 3, (1, 8, 7, 1), (1, 27, 29, 1), (1, 8, 7, 1), 3, (0, 1, 2),
    (2, ((0, SAME), (1, whole(1)), (2, whole(1)), (3, whole(1)))),
)  # fmt: skip
KERNELS = (CONV, DEPTHWISE, DENSE, TRANSPOSE)


@dataclass(frozen=True)
class Case:
    """One cell of the matrix."""

    kernel: Kernel
    bits: int
    tables: Tables
    type: TensorType

    def __str__(self) -> str:
        return (
            f"{self.kernel.name}, {self.bits} bits, {self.tables.value}, {self.type.name.lower()}"
        )


CASES = [Case(*cell) for cell in product(KERNELS, BIT_WIDTHS, Tables, TYPES)]
# a single table has nothing to do with channels, nor with the axis of their scales
CASES += [Case(ONE_CHANNEL, bits, Tables.SHARED, kind) for bits in (3, 5) for kind in TYPES]


def weights(case: Case) -> NDArray[Any]:
    """Exactly 2^bits values in the tensor, or in each channel others."""
    kernel, random = case.kernel, np.random.default_rng(case.bits)
    rows = kernel.channels if case.tables is Tables.PER_CHANNEL else 1
    count = prod(kernel.weights) // rows
    codes = np.stack([random.permutation(np.arange(count) % 2**case.bits) for _ in range(rows)])
    if case.type == TensorType.FLOAT32:
        table = random.normal(size=(rows, 2**case.bits)).astype(np.float32)
    else:
        drawn = [random.choice(255, 2**case.bits, replace=False) - 127 for _ in range(rows)]
        table = np.stack(drawn).astype(np.int8)
    values = np.take_along_axis(table, codes, axis=1)
    if rows == 1:
        return values.reshape(kernel.weights)
    shape = np.moveaxis(np.empty(kernel.weights), kernel.axis, 0).shape
    return np.ascontiguousarray(np.moveaxis(values.reshape(shape), 0, kernel.axis))


def dense_model(case: Case, values: NDArray[Any]) -> Model:
    """A lean file of one operator with these weights: tensors are input, weights, bias, output, and a shape."""
    kernel, real = case.kernel, case.type == TensorType.FLOAT32
    random = np.random.default_rng(case.bits)
    scales = np.linspace(0.5, 1.5, kernel.channels, dtype=np.float32) * np.float32(WEIGHT_SCALE)

    def stated(scale: NDArray[np.float32], axis: int = 0) -> QuantizationParameters | None:
        zeros = np.zeros(len(scale), np.int64)
        return None if real else QuantizationParameters(None, None, scale, zeros, 0, None, axis)

    def activation(shape: tuple[int, ...], scale: float) -> Tensor:
        quantization = stated(np.array([scale], np.float32))
        return Tensor(np.array(shape, np.int32), case.type, quantization=quantization)

    bias = random.normal(size=kernel.channels) * 10
    plain = bias.astype(np.float32) if real else (bias * 100).astype(np.int32)
    data = [values.tobytes(), plain.tobytes()]
    tensors = [
        activation(kernel.data, INPUT_SCALE),
        Tensor(
            np.array(values.shape, np.int32),
            case.type,
            1,
            quantization=stated(scales, kernel.axis),
        ),
        Tensor(
            np.array(plain.shape, np.int32),
            case.type if real else TensorType.INT32,
            2,
            # a single scale stays in lean files: TFLM asks for it
            quantization=stated(scales * np.float32(INPUT_SCALE)) if len(scales) == 1 else None,
        ),
        activation(kernel.output, OUTPUT_SCALE),
    ]
    inputs = np.full(max(kernel.places) + 1, 4, np.int32)
    inputs[list(kernel.places)] = [0, 1, 2]
    if 4 in inputs:
        tensors.append(Tensor(np.array([4], np.int32), TensorType.INT32, 3))
        data.append(np.array(kernel.output, np.int32).tobytes())
    number, fields = kernel.options
    operator = Operator(
        inputs=inputs,
        outputs=np.array([3], np.int32),
        builtin_options_type=number,
        builtin_options=OpaqueTable(fields, ()),
    )
    code = OperatorCode(kernel.op, None, 3 if real else kernel.version, kernel.op)
    graph = SubGraph(tuple(tensors), np.array([0], np.int32), np.array([3], np.int32), (operator,))
    return Model(3, (code,), (graph,), None, (Buffer(), *map(Buffer, data)))


@cache
def encoded(case: Case) -> tuple[Model, Encoding]:
    """The dense model and its weights' encoding, whether it pays or not."""
    values = weights(case)
    model = dense_model(case, values)
    tensor = model.subgraphs[0].tensors[1]
    if case.tables is Tables.SHARED:
        found = one_table(1, values, tensor)
    else:
        found = per_channel(1, values, tensor, case.kernel.axis)
    assert found is not None
    return model, found


def examples(case: Case) -> NDArray[Any]:
    """(SAMPLES, …) inputs as the file takes them."""
    random, shape = np.random.default_rng(0), (SAMPLES, *case.kernel.data)
    if case.type == TensorType.FLOAT32:
        return random.normal(size=shape).astype(np.float32)
    return random.integers(-128, 128, shape).astype(np.int8)


Outputs = dict[Case, tuple[NDArray[Any], NDArray[Any]]]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Outputs]:
    """Outputs of (dense, palette) of every case, by one process per runtime."""
    folder = tmp_path_factory.mktemp("matrix")
    files = []
    for number, case in enumerate(CASES):
        model, encoding = encoded(case)
        given = folder / f"{number}.npz"
        np.savez(given, x0=examples(case))
        for form, written in (("dense", model), ("palette", insert_decodes(model, [encoding]))):
            path = folder / f"{number} {case} {form}.tflite"
            path.write_bytes(write_model(written))
            files.append([str(path), str(given)])
    return cache(lambda engine: _answers(engine, files))


def _answers(name: str, files: list[list[str]]) -> Outputs:
    engine = next(engine for engine in TFLITE_ENGINES if engine.name == name)
    target = TARGETS[engine.target]
    question = {
        "runtime": target.runtime,
        "options": dict(engine.options),
        "files": files,
        "outputs": 1,
    }
    answer = ask("pair_child", question, engine.name, files[0][0])
    return {
        case: (answer[f"f{2 * number}y0"], answer[f"f{2 * number + 1}y0"])
        for number, case in enumerate(CASES)
    }


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("engine", TFLITE_ENGINES, ids=lambda engine: engine.name)
def test_the_palette_gives_the_dense_files_bits(
    engine: Engine, case: Case, outputs: Callable[[str], Outputs]
) -> None:
    missing = TARGETS[engine.target].missing()
    if missing is not None:
        pytest.skip(missing)
    dense, palette = outputs(engine.name)[case]
    assert dense.dtype == palette.dtype
    assert dense.tobytes() == palette.tobytes()
    assert dense.shape == (SAMPLES, *case.kernel.output)
    assert len(np.unique(dense)) > SAMPLES * case.kernel.channels / 2, "outputs must vary"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_index_is_as_wide_as_the_case_says_and_expands_to_the_same_bytes(case: Case) -> None:
    model, encoding = encoded(case)
    assert encoding.record.bits == case.bits
    assert encoding.shared == (case.tables is Tables.SHARED)
    one_scale = case.type == TensorType.FLOAT32 or case.kernel.channels == 1
    shared_axis = ONE_TABLE if one_scale else 0
    assert encoding.record.axis == (shared_axis if encoding.shared else case.kernel.axis)
    assert len(encoding.packed) == (prod(case.kernel.weights) * case.bits + 7) // 8
    expanded = read_model(expand(write_model(insert_decodes(model, [encoding]))))
    for ours, theirs in zip(expanded.subgraphs[0].tensors, model.subgraphs[0].tensors, strict=True):
        a, b = constant(expanded, ours), constant(model, theirs)
        assert (a is None) == (b is None)
        assert a is None or b is None or a.tobytes() == b.tobytes()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_written_is_the_smallest_of_all_forms(case: Case) -> None:
    """By the count of bytes of the whole files: dense, one table, a table per channel."""
    values = weights(case)
    model = dense_model(case, values)
    tensor = model.subgraphs[0].tensors[1]
    forms = [one_table(1, values, tensor)]
    forms += [per_channel(1, values, tensor, axis) for axis in channel_axes(values, tensor)]
    files = [write_model(insert_decodes(model, [form])) for form in forms if form is not None]
    made = palettize(model)
    assert len(made.data) == min(len(file) for file in [write_model(model), *files])
    (report,) = made.tensors
    assert (report.encoding == "dense") == (made.data == write_model(model))
