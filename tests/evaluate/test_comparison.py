"""Two files are compared on real runtimes, byte for byte or within a named tolerance."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from edgepalette.errors import DataError, FormatError, TargetError
from edgepalette.evaluate.comparison import ENGINES, compare_files
from edgepalette.evaluate.signature import Port, signature
from edgepalette.export.tflite_schema import (
    Buffer,
    Model,
    Op,
    OperatorCode,
    read_model,
    write_model,
)

from .conftest import Exported


def test_a_palette_file_gives_the_dense_files_bytes_on_every_runtime(exported: Exported) -> None:
    inputs = np.load(exported.inputs)[:4]
    for form, engines in (("tflite", 3), ("onnx", 1)):
        files = [exported.file(f"{model}.{form}") for model in ("palette", "dense")]
        checks = compare_files(*files, inputs, samples=5)
        assert [check.engine for check in checks] == [
            engine.name for engine in ENGINES if (engine.target == "host-onnx") == (form == "onnx")
        ]
        assert len(checks) == engines
        assert all(check.same and check.differing == 0 and check.largest == 0 for check in checks)
        assert {check.samples for check in checks} == {9}


def test_other_weights_are_found_on_every_runtime(exported: Exported, tmp_path: Path) -> None:
    changed = with_other_weights(exported.file("dense.tflite"), tmp_path / "b.tflite")
    checks = compare_files(exported.file("palette.tflite"), changed)
    assert not any(check.same for check in checks)
    assert all(check.differing and check.largest > 0 for check in checks)
    checks = compare_files(exported.file("palette.tflite"), changed, tolerance=1.0)
    assert all(check.same for check in checks)


def test_files_of_two_formats_are_compared_as_real_numbers(exported: Exported) -> None:
    files = exported.file("palette.tflite"), exported.file("palette.onnx")
    (check,) = compare_files(*files, np.load(exported.inputs)[:10], tolerance=0.2)
    assert check.same
    assert check.differing is None
    assert 0 < check.largest < 0.2
    with pytest.raises(FormatError, match="compared with a tolerance, got tflite and onnx"):
        compare_files(*files)


def test_models_of_several_inputs_and_outputs_are_run_whole(tmp_path: Path) -> None:
    paths = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for path, factor in zip(paths, (2.0, 3.0), strict=True):
        onnx.save(two_inputs(factor), path)
    found = signature(paths[0])
    assert [port.shape for port in found.inputs] == [(1, 3), (1, 3)]
    assert len(found.outputs) == 2
    (same,) = compare_files(paths[0], paths[0])
    assert same.same
    assert same.compared == 16 * 2 * 3 * 4
    (other,) = compare_files(*paths)
    assert not other.same
    with pytest.raises(DataError, match="a model of one input, got a model of 2"):
        compare_files(*paths, np.zeros((2, 3), np.float32))


def test_a_runtime_that_runs_neither_file_is_named_and_left_out(
    exported: Exported, tmp_path: Path
) -> None:
    file = with_a_strange_operator(exported.file("dense.tflite"), tmp_path / "strange.tflite")
    with pytest.raises(
        TargetError, match="a runtime must run the files, but none does: tflite, default"
    ):
        compare_files(file, file)


def test_a_runtime_that_runs_one_file_only_tells_them_apart(
    exported: Exported, tmp_path: Path
) -> None:
    strange = with_a_strange_operator(exported.file("dense.tflite"), tmp_path / "strange.tflite")
    checks = compare_files(exported.file("dense.tflite"), strange)
    assert [check.same for check in checks] == [False] * 3
    assert all("strange.tflite" in check.note for check in checks)
    assert all(check.to_json()["largest_difference"] is None for check in checks)


def test_mistakes_are_named(exported: Exported, tmp_path: Path) -> None:
    dense = exported.file("dense.tflite")
    with pytest.raises(
        FormatError,
        match=r"must end in \.tflite or \.onnx, got .*nowhere\.tflite, which is no file",
    ):
        compare_files(dense, tmp_path / "nowhere.tflite")
    shutil.copy(dense, tmp_path / "dense.bin")
    with pytest.raises(FormatError, match=r"must end in \.tflite or \.onnx, got .*dense\.bin"):
        compare_files(dense, tmp_path / "dense.bin")
    with pytest.raises(DataError, match=r"inputs must have shape \(N, 8, 8, 1\), got \(2, 7\)"):
        compare_files(dense, dense, np.zeros((2, 7), np.float32))
    onnx.save(two_inputs(1.0), tmp_path / "two.onnx")
    with pytest.raises(FormatError, match="must have the same inputs, got shapes"):
        compare_files(dense, tmp_path / "two.onnx", tolerance=1.0)
    (tmp_path / "damaged.onnx").write_bytes(b"\xff" * 100)
    with pytest.raises(FormatError, match="must be an ONNX file"):
        compare_files(tmp_path / "damaged.onnx", tmp_path / "damaged.onnx")


def test_random_inputs_span_what_a_port_takes() -> None:
    generator = np.random.default_rng(0)
    int8 = Port("x", (4, 50), "|i1", 0.5, -3)
    values = int8.random(100, generator)
    assert (values.min(), values.max()) == (-128, 127)
    assert np.array_equal(int8.raw(int8.real(values)), values)
    real = Port("x", (50,), "<f4").random(4, generator)
    assert real.dtype == np.float32
    spreads = real.std(axis=1)
    assert spreads.max() > 100 * spreads.min()
    places = Port("x", (50,), "<i4").random(4, generator)
    assert set(places.ravel()) == {0, 1}


def with_other_weights(path: Path, out: Path) -> Path:
    model = read_model(path.read_bytes())
    largest = max(range(len(model.buffers)), key=lambda n: len(model.buffers[n].data or b""))
    data: NDArray[Any] = np.frombuffer(model.buffers[largest].data or b"", np.int8).copy()
    data[:] = np.roll(data, 1)
    buffers = [
        Buffer(data=data.tobytes()) if n == largest else b for n, b in enumerate(model.buffers)
    ]
    out.write_bytes(write_model(replace(model, buffers=tuple(buffers))))
    return out


def with_a_strange_operator(path: Path, out: Path) -> Path:
    model: Model = read_model(path.read_bytes())
    code = OperatorCode(Op.CUSTOM, b"Nobodys", builtin_code=Op.CUSTOM)
    out.write_bytes(write_model(replace(model, operator_codes=(code, *model.operator_codes[1:]))))
    return out


def two_inputs(factor: float) -> Any:
    """(x, y) → (x + y, factor · y), any batch."""
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    ports = [helper.make_tensor_value_info(name, kind, ["n", 3]) for name in "xyst"]
    nodes = [helper.make_node("Add", ["x", "y"], ["s"]), helper.make_node("Mul", ["y", "f"], ["t"])]
    constant = helper.make_tensor("f", kind, [], [factor])
    graph = helper.make_graph(nodes, "g", ports[:2], ports[2:], [constant])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
