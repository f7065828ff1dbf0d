"""The runtimes behind one seam: open a file, run float inputs through it, get float outputs and raw bytes.

Imported in a child process only (`child.py`): native code, and TensorFlow's own libraries clash with theirs.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import TargetError
from ..export.loader import runnable

# inputs of an .onnx that are fed other numbers than float32
ONNX_TYPES = {f"tensor({name})": name for name in ("float16", "double", "int32", "int64")}
TFLITE_MODULES = {"tflite-runtime": "tflite_runtime", "ai-edge-litert": "ai_edge_litert"}
# what a compute-only interpreter may take beside its arena; the wheel's own guess is too small for DECODE
ARENA_FACTOR = 64
ARENA_LEAST = 1 << 20


class EndPoint:
    """Type, scale and zero point of a model's input or output; floats pass unchanged."""

    def __init__(self, dtype: Any, scale: float, zero_point: int) -> None:
        self.dtype = np.dtype(dtype)
        self.scale, self.zero_point = scale, zero_point

    @property
    def is_float(self) -> bool:
        """Whether values are real numbers as they are."""
        return self.dtype.kind == "f" or self.scale == 0

    def quantize(self, values: NDArray[np.float32]) -> NDArray[Any]:
        """Real numbers as the runtime takes them."""
        if self.is_float:
            return values.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        steps = np.round(values / np.float32(self.scale)) + self.zero_point
        return np.asarray(np.clip(steps, limits.min, limits.max).astype(self.dtype))

    def dequantize(self, raw: NDArray[Any]) -> NDArray[np.float32]:
        """The runtime's numbers as real ones."""
        if self.is_float:
            return raw.astype(np.float32)
        steps = raw.astype(np.float32) - np.float32(self.zero_point)
        return np.asarray(steps * np.float32(self.scale))


class Runtime(ABC):
    """An opened model with one input and one output, run one example at a time."""

    version: str
    entry: EndPoint
    exit: EndPoint

    def set_input(self, example: NDArray[np.float32]) -> None:
        """Give one example (without batch), in real numbers."""
        self._feed(self.entry.quantize(example[None]))

    def invoke(self) -> None:
        """Run it."""
        self._invoke()

    def output(self) -> NDArray[Any]:
        """The output of one example as the runtime holds it."""
        return np.array(self._fetch()[0])

    def ram_bytes(self) -> int | None:
        """Arena the model took, where the runtime knows."""
        return None

    @abstractmethod
    def run_raw(self, inputs: list[NDArray[Any]], outputs: int) -> list[NDArray[Any]]:
        """All outputs for all inputs, in the file's order and in the types it states."""

    @abstractmethod
    def _feed(self, batch: NDArray[Any]) -> None: ...

    @abstractmethod
    def _invoke(self) -> None: ...

    @abstractmethod
    def _fetch(self) -> NDArray[Any]: ...


def installed_tflite() -> str | None:
    """The first TFLite runtime that is installed."""
    for package, module in TFLITE_MODULES.items():
        if importlib.util.find_spec(module) is not None:
            return package
    return None


class TfliteRuntime(Runtime):
    """tflite-runtime or ai-edge-litert: the file is expanded by the loader, as on a device.

    resolver: a name of OpResolverType; AUTO is what users get, BUILTIN_REF the reference kernels.
    """

    def __init__(
        self, path: Path, threads: int, package: str | None = None, resolver: str = "AUTO"
    ) -> None:
        package = package or installed_tflite()
        if package is None:
            raise TargetError(
                "host-tflite needs a TFLite runtime, got none; install tflite-runtime or ai-edge-litert"
            )
        module = importlib.import_module(f"{TFLITE_MODULES[package]}.interpreter")
        self.version = f"{package} {importlib.metadata.version(package)}"
        self.interpreter = module.Interpreter(
            model_content=runnable(path.read_bytes()),
            num_threads=threads,
            experimental_op_resolver_type=getattr(module.OpResolverType, resolver),
        )
        self.interpreter.allocate_tensors()
        entry, exit_ = (
            self.interpreter.get_input_details()[0],
            self.interpreter.get_output_details()[0],
        )
        self._input, self._output = entry["index"], exit_["index"]
        self.entry = EndPoint(entry["dtype"], *entry["quantization"])
        self.exit = EndPoint(exit_["dtype"], *exit_["quantization"])

    def run_raw(self, inputs: list[NDArray[Any]], outputs: int) -> list[NDArray[Any]]:
        """See Runtime."""
        for detail, values in zip(self.interpreter.get_input_details(), inputs, strict=True):
            self.interpreter.set_tensor(detail["index"], values)
        self.interpreter.invoke()
        details = self.interpreter.get_output_details()[:outputs]
        return [np.array(self.interpreter.get_tensor(detail["index"])) for detail in details]

    def _feed(self, batch: NDArray[Any]) -> None:
        self.interpreter.set_tensor(self._input, batch)

    def _invoke(self) -> None:
        self.interpreter.invoke()

    def _fetch(self) -> NDArray[Any]:
        return np.asarray(self.interpreter.get_tensor(self._output))


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU."""

    def __init__(self, path: Path, threads: int) -> None:
        import onnxruntime

        onnxruntime.set_default_logger_severity(3)
        self._data, self._threads = path.read_bytes(), threads
        try:
            self._open(exact=True)
        except Exception:  # what its library raises is no class of Python's own
            self._open(exact=False)
        entry = self.session.get_inputs()[0]
        self._name = entry.name
        self.entry = EndPoint(ONNX_TYPES.get(entry.type, np.float32), 0.0, 0)
        self.exit = EndPoint(np.float32, 0.0, 0)
        self._fed: dict[str, Any] = {}
        self._result: Any = None

    def _open(self, exact: bool) -> None:
        """Make the session; exact: x86 kernels that add pairs of int8 products in 16 bits are passed over.

        Of that ONNX Runtime is not capable for every file, and says so at once (operators share an int8 weight or its
        zero point) or when it runs (some weights that are dequantized apart).
        """
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.inter_op_num_threads = 1
        # a refusal of the first try is not said
        options.log_severity_level = 4 if exact else 3
        options.add_session_config_entry("session.x64quantprecision", str(int(exact)))
        self.session = onnxruntime.InferenceSession(
            self._data, options, providers=["CPUExecutionProvider"]
        )
        self._exact = exact
        said = "" if exact else " (sums of int8 products overflow on x86 without VNNI)"
        self.version = f"onnxruntime {onnxruntime.__version__}{said}"

    def _run(self, fed: dict[str, Any]) -> list[Any]:
        try:
            return list(self.session.run(None, fed))
        except Exception:
            if not self._exact:
                raise
            self._open(exact=False)
            return list(self.session.run(None, fed))

    def run_raw(self, inputs: list[NDArray[Any]], outputs: int) -> list[NDArray[Any]]:
        """See Runtime."""
        names = [entry.name for entry in self.session.get_inputs()]
        fed = dict(zip(names, inputs, strict=True))
        return [np.asarray(part) for part in self._run(fed)[:outputs]]

    def _feed(self, batch: NDArray[Any]) -> None:
        self._fed = {self._name: batch}

    def _invoke(self) -> None:
        self._result = self._run(self._fed)[0]

    def _fetch(self) -> NDArray[Any]:
        return np.asarray(self._result)


class TflmRuntime(Runtime):
    """TensorFlow Lite Micro's interpreter of the tflite-micro wheel: a palette file runs in place."""

    def __init__(self, path: Path, threads: int) -> None:
        del threads  # one core, as on the device
        from tflite_micro.python.tflite_micro import runtime

        self.version = f"tflite-micro {importlib.metadata.version('tflite-micro')}"
        data = path.read_bytes()
        self.interpreter = runtime.Interpreter.from_bytes(
            data, arena_size=max(ARENA_LEAST, ARENA_FACTOR * len(data))
        )
        self.entry = self._end(self.interpreter.get_input_details(0))
        self.exit = self._end(self.interpreter.get_output_details(0))

    def run_raw(self, inputs: list[NDArray[Any]], outputs: int) -> list[NDArray[Any]]:
        """See Runtime."""
        for place, values in enumerate(inputs):
            self.interpreter.set_input(values, place)
        self.interpreter.invoke()
        return [np.array(self.interpreter.get_output(place)) for place in range(outputs)]

    def _feed(self, batch: NDArray[Any]) -> None:
        self.interpreter.set_input(batch, 0)

    def _invoke(self) -> None:
        self.interpreter.invoke()

    def _fetch(self) -> NDArray[Any]:
        return np.asarray(self.interpreter.get_output(0))

    def ram_bytes(self) -> int | None:
        """The arena as the interpreter prints it, on standard error."""
        printed = _standard_error_of(self.interpreter.print_allocations)
        found = re.search(r"Arena allocation total (\d+) bytes", printed)
        return int(found[1]) if found else None

    @staticmethod
    def _end(details: dict[str, Any]) -> EndPoint:
        parameters = details["quantization_parameters"]
        scales, zeros = parameters["scales"], parameters["zero_points"]
        scale = float(scales[0]) if len(scales) else 0.0
        return EndPoint(details["dtype"], scale, int(zeros[0]) if len(zeros) else 0)


def _standard_error_of(function: Callable[[], Any]) -> str:
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as capture:
        os.dup2(capture.fileno(), 2)
        try:
            function()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        capture.seek(0)
        return capture.read().decode(errors="replace")


RUNTIMES: dict[str, Callable[..., Runtime]] = {
    "tflite": TfliteRuntime,
    "onnx": OnnxRuntime,
    "tflm": TflmRuntime,
}
