"""Replicas and workers train to the weights of one device, with the same indices, on no traffic but gradients."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

PROGRAM = Path(__file__).with_name("distributed_training.py")
# sums of two halves of a batch against sums of the whole, over 24 steps of Adam
TOLERANCE = 2e-6
State = dict[str, NDArray[Any]]


def start(
    kind: str, how: str, file: Path, config: Mapping[str, Any] | None = None
) -> subprocess.Popen[str]:
    """Processes of their own: devices are set and workers found before TensorFlow starts."""
    environment = {**os.environ}
    if config is not None:
        environment["TF_CONFIG"] = json.dumps(config)
    return subprocess.Popen(
        [sys.executable, "-P", str(PROGRAM), kind, how, str(file)],
        cwd=file.parent,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], file: Path) -> State:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    with np.load(file) as saved:
        return dict(saved)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> State:
    file = tmp_path_factory.mktemp("one") / "one.npz"
    return finish(start("one", "loop", file), file)


def assert_alike(state: State, alone: State) -> None:
    """Float tolerance to one device; bit for bit between replicas."""
    for name, value in state.items():
        if name == "reductions":
            continue
        part, number, replica = name.split("-")
        expected = alone[f"{part}-{number}-0"]
        if part == "indices":
            np.testing.assert_array_equal(value, expected)
        else:
            np.testing.assert_allclose(value, expected, rtol=0, atol=TOLERANCE)
        if replica != "0":
            assert value.tobytes() == state[f"{part}-{number}-0"].tobytes()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["fit", "loop"])
def test_two_replicas_train_to_the_weights_of_one(how: str, alone: State, tmp_path: Path) -> None:
    file = tmp_path / "mirrored.npz"
    state = finish(start("mirrored", how, file), file)
    assert "kernel-1-1" in state, "there must be two replicas"
    assert_alike(state, alone)


@pytest.mark.slow
def test_moving_averages_are_evaluated_on_two_replicas_as_on_one(tmp_path: Path) -> None:
    files = {kind: tmp_path / f"{kind}.npz" for kind in ("one", "mirrored")}
    states = {kind: finish(start(kind, "averages", file), file) for kind, file in files.items()}
    assert "kernel-1-1" in states["mirrored"], "there must be two replicas"
    assert len(set(states["one"]["loss-0-0"])) == 3
    assert_alike(states["mirrored"], states["one"])


@pytest.mark.slow
def test_two_workers_train_to_the_weights_of_one(alone: State, tmp_path: Path) -> None:
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2)]
    files = [tmp_path / f"worker-{index}.npz" for index in range(2)]
    processes = [
        start(
            "workers",
            "loop",
            file,
            {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}},
        )
        for index, file in enumerate(files)
    ]
    states = [finish(process, file) for process, file in zip(processes, files, strict=True)]
    for state in states:
        assert_alike(state, alone)
    for name in states[0]:
        assert states[0][name].tobytes() == states[1][name].tobytes(), name
    # two kernels and two biases, and the centroids of two kernels
    assert 0 < int(states[0]["reductions"]) <= 6
