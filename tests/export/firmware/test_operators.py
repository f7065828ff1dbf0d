"""Random operators as firmware: the bytes of TFLite's reference kernels and of TFLM, under sanitizers.

A file holds many operators side by side, each with inputs and outputs of its own, so that one compilation tests all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgepalette.evaluate.cortex_m.emulator import CORES, emulate, missing
from edgepalette.evaluate.host_c import MACHINES, SANITIZERS, build, run
from edgepalette.evaluate.process import ask
from edgepalette.export.firmware import small_layers
from edgepalette.export.firmware.firmware import generate_firmware
from edgepalette.export.flatbuffer import OpaqueTable
from edgepalette.export.palette_tflite import insert_decodes, one_table, per_channel
from edgepalette.export.tflite_schema import (
    Buffer,
    Model,
    Operator,
    OperatorCode,
    QuantizationParameters,
    SubGraph,
    Tensor,
    TensorType,
    write_model,
)

SAME, VALID = 0, 1
NONE, RELU, RELU_N1_TO_1, RELU6 = range(4)
PALETTES = ("dense", "shared", "per channel")
Random = np.random.Generator
SAMPLES = 3
# those with most ways of their own
CONVOLUTIONS = ("CONV_2D", "CONV_2D, 1×1", "DEPTHWISE_CONV_2D")
REFERENCES = {
    "reference kernels": ("tflite", {"resolver": "BUILTIN_REF"}),
    "TFLM": ("tflm", {}),
}
# TFLite computes their tables in float, TFLM in fixed point: one of 256 inputs may differ by one step
ROUNDED_OTHERWISE = ("logistic", "tanh")


@dataclass
class Builder:
    """A file in the making; `cases` says of each output what it is."""

    random: Random
    tensors: list[Tensor] = field(default_factory=list)
    buffers: list[Buffer] = field(default_factory=lambda: [Buffer()])
    codes: list[OperatorCode] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    inputs: list[int] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)
    palettes: list[tuple[int, NDArray[Any], int]] = field(default_factory=list)

    def tensor(
        self,
        shape: tuple[int, ...],
        scale: Any = None,
        zero_point: int = 0,
        data: NDArray[Any] | None = None,
        axis: int = 0,
        kind: TensorType = TensorType.INT8,
    ) -> int:
        quantization = None
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, np.float32))
            zeros = np.full(len(scales), zero_point, np.int64)
            quantization = QuantizationParameters(None, None, scales, zeros, 0, None, axis)
        if data is not None:
            self.buffers.append(Buffer(data.tobytes()))
        number = len(self.buffers) - 1 if data is not None else 0
        self.tensors.append(
            Tensor(
                np.array(shape, np.int32),
                kind,
                number,
                f"{len(self.tensors)}*/ ??/\\".encode(),
                quantization,
            )
        )
        return len(self.tensors) - 1

    def activation(self, shape: tuple[int, ...], scale: float | None = None) -> int:
        """An int8 tensor of a random scale and zero point."""
        scale = float(self.random.uniform(0.01, 0.2)) if scale is None else scale
        return self.tensor(shape, scale, int(self.random.integers(-128, 128)))

    def entry(self, shape: tuple[int, ...], scale: float | None = None) -> int:
        number = self.activation(shape, scale)
        self.inputs.append(number)
        return number

    def zero_point(self, number: int) -> int:
        quantization = self.tensors[number].quantization
        assert quantization is not None
        assert quantization.zero_point is not None
        return int(quantization.zero_point[0])

    def scale(self, number: int) -> float:
        quantization = self.tensors[number].quantization
        assert quantization is not None
        assert quantization.scale is not None
        return float(quantization.scale[0])

    def like(self, number: int, shape: tuple[int, ...]) -> int:
        """A tensor of another's scale and zero point."""
        return self.tensor(shape, self.scale(number), self.zero_point(number))

    def operator(
        self,
        code: int,
        version: int,
        inputs: list[int],
        output: int,
        case: str,
        options: tuple[int, dict[int, bytes]] = (0, {}),
    ) -> None:
        self.codes.append(OperatorCode(min(code, 127), None, version, code))
        kind, fields = options
        table = OpaqueTable(tuple(sorted(fields.items())), ()) if kind else None
        self.operators.append(
            Operator(
                len(self.codes) - 1,
                np.array(inputs, np.int32),
                np.array([output], np.int32),
                kind,
                table,
            )
        )
        self.outputs.append(output)
        self.cases.append(case)

    def weights(
        self, shape: tuple[int, ...], axis: int, scales: int, bits: int | None = None
    ) -> tuple[int, str]:
        """Constant weights, dense or to be a palette of 1-7 bits, one table or several. bits: of a shared table."""
        # tables per channel where there is one scale are misread by TFLM, and never written
        forms = PALETTES if scales > 1 else PALETTES[:2]
        form = str(self.random.choice(forms)) if bits is None else "shared"
        # 4 bits have paths of their own
        bits = int(self.random.choice([1, 2, 3, 4, 4, 4, 5, 6, 7])) if bits is None else bits
        values = self.random.integers(-127, 128, shape).astype(np.int8)
        if form == "shared":
            values = self.random.choice(255, 2**bits, replace=False)[values % 2**bits] - 127
        elif form == "per channel":
            rows = np.moveaxis(values, axis, 0)
            tables = [self.random.choice(255, 2**bits, replace=False) - 127 for _ in rows]
            drawn = np.stack([t[row % 2**bits] for t, row in zip(tables, rows, strict=True)])
            values = np.moveaxis(drawn, 0, axis)
        values = np.ascontiguousarray(values.astype(np.int8))
        scale = self.random.uniform(0.001, 0.02, scales)
        number = self.tensor(shape, scale, 0, values, axis)
        if form != "dense":
            self.palettes.append((number, values, axis if form == "per channel" else -1))
        return number, f"{form}, {bits} bits"

    def bias(self, channels: int, scales: int) -> int:
        values = self.random.integers(-20000, 20000, channels).astype(np.int32)
        # a single scale is read and must be the product; others are not
        return self.tensor((channels,), None, 0, values, kind=TensorType.INT32)

    def file(self, palettes: bool = True) -> bytes:
        graph = SubGraph(
            tuple(self.tensors),
            np.array(self.inputs, np.int32),
            np.array(self.outputs, np.int32),
            tuple(self.operators),
        )
        model = Model(3, tuple(self.codes), (graph,), None, tuple(self.buffers))
        encodings = []
        for number, values, axis in self.palettes if palettes else ():
            tensor = self.tensors[number]
            found = (
                one_table(number, values, tensor)
                if axis < 0
                else per_channel(number, values, tensor, axis)
            )
            if found is not None:
                encodings.append(found)
        return write_model(insert_decodes(model, encodings) if encodings else model)


def whole(number: int) -> bytes:
    """An int32 of an options table."""
    return number.to_bytes(4, "little", signed=True)


def real(number: float) -> bytes:
    """A float of an options table."""
    return np.float32(number).tobytes()


def _size(length: int, kernel: int, stride: int, dilation: int, padding: int) -> int:
    reach = (kernel - 1) * dilation + 1
    return -(-length // stride) if padding == SAME else (length + stride - reach) // stride


def _window(b: Builder) -> tuple[list[int], list[int], list[int], list[int], int, list[int]]:
    """(kernel, stride, dilation, size, padding, output) of a random window that has outputs."""
    random = b.random
    while True:
        kernel = [int(n) for n in random.integers(1, 5, 2)]
        stride = [int(n) for n in random.integers(1, 4, 2)]
        dilation = [int(n) for n in random.choice([1, 1, 1, 2, 3], 2)]
        if random.random() < 0.7:
            dilation = [1, 1]
        size = [int(n) for n in random.integers(1, 12, 2)]
        padding = int(random.integers(2))
        output = [
            _size(n, k, s, d, padding)
            for n, k, s, d in zip(size, kernel, stride, dilation, strict=True)
        ]
        if min(output) > 0:
            return kernel, stride, dilation, size, padding, output


def _fused(b: Builder) -> int:
    return int(b.random.choice([NONE, RELU, RELU6, RELU_N1_TO_1]))


def conv(b: Builder) -> None:
    kernel, stride, dilation, size, padding, out = _window(b)
    channels, filters = (int(n) for n in b.random.integers(1, 14, 2))
    _conv(b, (1, *size, channels), kernel, stride, dilation, padding, (1, *out, filters), _fused(b))


def pointwise(b: Builder) -> None:
    """CONV_2D of 1×1: shapes that kernels have ways of their own for, and no clamp that would keep them from these."""
    batches, *size = (int(n) for n in b.random.integers(1, [3, 10, 10]))
    stride = [int(n) for n in b.random.choice([1, 1, 2, 3], 2)]
    channels, filters = int(b.random.choice([4, 8, 8, 8, 16, 24])), 4 * int(b.random.integers(1, 6))
    out = [-(-n // s) for n, s in zip(size, stride, strict=True)]
    _conv(b, (batches, *size, channels), [1, 1], stride, [1, 1], SAME, (batches, *out, filters), NONE)  # fmt: skip


def _conv(
    b: Builder,
    given: tuple[int, ...],
    kernel: list[int],
    stride: list[int],
    dilation: list[int],
    padding: int,
    made: tuple[int, ...],
    fused: int,
) -> None:
    _, *size, channels = given
    filters = made[-1]
    data = b.entry(given)
    scales = filters if b.random.random() < 0.7 else 1
    weights, form = b.weights((filters, *kernel, channels), 0, scales)
    output = b.activation(made, float(b.random.uniform(0.2, 3)))
    inputs = [data, weights, b.bias(filters, scales)]
    fields = {0: bytes([padding]), 1: whole(stride[1]), 2: whole(stride[0]), 3: bytes([fused]), 4: whole(dilation[1]), 5: whole(dilation[0])}  # fmt: skip
    case = f"conv {size}×{channels} → {filters}, {kernel} / {stride}, dilated {dilation}, padding {padding}, {form}"
    b.operator(3, 5, inputs, output, case, (1, fields))


def depthwise(b: Builder) -> None:
    kernel, stride, dilation, size, padding, _ = _window(b)
    usual = b.random.random() < 0.4
    dilation, stride = [1 if usual else max(dilation)] * 2, [stride[0]] * 2
    channels, multiple = int(b.random.integers(1, 20)), int(b.random.choice([1, 1, 1, 2, 3]))
    if usual:
        # what the kernel is fastest at, some of it in rows of which few fit the scratch
        kernel, size = [3, 3], [size[0], size[1] + int(b.random.choice([0, 150]))]
        channels, multiple = 4 * int(b.random.integers(1, 7)), 1
    out = [_size(n, k, stride[0], dilation[0], padding) for n, k in zip(size, kernel, strict=True)]
    if min(out) < 1:
        return
    data, filters = b.entry((1, *size, channels)), channels * multiple
    weights, form = b.weights((1, *kernel, filters), 3, filters)
    output = b.activation((1, *out, filters), float(b.random.uniform(0.1, 1)))
    inputs = [data, weights, b.bias(filters, filters)]
    fields = {0: bytes([padding]), 1: whole(stride[1]), 2: whole(stride[0]), 3: whole(multiple), 4: bytes([NONE if usual else _fused(b)]), 5: whole(dilation[1]), 6: whole(dilation[0])}  # fmt: skip
    case = f"depthwise {size}×{channels}·{multiple}, {kernel} / {stride}, dilated {dilation}, padding {padding}, {form}"
    b.operator(4, 6, inputs, output, case, (2, fields))


def dense(b: Builder) -> None:
    batch, inputs, outputs = (int(n) for n in b.random.integers(1, [4, 300, 20]))
    _dense(b, batch, inputs, outputs, _fused(b))


def _dense(b: Builder, batch: int, inputs: int, outputs: int, fused: int, bits: int | None = None) -> None:  # fmt: skip
    data = b.entry((batch, inputs))
    scales = outputs if b.random.random() < 0.5 else 1
    weights, form = b.weights((outputs, inputs), 0, scales, bits)
    output = b.activation((batch, outputs), float(b.random.uniform(0.2, 3)))
    given = [data, weights, -1 if scales == 1 else b.bias(outputs, scales)]
    case = f"dense {batch}×{inputs} → {outputs}, {form}"
    b.operator(9, 4, given, output, case, (8, {0: bytes([fused])}))


def transpose(b: Builder) -> None:
    kernel, stride, _, size, padding, _ = _window(b)
    stride = [stride[0]] * 2
    channels, filters = (int(n) for n in b.random.integers(1, 10, 2))
    grown = [n * s for n, s in zip(size, stride, strict=True)]
    if padding == VALID:
        grown = [g + max(k - s, 0) for g, k, s in zip(grown, kernel, stride, strict=True)]
    data = b.entry((1, *size, channels))
    weights, form = b.weights((filters, *kernel, channels), 0, filters)
    shape = np.array([1, *grown, filters], np.int32)
    output = b.activation((1, *grown, filters), float(b.random.uniform(0.2, 3)))
    inputs = [b.tensor((4,), data=shape, kind=TensorType.INT32), weights, data, b.bias(filters, filters)]  # fmt: skip
    fields = {0: bytes([padding]), 1: whole(stride[1]), 2: whole(stride[0])}
    case = (
        f"transpose {size}×{channels} → {filters}, {kernel} / {stride}, padding {padding}, {form}"
    )
    b.operator(67, 3, inputs, output, case, (49, fields))


def _elementwise(b: Builder, code: int, options: int, name: str, product: bool) -> None:
    shape = tuple(int(n) for n in b.random.integers(1, 6, int(b.random.integers(1, 5))))
    other = shape
    if b.random.random() < 0.4:
        other = tuple(1 if b.random.random() < 0.5 else n for n in shape)
    constant = b.random.random() < 0.4
    if constant and b.random.random() < 0.5:
        # every number there is, and as many as are worth a table
        shape, other = (5, 256), ((1,) if b.random.random() < 0.5 else (5, 1))
    first = b.entry(shape)
    second = _number(b, other) if constant else b.entry(other)
    swapped = [second, first] if b.random.random() < 0.3 else [first, second]
    scale = b.scale(first) * b.scale(second) * float(b.random.uniform(20, 300)) if product else None
    output = b.activation(shape, scale)
    b.operator(
        code, 2, swapped, output, f"{name} {shape} and {'constant ' * constant}{other}", (options, {0: bytes([_fused(b)])})
    )  # fmt: skip


def _number(b: Builder, shape: tuple[int, ...]) -> int:
    """A constant, the same number everywhere or others."""
    values = b.random.integers(-128, 128, shape).astype(np.int8)
    if b.random.random() < 0.5:
        values[:] = values.flat[0]
    return b.tensor(shape, float(b.random.uniform(0.01, 0.2)), int(b.random.integers(-128, 128)), values)  # fmt: skip


def add(b: Builder) -> None:
    _elementwise(b, 0, 11, "add", product=False)


def sub(b: Builder) -> None:
    _elementwise(b, 41, 28, "sub", product=False)


def mul(b: Builder) -> None:
    _elementwise(b, 18, 21, "mul", product=True)


def _pool(b: Builder, code: int, name: str) -> None:
    kernel, stride, _, size, padding, _ = _window(b)
    out = [_size(n, k, s, 1, padding) for n, k, s in zip(size, kernel, stride, strict=True)]
    if min(out) < 1:
        return
    channels = int(b.random.integers(1, 9))
    data = b.entry((1, *size, channels))
    output = b.like(data, (1, *out, channels))
    fields = {0: bytes([padding]), 1: whole(stride[1]), 2: whole(stride[0]), 3: whole(kernel[1]), 4: whole(kernel[0]), 5: bytes([_fused(b)])}  # fmt: skip
    b.operator(code, 2, [data], output, f"{name} {size}×{channels}, {kernel} / {stride}, padding {padding}", (5, fields))  # fmt: skip


def average_pool(b: Builder) -> None:
    _pool(b, 1, "average pool")


def max_pool(b: Builder) -> None:
    _pool(b, 17, "max pool")


def mean(b: Builder) -> None:
    shape = tuple(int(n) for n in b.random.integers(1, 8, 4))
    axes = [[1, 2], [2, 1], [1], [3], [-1], [1, 2, 3], [2]][int(b.random.integers(7))]
    keep = bool(b.random.integers(2))
    over = {axis % 4 for axis in axes}
    out = tuple(1 if n in over else size for n, size in enumerate(shape) if keep or n not in over)
    data = b.entry((1, *shape[1:]))
    out = tuple(1 if n in over else size for n, size in enumerate((1, *shape[1:])) if keep or n not in over)  # fmt: skip
    given = b.tensor((len(axes),), data=np.array(axes, np.int32), kind=TensorType.INT32)
    b.operator(40, 2, [data, given], b.activation(out), f"mean {shape} over {axes}", (27, {0: bytes([keep])}))  # fmt: skip


def pad(b: Builder) -> None:
    rank = int(b.random.integers(1, 5))
    shape = tuple(int(n) for n in b.random.integers(1, 6, rank))
    pairs = b.random.integers(0, 4, (rank, 2)).astype(np.int32)
    data = b.entry(shape)
    out = tuple(int(n + a + c) for n, (a, c) in zip(shape, pairs, strict=True))
    given = b.tensor(pairs.shape, data=pairs, kind=TensorType.INT32)
    inputs, code, options = [data, given], 34, 22
    if b.random.random() < 0.4:
        filler = b.random.integers(-128, 128, 1).astype(np.int8)
        inputs += [b.tensor((1,), b.scale(data), b.zero_point(data), filler)]
        code, options = 60, 42
    b.operator(code, 2, inputs, b.like(data, out), f"pad {shape} by {pairs.tolist()}", (options, {}))  # fmt: skip


def concatenation(b: Builder) -> None:
    rank = int(b.random.integers(1, 5))
    shape, axis = [int(n) for n in b.random.integers(1, 6, rank)], int(b.random.integers(rank))
    parts: list[int] = []
    for _ in range(int(b.random.integers(1, 4))):
        piece = (*shape[:axis], int(b.random.integers(1, 5)), *shape[axis + 1 :])
        parts.append(b.like(parts[0], piece) if parts else b.activation(piece))
        b.inputs.append(parts[-1])
    total = sum(b.tensors[part].dims[axis] for part in parts)
    output = b.like(parts[0], (*shape[:axis], total, *shape[axis + 1 :]))
    given = axis - rank if b.random.random() < 0.3 else axis
    b.operator(2, 2, parts, output, f"concatenation of {len(parts)} along {given}", (10, {0: whole(given)}))  # fmt: skip


def softmax(b: Builder) -> None:
    shape = tuple(int(n) for n in b.random.integers(1, 30, 2))
    data = b.entry(shape, float(np.exp(b.random.uniform(-6, 1))))
    beta = float(b.random.choice([1.0, 1.0, 0.5, 2.0]))
    output = b.tensor(shape, 1 / 256, -128)
    b.operator(25, 2, [data], output, f"softmax {shape}, beta {beta}", (9, {0: real(beta)}))


def _unary(code: int, name: str, scale: float | None, zero_point: int) -> Callable[[Builder], None]:
    """An operator whose 256 inputs are all asked for: see `examples`."""

    def made(b: Builder) -> None:
        data = b.entry((1, 256), float(np.exp(b.random.uniform(-6, 0))))
        if scale is not None:
            output = b.tensor((1, 256), scale, zero_point)
        elif name == "relu6":
            output = b.like(data, (1, 256))
        else:
            output = b.activation((1, 256), b.scale(data) * float(b.random.uniform(0.3, 3)))
        b.operator(code, 2, [data], output, f"{name} of scale {b.scale(data)}, zero point {b.zero_point(data)}")  # fmt: skip

    return made


OPERATORS: dict[str, Callable[[Builder], None]] = {
    "CONV_2D": conv,
    "CONV_2D, 1×1": pointwise,
    "DEPTHWISE_CONV_2D": depthwise,
    "FULLY_CONNECTED": dense,
    "TRANSPOSE_CONV": transpose,
    "ADD": add,
    "SUB": sub,
    "MUL": mul,
    "AVERAGE_POOL_2D": average_pool,
    "MAX_POOL_2D": max_pool,
    "MEAN": mean,
    "PAD": pad,
    "CONCATENATION": concatenation,
    "SOFTMAX": softmax,
    "LOGISTIC": _unary(14, "logistic", 1 / 256, -128),
    "TANH": _unary(28, "tanh", 1 / 128, 0),
    "RELU": _unary(19, "relu", None, 0),
    "RELU6": _unary(21, "relu6", None, 0),
    "QUANTIZE": _unary(114, "quantize", None, 0),
}


def random_model(operators: dict[str, int], seed: int) -> Builder:
    """So many of each operator."""
    b = Builder(np.random.default_rng(seed))
    for name, count in operators.items():
        before = len(b.cases)
        while len(b.cases) < before + count:
            OPERATORS[name](b)
    return b


def examples(b: Builder, samples: int) -> list[NDArray[Any]]:
    """(samples, …) for every input: random, extremes, and for 256 elements every number there is."""
    random, given = np.random.default_rng(1), []
    for number in b.inputs:
        shape = b.tensors[number].dims
        part = random.integers(-128, 128, (samples, *shape)).astype(np.int8)
        part[-1] = random.choice([-128, 127], shape)
        if shape[-1:] == (256,):
            part[:] = np.arange(-128, 128, dtype=np.int8)
        given.append(part)
    return given


def differing(b: Builder, folder: Path, ours: list[NDArray[Any]]) -> list[str]:
    """Operators whose outputs are not those of every reference."""
    dense, given_file = folder / "dense.tflite", folder / "inputs.npz"
    dense.write_bytes(b.file(palettes=False))
    np.savez(given_file, **{f"x{place}": part for place, part in enumerate(examples(b, SAMPLES))})
    wrong = []
    for name, (runtime, chosen) in REFERENCES.items():
        files = [[str(dense), str(given_file)]]
        question = {"runtime": runtime, "options": chosen, "files": files, "outputs": len(ours)}
        answer = ask("pair_child", question, name, files[0][0])
        for place, (case, outputs) in enumerate(zip(b.cases, ours, strict=True)):
            if runtime == "tflite" and case.startswith(ROUNDED_OTHERWISE):
                continue
            theirs = answer[f"f0y{place}"].reshape(outputs.shape)
            if outputs.tobytes() != theirs.tobytes():
                different = int((outputs != theirs).sum())
                wrong.append(f"{name}: {case}: {different} of {outputs.size}")
    return wrong


def on_host(b: Builder, folder: Path, *options: str, in_place: bool = True) -> list[NDArray[Any]]:
    firmware = generate_firmware(b.file(), in_place=in_place)
    program = build(firmware, folder / "c", ("-O1", *SANITIZERS, *options))
    return run(program, firmware, examples(b, SAMPLES))


@pytest.mark.slow
def test_every_operator_gives_the_bytes_of_the_reference_kernels(tmp_path: Path) -> None:
    b = random_model(dict.fromkeys(OPERATORS, 28), seed=0)
    assert len(b.cases) >= 500
    assert differing(b, tmp_path, on_host(b, tmp_path)) == []


@pytest.mark.slow
def test_the_slow_forms_agree_with_the_reference_kernels(tmp_path: Path) -> None:
    counts = {"CONV_2D": 20, "CONV_2D, 1×1": 5, "DEPTHWISE_CONV_2D": 25, "FULLY_CONNECTED": 15}
    b = random_model(counts, seed=1)
    ours = on_host(b, tmp_path, "-DEP_REFERENCE", in_place=False)
    assert differing(b, tmp_path, ours) == []


@pytest.mark.slow
@settings(
    max_examples=4,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(seed=st.integers(2, 2**32))
def test_random_operators_of_any_seed(seed: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    b = random_model(dict.fromkeys(OPERATORS, 5), seed)
    folder = tmp_path_factory.mktemp("random")
    assert differing(b, folder, on_host(b, folder)) == []


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
def test_operators_on_an_emulated_core(core: str, tmp_path: Path) -> None:
    absent = missing()
    if absent is not None:
        pytest.skip(absent)
    b = random_model(dict.fromkeys(OPERATORS, 4) | dict.fromkeys(CONVOLUTIONS, 16), seed=7)
    firmware = generate_firmware(b.file())
    done = emulate(firmware, CORES[core], examples(b, SAMPLES), tmp_path / "c")
    assert differing(b, tmp_path, done.outputs) == []


@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4"])
def test_operators_compiled_for_size(core: str, tmp_path: Path) -> None:
    """GCC then keeps registers that assembly would take."""
    absent = missing()
    if absent is not None:
        pytest.skip(absent)
    b = random_model(dict.fromkeys((*CONVOLUTIONS, "FULLY_CONNECTED"), 6), seed=9)
    done = emulate(generate_firmware(b.file()), CORES[core], examples(b, SAMPLES), tmp_path / "c", ("-Os",))  # fmt: skip
    assert differing(b, tmp_path, done.outputs) == []


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_operators_on_an_arm_machine_with_linux(machine: str, tmp_path: Path) -> None:
    absent = MACHINES[machine].missing()
    if absent is not None:
        pytest.skip(absent)
    b = random_model(dict.fromkeys(OPERATORS, 4) | dict.fromkeys(CONVOLUTIONS, 16), seed=8)
    firmware = generate_firmware(b.file())
    program = build(firmware, tmp_path / "c", machine=MACHINES[machine])
    ours = run(program, firmware, examples(b, SAMPLES), MACHINES[machine])
    assert differing(b, tmp_path, ours) == []


@pytest.mark.slow
@pytest.mark.parametrize("core", ["host", "cortex-m0plus", "cortex-m3", "cortex-m55"])
def test_the_smallest_weights(core: str, tmp_path: Path) -> None:
    """-128 · -128 twice is the one sum of two products that 16 bits do not hold."""
    absent = missing()
    if core != "host" and absent is not None:
        pytest.skip(absent)
    b = random_model({"CONV_2D": 4, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4}, seed=3)
    b.palettes.clear()
    for tensor in b.tensors:
        if tensor.buffer and tensor.type == TensorType.INT8:
            b.buffers[tensor.buffer] = Buffer(b"\x80" * int(np.prod(tensor.dims)))
    if core == "host":
        ours = on_host(b, tmp_path)
    else:
        ours = emulate(generate_firmware(b.file()), CORES[core], examples(b, SAMPLES), tmp_path / "c").outputs  # fmt: skip
    assert differing(b, tmp_path, ours) == []


@pytest.mark.slow
@pytest.mark.parametrize("bits", [4, 8])
def test_fully_connected_layers_of_every_length(bits: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    """4 bits, a shared table, where a byte is a pair, and int8: outputs in fours, twos and one left over, inputs that fill turns of 4 to 64 and do not; 2 bits."""
    absent = missing()
    if absent is not None:
        pytest.skip(absent)
    monkeypatch.setattr(small_layers, "MOST_PRODUCTS", 0)
    b = Builder(np.random.default_rng(5))
    for inputs in (1, 6, 8, 16, 28, 32, 64, 92, 136):
        for outputs in (1, 2, 4, 7, 14):
            _dense(b, 1 + inputs % 3, inputs, outputs, NONE if outputs % 7 else _fused(b), 4)
        _dense(b, 1, inputs, 3, NONE, 2)
    if bits == 8:
        b.palettes.clear()
    firmware, given = generate_firmware(b.file()), examples(b, SAMPLES)
    host = on_host(b, tmp_path)
    assert differing(b, tmp_path, host) == []
    for core in ("cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m55"):
        found = emulate(firmware, CORES[core], given, tmp_path / core).outputs
        wrong = [case for case, ours, theirs in zip(b.cases, found, host, strict=True) if ours.tobytes() != theirs.tobytes()]  # fmt: skip
        assert wrong == [], core
