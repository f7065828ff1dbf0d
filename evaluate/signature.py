"""What a model file takes and gives: its inputs and outputs, read from the file without running it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError
from ..export.tflite_schema import NUMPY_TYPES, Model, Tensor, TensorType, read_model

# spread of random real numbers: networks take pixels as well as numbers about 1
SPREADS = (0.25, 1.0, 4.0, 64.0)
# random whole numbers that are no quantized values stay below: they may be places in a table
FEW = 2
FORMATS = {".tflite": "tflite", ".onnx": "onnx"}


@dataclass(frozen=True)
class Port:
    """An input or output. scale 0: values are real or whole numbers as they are. Unknown sizes count as 1."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float = 0.0
    zero_point: int = 0

    @property
    def is_quantized(self) -> bool:
        """Whether integers stand for real numbers."""
        return self.scale != 0

    def random(self, samples: int, generator: np.random.Generator) -> NDArray[Any]:
        """(samples, …) raw values: over the whole range of a quantized type, else real numbers of several spreads."""
        shape, dtype = (samples, *self.shape), np.dtype(self.dtype)
        if dtype.kind == "f":
            spread = np.resize(SPREADS, samples).reshape(-1, *[1] * len(self.shape))
            return np.asarray((generator.normal(size=shape) * spread).astype(dtype))
        if not self.is_quantized:
            return np.asarray(generator.integers(0, FEW, shape).astype(dtype))
        limits = np.iinfo(dtype)
        return np.asarray(generator.integers(limits.min, limits.max, shape, dtype, endpoint=True))

    def real(self, raw: NDArray[Any]) -> NDArray[np.float64]:
        """Raw values as real numbers."""
        if not self.is_quantized:
            return raw.astype(np.float64)
        return (raw.astype(np.float64) - self.zero_point) * self.scale

    def raw(self, real: NDArray[Any]) -> NDArray[Any]:
        """Real numbers as this port takes them."""
        dtype = np.dtype(self.dtype)
        if not self.is_quantized:
            return real.astype(dtype)
        limits = np.iinfo(dtype)
        steps = np.round(real / self.scale) + self.zero_point
        return np.asarray(np.clip(steps, limits.min, limits.max).astype(dtype))


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs in the file's order."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def format_of(path: Path) -> str:
    """The format a path names, tflite or onnx. Raises FormatError for any other file."""
    found = FORMATS.get(path.suffix)
    if found is None or not path.is_file():
        raise FormatError(
            f"a file to run must end in {' or '.join(FORMATS)}, got {path}"
            + ("" if path.is_file() else ", which is no file")
        )
    return found


def signature(path: Path) -> Signature:
    """Of a .tflite or .onnx file. Raises FormatError for a file of another format, or damaged."""
    return (
        _of_tflite(read_model(path.read_bytes())) if format_of(path) == "tflite" else _of_onnx(path)
    )


def _of_tflite(model: Model) -> Signature:
    graph = model.subgraphs[0]

    def ports(numbers: NDArray[np.int32] | None) -> tuple[Port, ...]:
        if numbers is None or numbers.size == 0 or numbers.min() < 0:
            raise FormatError("a model must have inputs and outputs, got none; the file is damaged")
        return tuple(port_of(graph.tensors[int(number)]) for number in numbers)

    return Signature(ports(graph.inputs), ports(graph.outputs))


def port_of(tensor: Tensor) -> Port:
    """A tensor as an input or output. Raises FormatError for one whose type holds no numbers."""
    name = tensor.label
    if tensor.type == TensorType.BOOL:
        return Port(name, tensor.dims, "bool")
    if tensor.type not in NUMPY_TYPES:
        raise FormatError(f"input or output {name!r} is of a type without numbers, {tensor.type}")
    dtype = np.dtype(NUMPY_TYPES[TensorType(tensor.type)]).str
    quantization = tensor.quantization
    if quantization is None or quantization.scale is None or not quantization.scale.size:
        return Port(name, tensor.dims, dtype)
    zeros = quantization.zero_point
    zero = int(zeros[0]) if zeros is not None and zeros.size else 0
    return Port(name, tensor.dims, dtype, float(quantization.scale[0]), zero)


def _of_onnx(path: Path) -> Signature:
    import onnx

    from ..export.onnx_file import read_onnx

    graph = read_onnx(path.read_bytes(), path).graph
    constants = {initializer.name for initializer in graph.initializer}

    def port(value: Any) -> Port:
        tensor = value.type.tensor_type
        try:
            dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        except (KeyError, ValueError):
            raise FormatError(
                f"input or output {value.name!r} is of a type without numbers"
            ) from None
        # a size that is a name, or missing, may be anything
        shape = tuple(max(1, int(size.dim_value)) for size in tensor.shape.dim)
        return Port(value.name, shape, np.dtype(dtype).str)

    inputs = tuple(port(value) for value in graph.input if value.name not in constants)
    outputs = tuple(port(value) for value in graph.output)
    if not inputs or not outputs:
        raise FormatError(f"{path} must have inputs and outputs, got none; it is damaged")
    return Signature(inputs, outputs)
