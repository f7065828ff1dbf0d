"""The deploy folder in an environment that has numpy, flatbuffers and a TFLite runtime, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepalette.evaluate.child import Request, run_file

# tflite-runtime has no wheel from Python 3.12 on
NEEDED = (
    ["numpy<2", "flatbuffers", "tflite-runtime"]
    if sys.version_info < (3, 12)
    else ["numpy", "flatbuffers", "ai-edge-litert"]
)
# a softmax has codes of 1/256; `run.py` prints 4 digits
HALF_CODE = 0.5 / 256


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment's Python."""
    folder = tmp_path_factory.mktemp("device") / "venv"
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "-q", *NEEDED], check=True, capture_output=True)
    return python


def answers(text: str) -> np.ndarray:
    """The outputs printed, one row per example."""
    rows = re.findall(r"^\d+ \[(.*)\]$", text, re.MULTILINE)
    return np.array([[float(value) for value in row.split()] for row in rows])


def run(device: Path, *arguments: object, folder: Path) -> str:
    # -E: no PYTHONPATH of ours
    done = subprocess.run(
        [device, "-E", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# makes an environment of its own
@pytest.mark.slow
def test_run_py_gives_the_measured_answers_without_tensorflow(
    device: Path, finished: Any, tmp_path: Path
) -> None:
    deploy = tmp_path / "deploy"
    shutil.copytree(finished.path / "clusters-4" / "deploy", deploy)
    for package in ("tensorflow", "keras", "edgepalette"):
        missing = f"import importlib.util as u; print(u.find_spec('{package}'))"
        assert run(device, "-c", missing, folder=tmp_path).strip() == "None"

    with np.load(deploy / "sample.npz", allow_pickle=False) as sample:
        x, y = sample["x"], sample["y"]
    np.save(tmp_path / "x.npy", x)
    expected = run_file(
        Request("tflite", str(deploy / "palette.tflite"), str(tmp_path / "x.npy"), len(x))
    ).outputs
    right = int((expected.argmax(1) == y).sum())
    assert right >= 12

    told = run(device, deploy / "run.py", folder=tmp_path)
    assert f"right: {right} of {len(y)}" in told
    assert np.abs(answers(told) - expected).max() <= HALF_CODE
    assert re.search(r"latency: median \d+\.\d+ ms", told)

    np.save(tmp_path / "two.npy", x[:2])
    for _ in range(2):
        options = ("--input", "two.npy", "--runs", 3, "--cache", "kept")
        told = run(device, deploy / "run.py", *options, folder=tmp_path)
        assert np.abs(answers(told) - expected[:2]).max() <= HALF_CODE
        assert len(list((tmp_path / "kept").iterdir())) == 1
    assert "over 3 runs" in told


def test_what_is_deployed_is_what_was_measured(finished: Any) -> None:
    for number in (16, 4):
        folder = finished.path / f"clusters-{number}"
        deployed = (folder / "deploy" / "palette.tflite").read_bytes()
        assert deployed == (folder / "palette.tflite").read_bytes()
