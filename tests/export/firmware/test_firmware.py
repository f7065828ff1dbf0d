"""Whole models as firmware, what is refused, and what the folder holds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgepalette.errors import ExportError, FormatError
from edgepalette.evaluate.cortex_m.emulator import CORES, emulate, missing
from edgepalette.evaluate.host_c import SANITIZERS, build, run
from edgepalette.evaluate.process import ask
from edgepalette.export.cluster_tflite import cluster_tflite
from edgepalette.export.firmware.call import Share
from edgepalette.export.firmware.firmware import generate_firmware
from edgepalette.export.lean import lean
from edgepalette.export.palette_tflite import palettize
from edgepalette.export.tflite_schema import TensorType, read_model, write_model

MODELS = ("mlperf_tiny_ic_int8", "mlperf_tiny_kws_int8")
SAMPLES = 20


def palette_file(original: bytes, clusters: int) -> bytes:
    return palettize(lean(cluster_tflite(read_model(original), clusters)[0])).data


@pytest.mark.slow
@pytest.mark.parametrize("clusters", [0, 16, 4], ids=["dense", "16", "4"])
@pytest.mark.parametrize("name", MODELS)
def test_a_model_gives_tflms_bytes(name: str, clusters: int, shared: Path, tmp_path: Path) -> None:
    data = (shared / "models" / f"{name}.tflite").read_bytes()
    data = palette_file(data, clusters) if clusters else data
    file, given = tmp_path / "m.tflite", tmp_path / "x.npz"
    file.write_bytes(data)
    firmware = generate_firmware(data)
    random, shape = np.random.default_rng(0), (SAMPLES, *firmware.graph.inputs[0].shape)
    inputs = random.integers(-128, 128, shape).astype(np.int8)
    np.savez(given, x0=inputs)
    program = build(firmware, tmp_path / "c", ("-O1", *SANITIZERS))
    (ours,) = run(program, firmware, [inputs])
    for runtime, options in (("tflite", {"resolver": "BUILTIN_REF"}), ("tflm", {})):
        question = {"runtime": runtime, "options": options, "files": [[str(file), str(given)]]}
        answer = ask("pair_child", {**question, "outputs": 1}, runtime, str(file))
        assert answer["f0y0"].tobytes() == ours.tobytes(), runtime
    # softmax is nearly sure of most noise
    assert len(np.unique(ours)) > 4


def test_the_same_file_gives_the_same_text(shared: Path) -> None:
    data = (shared / "models" / f"{MODELS[0]}.tflite").read_bytes()
    first, second = generate_firmware(data), generate_firmware(data)
    assert first.files == second.files
    assert "malloc" not in "".join(first.files.values())


def test_what_is_stored_otherwise_than_in_the_file_is_said(shared: Path) -> None:
    original = (shared / "models" / f"{MODELS[0]}.tflite").read_bytes()
    made = generate_firmware(palette_file(original, 16))
    assert [remark.partition(":")[0] for remark in made.remarks] == ["fully_connected_24"]
    assert f"{made.remarks[0]}." in made.files["README.md"]
    assert generate_firmware(original).remarks == ()


def test_scratch_is_bounded(shared: Path) -> None:
    data = (shared / "models" / f"{MODELS[0]}.tflite").read_bytes()
    small, large = generate_firmware(data, scratch=6200), generate_firmware(data, scratch=16000)
    assert small.scratch <= 6200 < large.scratch <= 16000
    assert small.arena < large.arena
    with pytest.raises(ExportError, match=r"--scratch must be at least \d+ for CONV_2D .*got 100"):
        generate_firmware(data, scratch=100)


def test_what_firmware_does_not_run_is_named(shared: Path) -> None:
    model = read_model((shared / "models" / f"{MODELS[0]}.tflite").read_bytes())
    graph = model.subgraphs[0]
    # the first convolution as an operator no kernel has
    codes = tuple(replace(code, deprecated_builtin_code=32, builtin_code=32, custom_code=b"Mine") for code in model.operator_codes)  # fmt: skip
    with pytest.raises(ExportError, match=r"firmware runs ADD, .*got Mine for tensor 22 \(model"):
        generate_firmware(write_model(replace(model, operator_codes=codes)))
    tensors = tuple(
        replace(tensor, type=TensorType.INT16) if number == 22 else tensor
        for number, tensor in enumerate(graph.tensors)
    )
    wrong = replace(model, subgraphs=(replace(graph, tensors=tensors),))
    with pytest.raises(
        ExportError, match=r"CONV_2D \(operator 0\): tensor 22 .*must be int8.*got int16"
    ):
        generate_firmware(write_model(wrong))
    short = replace(graph.operators[0], inputs=graph.operators[0].inputs[:1])
    damaged = replace(model, subgraphs=(replace(graph, operators=(short, *graph.operators[1:])),))
    with pytest.raises(ExportError, match=r"CONV_2D \(operator 0\).*2 inputs, got 1"):
        generate_firmware(write_model(damaged))
    with pytest.raises(FormatError, match="identifier"):
        generate_firmware(b"no model at all")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("core", "instructions"),
    [("cortex-m4", 13_200_000), ("cortex-m0plus", 48_500_000), ("cortex-m55", 4_800_000)],
)
def test_resnet8_takes_what_is_promised(
    core: str, instructions: int, shared: Path, tmp_path: Path
) -> None:
    """Promised: at most 20.8 M instructions on an M4, 58 KB of flash, 42 KB of RAM, 43 KB of weights and tables, 15 KB of code; and what it takes today."""
    absent = missing()
    if absent is not None:
        pytest.skip(absent)
    data = palette_file((shared / "models" / f"{MODELS[0]}.tflite").read_bytes(), 16)
    firmware = generate_firmware(data)
    inputs = np.random.default_rng(0).integers(-128, 128, (2, 1, 32, 32, 3)).astype(np.int8)
    first = emulate(firmware, CORES[core], [inputs], tmp_path / "a")
    again = emulate(firmware, CORES[core], [inputs], tmp_path / "b")
    assert (first.instructions, first.parts) == (again.instructions, again.parts)
    assert first.instructions <= instructions
    assert first.code <= 15_000
    assert first.constants <= 43_400
    assert firmware.flash[Share.WEIGHTS] + firmware.flash[Share.TABLES] <= 39_300
    assert firmware.arena + first.stack <= 42_000
