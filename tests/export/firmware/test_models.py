"""Networks of MLPerf Tiny as firmware: TFLM's bytes on emulated cores and Arm machines, and after every operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from edgepalette.cluster.batchnorm import recalibrate_batchnorm
from edgepalette.cluster.plan import ClusterPlan, Override
from edgepalette.errors import TargetError
from edgepalette.evaluate.cortex_m.emulator import CORES, emulate, missing
from edgepalette.evaluate.host_c import MACHINES, SANITIZERS, build, run
from edgepalette.evaluate.process import ask
from edgepalette.export.cluster_tflite import cluster_tflite
from edgepalette.export.firmware.firmware import Firmware, generate_firmware
from edgepalette.export.lean import lean
from edgepalette.export.palette_tflite import palettize
from edgepalette.export.tflite_schema import read_model, write_model
from edgepalette.pipeline.zoo import find_network

FILES = {"resnet8": "mlperf_tiny_ic_int8", "ds-cnn": "mlperf_tiny_kws_int8"}
BUILTIN: dict[str, tuple[tuple[int, ...], int]] = {
    "mobilenet-v1-0.25": ((96, 96, 3), 2),
    "autoencoder": ((640,), 640),
}
# bytes of arena and stack at most
RAM = {"resnet8": 42_000, "ds-cnn": 16_000, "mobilenet-v1-0.25": 64_000, "autoencoder": 6_000}
SAMPLES = 3
Make = Callable[[str], bytes]


def varied(shape: tuple[int, ...], count: int = SAMPLES) -> NDArray[np.int8]:
    """(count, …): features around means of their own in every sample, so that a network's means are no constants."""
    random = np.random.default_rng(0)
    means = random.integers(-128, 128, (count, *[1] * (len(shape) - 1), shape[-1]))
    return (means + random.integers(-40, 41, (count, *shape))).clip(-128, 127).astype(np.int8)


@pytest.fixture(scope="session")
def palette_file(
    export: Callable[..., Any],
    prepared: Callable[[Any], None],
    request: pytest.FixtureRequest,
) -> Make:
    """A network's file with 16 values in every weight, those of FILES from what is there."""
    made: dict[str, bytes] = {}

    def builtin(name: str) -> bytes:
        keras.utils.set_random_seed(0)
        (shape, outputs), network = BUILTIN[name], find_network(name)
        assert network is not None
        model = network.build(shape, outputs)
        for part in (model, *model.layers):
            if isinstance(part, keras.Model):
                prepared(part)
        for planned in ClusterPlan.of(model, 16, [Override("*", 16)]).clustered:
            planned.weight.variable.assign(planned.cluster())
        samples = varied(shape, 50) + np.float32(128 if len(shape) > 1 else 0)
        # else deep layers would give the same whatever comes in
        recalibrate_batchnorm(model, [samples])
        return bytes(export(model, samples).palette)

    def make(name: str) -> bytes:
        if name not in made and name in FILES:
            folder: Path = request.getfixturevalue("shared")
            dense = (folder / "models" / f"{FILES[name]}.tflite").read_bytes()
            made[name] = palettize(lean(cluster_tflite(read_model(dense), 16)[0])).data
        if name not in made:
            made[name] = builtin(name)
        return made[name]

    return make


def on_tflm(data: bytes, inputs: NDArray[np.int8], outputs: int, folder: Path) -> list[bytes]:
    file, given = folder / "m.tflite", folder / "x.npz"
    file.write_bytes(data)
    np.savez(given, x0=inputs)
    question = {"runtime": "tflm", "options": {}, "files": [[str(file), str(given)]]}
    answer = ask("pair_child", {**question, "outputs": outputs}, "tflm", str(file))
    return [answer[f"f0y{place}"].tobytes() for place in range(outputs)]


def exposed(data: bytes) -> bytes:
    """The file with every operator's output among its own."""
    model = read_model(data)
    graph = model.subgraphs[0]
    numbers = [node.output.number for node in generate_firmware(data).graph.nodes]
    return write_model(replace(model, subgraphs=(replace(graph, outputs=np.array(numbers, np.int32)),)))  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [*FILES, *BUILTIN])
def test_every_operator_of_a_network_gives_tflms_bytes(
    name: str, palette_file: Make, tmp_path: Path
) -> None:
    data = exposed(palette_file(name))
    firmware = generate_firmware(data)
    inputs = varied(firmware.graph.inputs[0].shape)
    program = build(firmware, tmp_path / "c", ("-O1", *SANITIZERS))
    ours = run(program, firmware, [inputs])
    theirs = on_tflm(data, inputs, len(ours), tmp_path)
    wrong = [
        op
        for op, a, b in zip(firmware.operators, ours, theirs, strict=True)
        if a.tobytes() != b
    ]  # fmt: skip
    assert wrong == []
    # constants would agree by themselves
    assert all(len(np.unique(part)) > 4 for part in ours[:-1])


@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m4", "cortex-m55"])
@pytest.mark.parametrize("name", [*FILES, *BUILTIN])
def test_a_network_gives_tflms_bytes_on_an_emulated_core(
    name: str, core: str, palette_file: Make, tmp_path: Path
) -> None:
    absent = missing()
    if absent is not None:
        pytest.skip(absent)
    data = palette_file(name)
    firmware = generate_firmware(data)
    inputs = varied(firmware.graph.inputs[0].shape)
    done = emulate(firmware, CORES[core], [inputs], tmp_path / "c")
    assert done.outputs[0].tobytes() == on_tflm(data, inputs, 1, tmp_path)[0]
    assert len(np.unique(done.outputs[0])) > 4
    assert firmware.arena + done.stack <= RAM[name]


@pytest.mark.slow
@pytest.mark.parametrize("machine", MACHINES)
def test_networks_give_tflms_bytes_on_an_arm_machine_with_linux(
    machine: str, palette_file: Make, tmp_path: Path
) -> None:
    absent = MACHINES[machine].missing()
    if absent is not None:
        pytest.skip(absent)
    for name in (*FILES, *BUILTIN):
        firmware = generate_firmware(palette_file(name))
        inputs = varied(firmware.graph.inputs[0].shape)
        program = build(firmware, tmp_path / name, machine=MACHINES[machine])
        (ours,) = run(program, firmware, [inputs], MACHINES[machine])
        assert ours.tobytes() == on_tflm(palette_file(name), inputs, 1, tmp_path)[0], name


@pytest.mark.slow
def test_an_unaligned_load_stops_an_m0plus(palette_file: Make, tmp_path: Path) -> None:
    """As on the device: what passes there makes none."""
    absent = missing()
    if absent is not None:
        pytest.skip(absent)
    whole = generate_firmware(palette_file("autoencoder"))
    run_parts = whole.files["model.c"]
    text = run_parts.replace("    for (int part", "    (void)*(volatile uint32_t *)(void *)(base + 1);\n    for (int part")  # fmt: skip
    assert text != run_parts
    loads: Firmware = replace(whole, files={**whole.files, "model.c": text})
    inputs = [varied(whole.graph.inputs[0].shape)]
    emulate(loads, CORES["cortex-m3"], inputs, tmp_path / "m3")
    with pytest.raises(TargetError, match="qemu-system-arm failed"):
        emulate(loads, CORES["cortex-m0plus"], inputs, tmp_path / "m0plus")


def test_a_network_s_multiplications_are_those_published(palette_file: Make) -> None:
    """MLPerf Tiny: 12.5 million of ResNet8, 2.66 of DS-CNN."""
    millions = {"resnet8": 12.50, "ds-cnn": 2.66}
    for name, published in millions.items():
        nodes = generate_firmware(palette_file(name)).graph.nodes
        assert sum(node.macs for node in nodes) / 1e6 == pytest.approx(published, abs=0.005)
