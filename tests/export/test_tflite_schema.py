"""The TFLite schema: whole files read, written and read again, and seen by the runtimes' own reader."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from edgepalette.errors import FormatError
from edgepalette.export.convert import batch_one, convert_float
from edgepalette.export.flatbuffer import OpaqueTable, Table
from edgepalette.export.tflite import TfliteFiles
from edgepalette.export.tflite_schema import (
    Buffer,
    Model,
    Op,
    Operator,
    OperatorCode,
    SubGraph,
    Tensor,
    TensorType,
    constant,
    read_model,
    write_model,
)

Exported = Callable[[str, int], TfliteFiles]


def assert_same(ours: Any, theirs: Any, place: str = "model") -> None:
    """Equal field by field, tables included."""
    assert type(ours) is type(theirs), place
    if isinstance(ours, Table):
        for name, _, _ in ours.slots():
            assert_same(getattr(ours, name), getattr(theirs, name), f"{place}.{name}")
    elif isinstance(ours, tuple):
        assert len(ours) == len(theirs), place
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            assert_same(*pair, f"{place}[{number}]")
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == theirs.dtype, place
        np.testing.assert_array_equal(ours, theirs, place)
    else:
        assert ours == theirs, place


def seen_by_litert(data: bytes) -> Any:
    """The whole file as plain values, by LiteRT's generated reader: an opinion that is not ours."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return value.tolist()
        if isinstance(value, list):
            return [plain(entry) for entry in value]
        if hasattr(value, "__dict__"):
            return {name: plain(field) for name, field in vars(value).items()}
        return value

    return plain(schema.ModelT.InitFromPackedBuf(data, 0))


def assert_kept(data: bytes) -> None:
    model = read_model(data)
    written = write_model(model)
    assert_same(read_model(written), model)
    before, after = seen_by_litert(data), seen_by_litert(written)
    for field in before:
        assert after[field] == before[field], field
    assert write_model(read_model(written)) == written


@pytest.mark.parametrize("name", ["small", "recurrent", "kernels"])
@pytest.mark.parametrize("kind", ["stock", "dense", "palette"])
def test_an_int8_file_is_kept_field_by_field(exported: Exported, name: str, kind: str) -> None:
    assert_kept(getattr(exported(name, 16), kind))


def test_a_float_file_is_kept_field_by_field(clustered: Callable[[str, int], Any]) -> None:
    assert_kept(convert_float(batch_one(clustered("recurrent", 16))))


@pytest.mark.parametrize("name", ["mlperf_tiny_ic_int8", "mlperf_tiny_kws_int8"])
def test_a_published_file_is_kept_field_by_field(shared: Path, name: str) -> None:
    assert_kept((shared / "models" / f"{name}.tflite").read_bytes())


def test_old_files_name_their_operators_by_the_deprecated_code(shared: Path) -> None:
    model = read_model((shared / "models" / "mlperf_tiny_kws_int8.tflite").read_bytes())
    assert {code.builtin_code for code in model.operator_codes} == {0}
    assert {Op.CONV_2D, Op.DEPTHWISE_CONV_2D, Op.FULLY_CONNECTED} <= {
        code.code for code in model.operator_codes
    }


def test_options_with_vectors_are_kept() -> None:
    reshape, shape = 17, np.array([3, -1], "<i4")
    options = OpaqueTable(fields=(), vectors=((0, 4, shape.tobytes()),))
    model = file_of(Tensor(), None)
    operator = Operator(builtin_options_type=reshape, builtin_options=options)
    graph = replace(model.subgraphs[0], operators=(operator,))
    data = write_model(replace(model, operator_codes=(OperatorCode(),), subgraphs=(graph,)))
    assert_kept(data)
    (seen,) = seen_by_litert(data)["subgraphs"][0]["operators"]
    assert seen["builtinOptions"]["newShape"] == [3, -1]


def file_of(tensor: Tensor, data: bytes | None) -> Model:
    graph = replace(graph_of_one(), tensors=(tensor,))
    return Model(version=3, subgraphs=(graph,), buffers=(Buffer(), Buffer(data=data)))


def graph_of_one() -> SubGraph:
    return SubGraph(inputs=np.array([0], np.int32), outputs=np.array([0], np.int32))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (TensorType.FLOAT32, np.array([[1.5, -2.0]], "<f4")),
        (TensorType.INT8, np.array([[-128, 127]], "i1")),
        (TensorType.INT32, np.array([[2**31 - 1, -5]], "<i4")),
        (TensorType.INT64, np.array([[2**40, -5]], "<i8")),
    ],
)
def test_constant_gives_a_tensors_values_in_its_shape(kind: TensorType, values: Any) -> None:
    tensor = Tensor(shape=np.array([1, 2], np.int32), type=kind, buffer=1)
    found = constant(file_of(tensor, values.tobytes()), tensor)
    assert found is not None
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


def test_constant_of_a_scalar_and_of_nothing() -> None:
    scalar = Tensor(type=TensorType.FLOAT32, buffer=1)
    found = constant(file_of(scalar, np.float32(7).tobytes()), scalar)
    assert found is not None
    assert found.shape == ()
    assert constant(file_of(scalar, None), scalar) is None
    text = Tensor(type=TensorType.STRING, buffer=1)
    assert constant(file_of(text, b"abcd"), text) is None


@pytest.mark.parametrize("length", [4, 12, 7])
def test_constant_refuses_data_of_another_length_than_the_shapes(length: int) -> None:
    tensor = Tensor(
        shape=np.array([1, 2], np.int32), type=TensorType.FLOAT32, buffer=1, name=b"weights"
    )
    with pytest.raises(FormatError, match=r"tensor 'weights' of shape \(1, 2\) needs 2 values"):
        constant(file_of(tensor, bytes(length)), tensor)


def test_numbers_that_name_nothing_are_refused() -> None:
    tensor = Tensor(buffer=2)
    with pytest.raises(FormatError, match="names buffer 2 of 2"):
        read_model(write_model(file_of(tensor, None)))
    graph = replace(graph_of_one(), tensors=(Tensor(),), outputs=np.array([1], np.int32))
    model = Model(version=3, subgraphs=(graph,), buffers=(Buffer(),))
    with pytest.raises(FormatError, match=r"names a tensor outside \[0, 1\)"):
        read_model(write_model(model))


def test_an_operator_is_whichever_code_field_is_larger() -> None:
    assert OperatorCode(deprecated_builtin_code=Op.CONV_2D).code == Op.CONV_2D
    assert OperatorCode(deprecated_builtin_code=127, builtin_code=150).code == 150
