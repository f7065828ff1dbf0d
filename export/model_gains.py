"""What the deployed model multiplies each weight by: read off the float file before anything is clustered."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster.weights import layer_weights
from .convert import batch_one, convert_float
from .gains import match_gains
from .requantize import weights_read
from .tflite_schema import Model, Op, TensorType, constant, read_model


def model_gains(model: Any, float_file: bytes | None = None) -> dict[str, NDArray[np.float64]]:
    """By weight name, the gain of every element of the weights found in the model's float .tflite.

    An all-zero channel has gain 0. Weights the converter fused beyond a gain per channel are not in it.
    float_file: what `convert_float` gives for the model, if it is at hand.
    Raises ExportError for a model that has no float .tflite form.
    """
    tensors = _weight_tensors(read_model(float_file or convert_float(batch_one(model))))
    gains = {}
    for weight in layer_weights(model):
        if len(weight.shape) < 2 or str(weight.variable.dtype) != "float32":
            continue
        values = weight.variable.numpy()
        for file, axis in tensors:
            match = match_gains(file, values, axis)
            if match is not None:
                gains[weight.name] = match.element_gains(weight.shape)
                break
    return gains


def _weight_tensors(model: Model) -> list[tuple[NDArray[np.float32], int]]:
    """(values, channel axis) of the constant weights of the first subgraph's operators."""
    found = []
    for number, (op, *_) in weights_read(model).items():
        code = model.operator_codes[op.opcode_index].code
        tensor = model.subgraphs[0].tensors[number]
        values = constant(model, tensor)
        if values is not None and tensor.type == TensorType.FLOAT32:
            found.append((values.astype(np.float32), 3 if code == Op.DEPTHWISE_CONV_2D else 0))
    return found
