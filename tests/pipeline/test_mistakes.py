"""What users get wrong: one message with what was expected, what came and what to do; exit code 2; nothing lost."""

from __future__ import annotations

import errno
import fcntl
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from edgepalette.pipeline import files

# name → (options beside a good model, data and a new --out; what the message says)
MISTAKES: dict[str, tuple[str, str]] = {
    "no such data": ("--data {tmp}/none.npz", r"none\.npz, which is no file"),
    "data that is no archive": ("--data {tmp}/text.npz", r"text\.npz must be an \.npz file"),
    "an unknown data set": ("--data mnist", "data must be one of digits.*got 'mnist'"),
    "labels outside the classes": (
        "--data {tmp}/labels.npz",
        r"labels: y_train must lie in \[0, 10\), as the model has 10 outputs, got 0 to 12",
    ),
    "labels outside in the test set only": ("--data {tmp}/labels_test.npz", "y_test must lie in"),
    "inputs of another shape": ("--data {tmp}/shape.npz", r"\(N, 8, 8, 1\).*got \(N, 8, 8, 3\)"),
    "no such model": ("--model {tmp}/none.keras", r"none\.keras, which is no file"),
    "a damaged model": ("--model {tmp}/damaged.keras", "Keras could not load"),
    "an unknown model": ("--model vgg16", "a model must be one of digits-cnn.*got 'vgg16'"),
    "nothing to cluster": ("--skip *", "must have a weight to cluster, got none"),
    "an unknown layer": ("--layer dense_9=4", "got 'dense_9'; its layers: .*conv"),
    "an unknown layer to skip": ("--skip dense_9", "got 'dense_9'; its layers: .*conv"),
    "a layer without a number": ("--layer conv", "--layer must be PATTERN=CLUSTERS.*got 'conv'"),
    "a layer with no real number": ("--layer conv=²", "--layer must be PATTERN=CLUSTERS"),
    "a layer with too many clusters": ("--layer conv=300", "256, got 300"),
    "one cluster": ("--clusters 1", "greater than or equal to 2, got 1"),
    "300 clusters": ("--clusters 300", "less than or equal to 256, got 300"),
    "clusters in words": ("--clusters many", "--clusters must be numbers .*got 'many'"),
    "an unknown key": ("--recipe {tmp}/unknown.toml", "unknown key 'cluster.sharing'"),
    "a recipe that is none": ("--recipe {tmp}/text.npz", "must be TOML"),
    "no such recipe": ("--recipe {tmp}/none.toml", "none.toml cannot be read"),
    "an unknown target": ("--targets pi", "a target must be one of host-tflite.*got 'pi'"),
    "a target without its format": (
        "--targets host-onnx --formats tflite",
        "target host-onnx runs onnx files, got formats tflite; add onnx",
    ),
    "an unknown format": ("--formats coreml", "'onnx', 'onnx-int8' or 'c', got 'coreml'"),
    "an unknown metric": ("--metric f1", "metric must be .*got 'f1'"),
    "an unknown loss": ("--loss nonsense --epochs 1", "loss.*nonsense"),
    "no threads": ("--threads 0", "evaluate.threads: .*got 0"),
    "a negative rate": ("--learning-rate -1", "cluster.learning_rate: .*got -1"),
    "out below a file": ("--out {tmp}/text.npz/run", "text.npz.*no folder"),
    "out is a file": ("--out {tmp}/text.npz", "must be a folder, got the file"),
    "out where nobody may write": ("--out /proc/edgepalette/run", "/proc/edgepalette"),
    "out is somebody's folder": ("--out {tmp}/thesis", "must be new, empty or a run's"),
}  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What a mistake gave."""

    answer: Result | Exception
    before: dict[str, bytes]
    after: dict[str, bytes]

    @property
    def result(self) -> Result:
        """What the command printed. Raises what it raised, which is a traceback for the user."""
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, digit_arrays: dict[str, Any]) -> Path:
    """Files that are wrong in one way each."""
    tmp = tmp_path_factory.mktemp("mistakes")
    (tmp / "text.npz").write_text("no arrays = here\n[")
    (tmp / "damaged.keras").write_text("no model")
    (tmp / "unknown.toml").write_text("[cluster]\nsharing = 3\n")
    (tmp / "thesis").mkdir()
    (tmp / "thesis" / "chapter1.txt").write_text("mine")
    labels = digit_arrays["y_train"].copy()
    labels[7] = 12
    np.savez(tmp / "labels.npz", **{**digit_arrays, "y_train": labels})
    np.savez(tmp / "labels_test.npz", **{**digit_arrays, "y_test": digit_arrays["y_test"] + 1})
    wide = {name: digit_arrays[name].repeat(3, axis=-1) for name in ("x_train", "x_test")}
    np.savez(tmp / "shape.npz", **{**digit_arrays, **wide})
    return tmp


@pytest.fixture(scope="module")
def made(
    folder: Path, npz: Path, keras_file: Path, command: Callable[..., Result]
) -> Callable[[str], Outcome]:
    """Each mistake made once, for several tests."""
    known: dict[str, Outcome] = {}

    def tree() -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b""
            for path in sorted(folder.rglob("*"))
        }

    def make(name: str) -> Outcome:
        if name not in known:
            before = tree()
            good = ["--model", keras_file, "--data", npz, "--baseline-epochs", 0, "--epochs", 0]
            # without a .tflite to write no converter is started
            good += ["--formats", "onnx", "--out", folder / "new"]
            options = MISTAKES[name][0].format(tmp=folder).split()
            answer: Result | Exception
            try:
                answer = command("run", *good, *options)
            except Exception as error:
                answer = error
            known[name] = Outcome(answer, before, tree())
            _remove_new(folder, before)
        return known[name]

    return make


def _remove_new(folder: Path, before: dict[str, bytes]) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        if str(path.relative_to(folder)) not in before:
            path.rmdir() if path.is_dir() else path.unlink()


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_gives_one_message_and_exit_code_2(
    name: str, made: Callable[[str], Outcome]
) -> None:
    result = made(name).result
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("Error: ") == 1
    assert "Traceback" not in result.stderr
    assert re.search(MISTAKES[name][1], result.stderr, re.DOTALL), result.stderr


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_few_lines(name: str, made: Callable[[str], Outcome]) -> None:
    lines = made(name).result.stderr.strip().splitlines()
    # weight by weight why nothing is clustered: that is the answer there
    assert len(lines) == 1 or name == "nothing to cluster", lines


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_leaves_nothing_that_was_not_there(
    name: str, made: Callable[[str], Outcome]
) -> None:
    outcome = made(name)
    assert sorted(outcome.after) == sorted(outcome.before)
    assert outcome.after == outcome.before


@pytest.mark.parametrize(
    "options", [("--layer", "typo=4"), ("--skip", "*"), ("--loss", "nonsense"), ("--metric", "f1")]
)
def test_a_mistake_on_a_finished_run_loses_nothing_of_it(
    command: Callable[..., Result], finished: Any, tmp_path: Path, options: tuple[str, str]
) -> None:
    run = finished.copy(tmp_path)
    assert command("run", *run.options, *options).exit_code == 2
    planned = command("run", *run.options, "--dry-run").stdout.splitlines()
    # the report tells its folder, and the copy has another
    assert [line for line in planned[:-1] if not line.endswith(": done")] == []
    # the recipe stored in the folder is still the good one
    again = command("evaluate", "--out", run.path)
    assert again.exit_code == 0, again.stderr


def test_a_full_disk_is_told_and_what_is_finished_is_kept(
    command: Callable[..., Result],
    npz: Path,
    keras_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = ["--model", keras_file, "--data", npz, "--epochs", 0, "--formats", "onnx"]
    options += ["--out", tmp_path / "r"]

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert command("cluster", *options, "--clusters", "4").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        result = command("cluster", *options, "--clusters", "4,8")
    assert result.exit_code == 2
    assert "there is no space left; make room or choose another folder" in result.stderr
    assert "Traceback" not in result.stderr
    planned = command("run", *options, "--clusters", "4,8", "--dry-run").stdout.splitlines()
    assert planned[:2] == ["baseline: done", "cluster-4: done"]
    left = [path.name for path in (tmp_path / "r").rglob(".*") if path.name != ".stages"]
    assert left == []


@pytest.mark.slow  # starts the converter
def test_an_operator_tflite_has_not_is_told(
    command: Callable[..., Result], npz: Path, own_folder: Path
) -> None:
    (own_folder / "own_net.py").write_text(
        "import keras\nfrom keras import layers, ops\n\n"
        "@keras.saving.register_keras_serializable()\n"
        "class Odd(layers.Layer):\n"
        "    def call(self, x):\n        return ops.erfinv(ops.tanh(x) * 0.9)\n\n"
        "def make():\n"
        "    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(32), Odd(),\n"
        "        layers.Dense(10, activation='softmax')])\n"
    )
    result = command(
        "run", "--model", "own_net:make", "--data", npz, "--out", "r",
        "--baseline-epochs", 0, "--epochs", 0, "--formats", "tflite",
    )  # fmt: skip
    assert result.exit_code == 2, result.output
    assert re.search(r"must have an int8 TFLite form, got .*tf\.Erfinv", result.stderr)
    assert "Traceback" not in result.stderr
    # told before hours of clustering
    assert not (own_folder / "r" / "clusters-16").exists()


def test_another_run_in_the_same_folder_is_told(
    command: Callable[..., Result], finished: Any
) -> None:
    with (finished.path / ".stages" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = command("run", *finished.options)
    assert result.exit_code == 2
    assert "another run works in" in result.stderr
