"""An .onnx file's model and its constants, or one clear error."""

from __future__ import annotations

from typing import Any

import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from ..errors import FormatError


def read_onnx(data: bytes, name: object = "the file") -> onnx.ModelProto:
    """The model of a file's bytes, its names all text, not checked further. name: for the message. Raises FormatError."""
    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise FormatError(f"{name} must be an ONNX file: {error}") from None
    if not _is_text(model):
        raise FormatError(f"{name} must be an ONNX file, got names that are no text; it is damaged")
    return model


def _is_text(message: Any) -> bool:
    """Whether all strings are UTF-8: protobuf gives others as bytes."""
    for field, value in message.ListFields():
        values = value if field.is_repeated else (value,)
        if field.type == field.TYPE_STRING and not all(isinstance(part, str) for part in values):
            return False
        if field.type == field.TYPE_MESSAGE and not all(map(_is_text, values)):
            return False
    return True


def check_onnx(data: bytes) -> None:
    """Raises FormatError for a model that breaks a rule onnx's checker knows."""
    try:
        onnx.checker.check_model(data)
    # names that are no UTF-8 make a message that is none
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        said = (str(error).strip().splitlines() or ["it cannot be read"])[0]
        raise FormatError(f"the file must be an ONNX file: {said}") from None


def check_inside(tensor: TensorProto) -> None:
    """Raises FormatError for a constant that lies in another file: its name may be that of any file of the machine."""
    if tensor.data_location == TensorProto.EXTERNAL:
        raise FormatError(
            f"an .onnx must hold its weights itself, got {tensor.name!r} in a file beside it; read it by onnx.load and "
            "write it by onnx.save"
        )


def tensor_values(tensor: TensorProto) -> NDArray[Any]:
    """A constant's values. Raises FormatError if they lie elsewhere or do not fit its type and sizes."""
    check_inside(tensor)
    try:
        return numpy_helper.to_array(tensor)
    # whatever onnx and numpy say of sizes and types that do not fit
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise FormatError(
            f"initializer {tensor.name!r} cannot be read ({error}); the file is damaged"
        ) from None
