"""A tiny model and tiny data, and the command called in this process."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

TRAIN = 200
TEST = 60


@pytest.fixture(scope="session")
def digit_arrays() -> dict[str, Any]:
    """200 training and 60 test images of scikit-learn's digits, 8×8×1."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = digits.images[..., None].astype(np.float32)
    y = digits.target.astype(np.int64)
    end = TRAIN + TEST
    return {
        "x_train": x[:TRAIN],
        "y_train": y[:TRAIN],
        "x_test": x[TRAIN:end],
        "y_test": y[TRAIN:end],
    }


@pytest.fixture(scope="session")
def npz(tmp_path_factory: pytest.TempPathFactory, digit_arrays: dict[str, Any]) -> Path:
    """The digits as an .npz of the form users give."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez(path, **digit_arrays)
    return path


@pytest.fixture(scope="session")
def keras_file(tmp_path_factory: pytest.TempPathFactory, digit_arrays: dict[str, Any]) -> Path:
    """A compiled .keras model trained for a few epochs: conv, BatchNorm, ReLU, dense; 5,210 parameters."""
    import keras

    keras.utils.set_random_seed(0)
    model = small_model()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(digit_arrays["x_train"], digit_arrays["y_train"], epochs=12, verbose=0)
    path = tmp_path_factory.mktemp("model") / "tiny.keras"
    model.save(path)
    return path


def small_model() -> Any:
    """A convolution and a dense layer on 8×8 images."""
    import keras
    from keras import layers

    inputs = keras.Input((8, 8, 1))
    y = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv")(inputs)
    y = layers.BatchNormalization(name="bn")(y)
    y = layers.ReLU(name="relu")(y)
    y = layers.Flatten(name="flatten")(y)
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="head")(y), name="tiny")


@pytest.fixture(scope="session")
def command() -> Callable[..., Result]:
    """`edgepalette ARGUMENTS` in this process; standard output and error apart.

    Progress goes to the file descriptor 2 and not into the result; subprocesses show that.
    """

    def call(*arguments: object) -> Result:
        from edgepalette.pipeline.cli import main

        result = CliRunner().invoke(main, [str(part) for part in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current directory, empty; modules `own_…` imported from it are forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_")]:
        del sys.modules[name]


@pytest.fixture
def snapshot() -> Callable[[Path], dict[str, bytes]]:
    """Every file below a folder and its bytes."""

    def take(folder: Path) -> dict[str, bytes]:
        files = (path for path in sorted(folder.rglob("*")) if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}

    return take


@dataclass(frozen=True)
class FinishedRun:
    """A run of the tiny model with 16 and 4 clusters, and the options it was made with."""

    path: Path
    options: tuple[str, ...]

    def copy(self, folder: Path) -> FinishedRun:
        """The same run elsewhere under the same name, to be changed freely."""
        path = folder / self.path.name
        shutil.copytree(self.path, path)
        return FinishedRun(path, (*self.options[:-1], str(path)))


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory,
    npz: Path,
    keras_file: Path,
    command: Callable[..., Result],
) -> FinishedRun:
    """`edgepalette run` to its end; only look at it, `copy` to change it."""
    path = tmp_path_factory.mktemp("runs") / "tiny-run"
    options = ("--model", keras_file, "--data", npz, "--baseline-epochs", 1, "--epochs", 2)
    options = tuple(map(str, (*options, "--clusters", "16,4", "--out", path)))
    result = command("run", *options)
    assert result.exit_code == 0, result.output
    return FinishedRun(path, options)
