"""An .onnx file's model, or one clear error."""

from __future__ import annotations

import onnx
from google.protobuf.message import DecodeError

from ..errors import FormatError


def read_onnx(data: bytes, name: object = "the file") -> onnx.ModelProto:
    """The model of a file's bytes, not checked further. name: for the message. Raises FormatError."""
    try:
        return onnx.load_model_from_string(data)
    except DecodeError as error:
        raise FormatError(f"{name} must be an ONNX file: {error}") from None
