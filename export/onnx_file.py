"""An .onnx file's model, or one clear error."""

from __future__ import annotations

from typing import Any

import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from ..errors import FormatError


def read_onnx(data: bytes, name: object = "the file") -> onnx.ModelProto:
    """The model of a file's bytes, not checked further. name: for the message. Raises FormatError."""
    try:
        return onnx.load_model_from_string(data)
    except DecodeError as error:
        raise FormatError(f"{name} must be an ONNX file: {error}") from None


def check_onnx(data: bytes) -> None:
    """Raises FormatError for a model that breaks a rule onnx's checker knows."""
    try:
        onnx.checker.check_model(data)
    # names that are no UTF-8 make a message that is none
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        said = (str(error).strip().splitlines() or ["it cannot be read"])[0]
        raise FormatError(f"the file must be an ONNX file: {said}") from None


def tensor_values(tensor: TensorProto) -> NDArray[Any]:
    """A constant's values. Raises FormatError for one whose data does not fit its type and sizes."""
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise FormatError(
            f"initializer {tensor.name!r} cannot be read ({error}); the file is damaged"
        ) from None
