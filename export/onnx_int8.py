"""int8 ONNX: QuantizeLinear and DequantizeLinear about every operator, clustered weights as int8 palettes.

ONNX Runtime ranges the activations and quantizes. It takes each channel of a weight by its own largest value, and K
shared values become hundreds; `requantize` has the arithmetic that keeps one table for all channels, whose gains go
into the scales. ONNX Runtime folds the chain of a palette to the int8 constant it stands for before it fuses
DequantizeLinear with what reads it, so that int8 kernels run as for the dense file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from ..errors import ExportError
from .averages import averages_as_means
from .clustered import ClusteredWeight
from .crash import crash_name
from .gains import GainMatch, match_gains
from .onnx_file import read_onnx
from .onnx_palette import (
    OnnxFiles,
    canonical,
    check_written,
    convert_onnx,
    is_matrix,
    palettize_onnx,
)
from .requantize import MAX_BIAS, is_uniform, on_one_table, round_away

# what parent and child leave each other in their folder
FLOAT_FILE, SAMPLES = "float.onnx", "samples.npy"
FUSED_FILE, INT8_FILE, REFUSAL = "fused.onnx", "int8.onnx", "refusal.txt"
# what ONNX Runtime's quantizer puts behind the name of a tensor it quantized
QUANTIZED = "_quantized"


def export_onnx_int8(
    model: Any,
    weights: Sequence[ClusteredWeight],
    samples: NDArray[np.float32],
    means: bool = True,
) -> OnnxFiles:
    """A Keras model as int8 QDQ .onnx, dense and with palettes; inputs and outputs stay float, the batch free.

    weights: its clustered weights. samples: (N, …) inputs like those it will see. means: averages of whole maps become
    GlobalAveragePool.
    Raises ExportError for a model of several inputs, or one tf2onnx or ONNX Runtime's quantizer refuses.
    """
    if len(model.inputs) != 1:
        raise ExportError(
            f"a model must have one input to be ranged for int8, got {len(model.inputs)}; leave onnx-int8 out of the "
            "formats to go on without"
        )
    with averages_as_means(model, means) as averaged:
        floats = convert_onnx(model)
    fused, int8 = _quantized(floats, samples)
    names = _Weights(int8.graph, fused.graph, weights).keep_palettes()
    _share_equal(int8.graph)
    files = palettize_onnx(canonical(int8, names))
    check_written(files.palette)
    return replace(files, means=tuple(averaged))


def _quantized(
    model: onnx.ModelProto, samples: NDArray[np.float32]
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The model fused, and quantized; by ONNX Runtime in a process of its own: its libraries clash with TensorFlow's."""
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as name:
        folder = Path(name)
        onnx.save(model, folder / FLOAT_FILE)
        np.save(folder / SAMPLES, np.asarray(samples, np.float32), allow_pickle=False)
        command = [sys.executable, "-P", "-m", "edgepalette.export.quantize_child", name]
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603 # our own module
        refused, written = folder / REFUSAL, folder / INT8_FILE
        if done.returncode or refused.exists() or not written.exists():
            if done.returncode < 0:
                said = f"it crashed ({crash_name(done.returncode)})"
            elif refused.exists():
                said = refused.read_text()
            else:
                said = done.stderr.decode(errors="replace")[-300:]
            raise ExportError(
                "ONNX Runtime's quantizer could not write the model as int8; it said: "
                f"{(said.strip().splitlines() or ['nothing'])[0][:300]}; "
                "leave onnx-int8 out of the formats to go on without"
            )
        return read_onnx((folder / FUSED_FILE).read_bytes()), read_onnx(written.read_bytes())


class _Weights:
    """The constants of a quantized graph, edited in place, beside the float graph it was made of."""

    def __init__(self, graph: Any, fused: Any, weights: Sequence[ClusteredWeight]) -> None:
        self.graph = graph
        self.weights = list(weights)
        self.floats = {tensor.name: tensor for tensor in fused.initializer}
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.makers = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def keep_palettes(self) -> list[str]:
        """Give every weight that is a clustered one times gains its table; the names these weights got."""
        names: list[str] = []
        for node in self.graph.node:
            if node.op_type != "DequantizeLinear":
                continue
            tensor = self.constants.get(node.input[0])
            if tensor is None or tensor.data_type != TensorProto.INT8 or not is_matrix(tensor):
                continue
            found = self._match(node, tensor)
            if found is None:
                continue
            weight, match = found
            self._write(node, tensor, weight, match)
            same = sum(name.partition("#")[0] == weight.name for name in names)
            names.append(f"{weight.name}#{same + 1}" if same else weight.name)
            tensor.name = node.input[0] = names[-1]
        return names

    def _match(self, node: Any, tensor: Any) -> tuple[ClusteredWeight, GainMatch] | None:
        """What the weight was before it was quantized, by the axis of its scales."""
        exact = self._float(tensor.name)
        if exact is None or len(self.readers.get(tensor.name, ())) != 1:
            return None
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        axis %= exact.ndim
        one_scale = self._value(node.input[1]).size == 1
        # one bias of two weights would need two scales
        if any(len(self.readers[bias.output[0]]) > 1 for _, bias in self._biases(node)):
            return None
        matches = [(w, match_gains(exact, w.values, axis)) for w in self.weights]
        fits = [
            (weight, match)
            for weight, match in matches
            if match is not None and (not one_scale or is_uniform(match.gains))
        ]
        return min(fits, key=lambda fit: len(fit[0].centroids), default=None)

    def _write(self, node: Any, tensor: Any, weight: ClusteredWeight, match: GainMatch) -> None:
        exact = self._float(tensor.name)
        if exact is None:
            return
        biases = [(scale, bias, self._bias(bias)) for scale, bias in self._biases(node)]
        floor = np.zeros(len(match.gains))
        for data_scale, _, bias in biases:
            floor = np.maximum(floor, np.abs(bias) / (data_scale * MAX_BIAS))
        one_scale = self._value(node.input[1]).size == 1
        made = on_one_table(exact, weight, match, floor, one_scale)
        _fill(tensor, made.values)
        self._scale(node, made.scale)
        for data_scale, reader, bias in biases:
            bias_scale = data_scale * made.scale
            _fill(self.constants[reader.input[0]], round_away(bias / bias_scale).astype(np.int32))
            self._scale(reader, bias_scale)

    def _scale(self, node: Any, scale: NDArray[np.float64]) -> None:
        tensor = self.constants[node.input[1]]
        shape = tuple(tensor.dims)
        _fill(tensor, scale[: int(np.prod(shape))].reshape(shape).astype(np.float32))

    def _biases(self, node: Any) -> list[tuple[float, Any]]:
        """(scale of the data, DequantizeLinear of the bias) of what reads a weight."""
        found = []
        for reader in self.readers.get(node.output[0], []):
            if len(reader.input) < 3 or reader.input[1] != node.output[0]:
                continue
            data, bias = (self.makers.get(reader.input[place]) for place in (0, 2))
            if bias is not None and bias.op_type == "DequantizeLinear" and data is not None:
                found.append((float(self._value(data.input[1])), bias))
        return found

    def _bias(self, node: Any) -> NDArray[np.float64]:
        exact = self._float(node.input[0])
        if exact is not None:
            return exact.astype(np.float64)
        steps, scale = self._value(node.input[0]), self._value(node.input[1])
        return np.asarray(steps * scale.astype(np.float64))

    def _float(self, name: str) -> NDArray[np.float32] | None:
        """What a quantized tensor was made of."""
        tensor = self.floats.get(name.removesuffix(QUANTIZED))
        return None if tensor is None else numpy_helper.to_array(tensor).astype(np.float32)

    def _value(self, name: str) -> NDArray[Any]:
        return numpy_helper.to_array(self.constants[name])


def _fill(tensor: Any, values: NDArray[Any]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))


def _share_equal(graph: Any) -> None:
    """One initializer where several hold the same; but no int8 one, weights' zero points.

    ONNX Runtime's session.x64quantprecision, which x86 without VNNI needs, rewrites those and refuses shared ones.
    """
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    names = {}
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.INT8:
            continue
        key = (tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
        names[tensor.name] = first.setdefault(key, tensor.name)
    for node in graph.node:
        renamed = [names.get(name, name) for name in node.input]
        del node.input[:]
        node.input.extend(renamed)
