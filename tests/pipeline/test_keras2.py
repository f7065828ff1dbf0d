"""Models tfmot left behind: .h5, .keras and SavedModel of Keras 2, as Keras 3 models that compute the same."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from edgepalette.errors import ModelError
from edgepalette.pipeline.inspection import inspect_file
from edgepalette.pipeline.models import is_trained, load_model, model_fingerprint

Command = Callable[..., Any]

needs_tfmot = pytest.mark.skipif(
    importlib.util.find_spec("tensorflow_model_optimization") is None,
    reason="the peers extra is not installed",
)

# one process makes all: importing both TensorFlow and tfmot takes seconds
PROGRAM = """
import sys
import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras

layers = keras.layers
image = keras.Input((8, 8, 2))
y = layers.Conv2D(8, 3, use_bias=False, padding="same")(image)
y = layers.ReLU()(layers.BatchNormalization()(y))
y = layers.Flatten()(layers.DepthwiseConv2D(3)(y))
model = keras.Model(image, layers.Dense(10, activation="softmax")(y))
clustering = tfmot.clustering.keras
wrapped = clustering.cluster_weights(
    model,
    number_of_clusters=8,
    cluster_centroids_init=clustering.CentroidInitialization.LINEAR,
)
wrapped.compile("adam", "sparse_categorical_crossentropy")
x = np.random.default_rng(0).normal(size=(16, 8, 8, 2)).astype(np.float32)
wrapped.fit(x, np.arange(16) % 10, verbose=0)
stripped = clustering.strip_clustering(wrapped)
inner = keras.Sequential([layers.Dense(6), layers.BatchNormalization()])
steps = keras.Sequential(
    [layers.Input((7, 6)), layers.GRU(4, return_sequences=True), inner, layers.LSTM(5), layers.Dense(3)]
)
for name, made, inputs in (("stripped", stripped, x[:4]), ("steps", steps, x[:4].reshape(4, -1)[:, :42].reshape(4, 7, 6))):
    np.savez(f"{name}.npz", x=inputs, y=made(inputs).numpy())
    made.save(f"{name}.h5")
    made.save(f"{name}.keras")
stripped.save("stripped")
wrapped.save("wrapped.h5")
keras.Sequential([layers.Input((4,)), layers.Lambda(lambda x: 2 * x)]).save("code")
backward = keras.Sequential([layers.Input((7, 6)), layers.LSTM(5, time_major=True)])
backward.save("time_major.h5")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models by tfmot's own process."""
    made = tmp_path_factory.mktemp("keras2")
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM], capture_output=True, env=environment, cwd=made, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made


@needs_tfmot
@pytest.mark.slow
# a functional model of Keras 2 names its one input in a list
@pytest.mark.filterwarnings("ignore:The structure of `inputs`")
@pytest.mark.parametrize(
    "form", ["stripped.h5", "stripped.keras", "stripped", "steps.h5", "steps.keras"]
)
def test_a_keras_2_model_computes_the_same_in_keras_3(folder: Path, form: str) -> None:
    source = str(folder / form)
    model = load_model(source)
    assert isinstance(model, keras.Model)
    assert is_trained(source)
    with np.load(folder / f"{Path(form).stem}.npz") as saved:
        np.testing.assert_allclose(model(saved["x"]).numpy(), saved["y"], rtol=0, atol=1e-6)


@needs_tfmot
@pytest.mark.slow
def test_inspect_shows_tfmots_shared_values_in_every_form(folder: Path) -> None:
    found = [inspect_file(folder / name) for name in ("stripped.h5", "stripped")]  # fmt: skip
    for each in found:
        shared = [row for row in each["tensors"] if row["stored"] == "shared values"]
        assert [(row["values"], row["bits"]) for row in shared] == [(8, 3)] * 2
        assert sum(share["bytes"] for share in each["shares"]) == each["file_bytes"]
    assert len({tuple(sorted(row["shannon_bound"] for row in each["tensors"] if row["bits"] == 3)) for each in found}) == 1  # fmt: skip


@needs_tfmot
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("wrapped.h5", "tfmot's wrappers are still on it: save what strip_clustering gives"),
        ("code", "could not load .*code; it said: .*Lambda.* disallowed by default"),
        ("time_major.h5", "time_major"),
    ],
)
def test_what_cannot_be_taken_is_told(folder: Path, name: str, said: str) -> None:
    with pytest.raises(ModelError, match=said):
        load_model(str(folder / name))


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """A SavedModel of Keras 3: functions and variables."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
    model.export(tmp_path / "saved", verbose=False)
    return tmp_path / "saved"


def test_a_saved_model_of_keras_3_is_shown_but_not_trained(exported: Path) -> None:
    (row,) = inspect_file(exported)["tensors"]
    assert row["shape"] == [4, 3]
    with pytest.raises(
        ModelError, match=r"without keras_metadata\.pb: .*Keras 3 and .* leave functions"
    ):
        load_model(str(exported))


def test_the_fingerprint_of_a_saved_model_follows_its_files(exported: Path) -> None:
    before = model_fingerprint(str(exported))
    assert model_fingerprint(str(exported)) == before
    (variables,) = (exported / "variables").glob("*.data-*")
    variables.write_bytes(variables.read_bytes()[:-1] + b"\xff")
    assert model_fingerprint(str(exported)) != before


def test_without_keras_2_its_models_are_told_how(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (exported / "keras_metadata.pb").touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"saved by Keras 2, .* pip install tf_keras"):
        load_model(str(exported))


def test_a_damaged_saved_model_is_told(command: Command, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    (broken / "variables").mkdir(parents=True)
    (broken / "saved_model.pb").write_bytes(b"nothing")
    (broken / "variables" / "variables.index").write_bytes(b"nothing")
    result = command("inspect", broken)
    assert result.exit_code == 2
    assert "must hold variables that can be read" in result.stderr
    with pytest.raises(ModelError, match=r"without keras_metadata\.pb"):
        load_model(str(broken))
