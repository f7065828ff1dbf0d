"""Keras models from files and functions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from edgepalette.errors import ModelError, RecipeError
from edgepalette.pipeline.data import Dataset
from edgepalette.pipeline.models import is_trained, load_model, model_fingerprint, save_model
from edgepalette.pipeline.zoo import find_network

# Keras says so itself of every .h5 it writes
legacy_format = pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")


def plain_model() -> Any:
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])


def data() -> Dataset:
    x, y = np.zeros((6, 4), np.float32), np.arange(6) % 3
    return Dataset("d", x, y, x, y)


def same_weights(one: Any, other: Any) -> bool:
    pairs = zip(one.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


@legacy_format
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_a_file_gives_the_model_with_its_weights(tmp_path: Path, suffix: str) -> None:
    model = plain_model()
    path = tmp_path / f"m{suffix}"
    model.save(path)
    loaded = load_model(str(path))
    assert same_weights(model, loaded)
    assert is_trained(str(path))
    assert not is_trained("digits-cnn")


# of a model that was compiled and never trained Keras says that its optimizer has nothing to load
@pytest.mark.filterwarnings("ignore:Skipping variable loading for optimizer")
def test_the_compiled_loss_of_a_keras_file_comes_along(tmp_path: Path) -> None:
    model = plain_model()
    model.compile("adam", "categorical_crossentropy")
    model.save(tmp_path / "m.keras")
    assert load_model(str(tmp_path / "m.keras")).loss == "categorical_crossentropy"


@legacy_format
def test_keras_2s_depthwise_convolution_with_groups_is_read(tmp_path: Path) -> None:
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            layers.DepthwiseConv2D(3, name="dw"),
            layers.Flatten(),
            layers.Dense(3, name="d"),
        ]
    )
    path = tmp_path / "legacy.h5"
    model.save(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        depthwise = [
            layer
            for layer in config["config"]["layers"]
            if layer["class_name"] == "DepthwiseConv2D"
        ]
        # what Keras 2 wrote and Keras 3 refuses
        depthwise[0]["config"]["groups"] = 1
        file.attrs["model_config"] = json.dumps(config)
    before = path.read_bytes()
    with pytest.raises(Exception, match="groups"):
        keras.models.load_model(path, compile=False)
    assert same_weights(model, load_model(str(path)))
    assert path.read_bytes() == before


def test_mlperf_tinys_own_h5_is_read(shared: Path) -> None:
    model = load_model(str(shared / "models" / "mlperf_tiny_resnet8.h5"))
    assert model.input_shape == (None, 32, 32, 3)
    assert model.output_shape == (None, 10)


def test_built_in_models_take_the_datas_shape_and_classes() -> None:
    x = np.zeros((6, 16, 16, 3), np.float32)
    for name in ("digits-cnn", "resnet8"):
        for y in (np.arange(6), np.eye(6)):
            model = load_model(name, Dataset("d", x, y, x, y))
            assert model.input_shape == (None, 16, 16, 3)
            assert model.output_shape == (None, 6)
    assert load_model("digits-cnn").input_shape == (None, 8, 8, 1)
    assert load_model("resnet8").input_shape == (None, 32, 32, 3)


SOURCE = """
import keras
from keras import layers

def make():
    return keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])

class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(3, activation="softmax")

    def call(self, inputs):
        return self.dense(inputs)

def own():
    return Own()

def own_compiled():
    model = Own()
    model.compile("adam", "categorical_crossentropy")
    return model

def unbuilt():
    return keras.Sequential([layers.Dense(3, activation="softmax")])

def two_inputs():
    a, b = keras.Input((4,)), keras.Input((4,))
    return keras.Model([a, b], layers.Dense(3)(layers.Add()([a, b])))

def two_outputs():
    a = keras.Input((4,))
    return keras.Model(a, [layers.Dense(3)(a), layers.Dense(2)(a)])

def text():
    return "a model"

def needs_more(units):
    return None

value = 3
"""


@pytest.fixture
def own_models(own_folder: Path) -> Path:
    """Functions that give models, in the current directory."""
    (own_folder / "own_models.py").write_text(SOURCE)
    return own_folder


def test_a_function_of_the_users_own_gives_the_model(own_models: Path) -> None:
    assert load_model("own_models:make", data()).output_shape == (None, 3)


@pytest.mark.parametrize("function", ["own", "own_compiled", "unbuilt"])
def test_a_model_that_says_nothing_of_its_inputs_takes_the_datas(
    own_models: Path, function: str
) -> None:
    model = load_model(f"own_models:{function}", data())
    assert model.input_shape == (None, 4)
    assert model.output_shape == (None, 3)
    assert model(np.zeros((2, 4), np.float32)).shape == (2, 3)
    if function == "own_compiled":
        assert model.loss == "categorical_crossentropy"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("two_inputs", "must have one input and one output, got 2 and 1"),
        ("two_outputs", "must have one input and one output, got 1 and 2"),
        ("text", "own_models:text must give a Keras model, got str"),
        ("value", "function"),
    ],
)
def test_a_model_of_another_form_is_told(own_models: Path, function: str, message: str) -> None:
    with pytest.raises((ModelError, RecipeError), match=message):
        load_model(f"own_models:{function}", data())


@pytest.mark.parametrize("function", ["own", "unbuilt"])
def test_a_model_without_inputs_needs_data(own_models: Path, function: str) -> None:
    with pytest.raises(ModelError, match="must give a built model; add an Input or call"):
        load_model(f"own_models:{function}")


def test_a_module_or_function_that_is_not_there_is_told(own_models: Path) -> None:
    with pytest.raises(RecipeError, match="model 'own_nowhere:f' cannot be imported"):
        load_model("own_nowhere:f")
    with pytest.raises(RecipeError, match="own_models has no 'missing'"):
        load_model("own_models:missing")


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for ask in (load_model, model_fingerprint):
        with pytest.raises(ModelError, match=r"got .*none\.keras, which is no file"):
            ask(str(tmp_path / "none.keras"))


def test_an_unknown_word_names_what_there_is() -> None:
    with pytest.raises(
        RecipeError, match=r"digits-cnn, resnet8, ds-cnn-l, .* a \.keras or \.h5 .*got 'vgg'"
    ):
        load_model("vgg")


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize(
    "content", [b"", b"no model", b"PK\x03\x04 cut short", b"\x89HDF\r\n\x1a\n"]
)
def test_a_damaged_file_is_told(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"m{suffix}"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"Keras could not load .*; it said: ."):
        load_model(str(path))


def test_an_error_of_keras_without_a_text_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(keras.models, "load_model", fail)
    path = tmp_path / "m.keras"
    path.touch()
    with pytest.raises(ModelError, match=r"Keras could not load .*AssertionError"):
        load_model(str(path))


def test_another_backend_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(
        ModelError, match=r"on the tensorflow backend, got 'jax'; set .*KERAS_BACKEND"
    ):
        load_model("digits-cnn")


def test_the_fingerprint_follows_the_file_not_its_name(tmp_path: Path) -> None:
    plain_model().save(tmp_path / "a.keras")
    shutil.copy(tmp_path / "a.keras", tmp_path / "b.keras")
    before = model_fingerprint(str(tmp_path / "a.keras"))
    assert model_fingerprint(str(tmp_path / "b.keras")) == before
    plain_model().save(tmp_path / "b.keras")
    assert model_fingerprint(str(tmp_path / "b.keras")) != before


def test_a_saved_model_has_no_training_left_on_it(tmp_path: Path) -> None:
    model = plain_model()
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(np.zeros((6, 4)), np.arange(6) % 3, verbose=0)
    save_model(model, tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert same_weights(model, loaded)
    assert not loaded.compiled


def test_a_class_keras_cannot_make_again_is_told(tmp_path: Path) -> None:
    class Scale(layers.Layer):
        def __init__(self, factor: float) -> None:
            super().__init__()
            self.factor = factor

        def call(self, inputs: Any) -> Any:
            return inputs * self.factor

    model = keras.Sequential([keras.Input((4,)), layers.Dense(3), Scale(2.0)])
    with pytest.raises(ModelError, match=r"give its classes get_config and @keras.saving"):
        save_model(model, tmp_path / "m.keras")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "shape", "weights"),
    [
        # kernels, two vectors a BatchNorm and the head: 11,040 + 5 · (2,484 + 76,176) + 11 · 552 + 2,770
        ("ds-cnn-l", (49, 10, 1), 413_182),
        # 267,928 with its 640 outputs
        ("autoencoder", (640,), 267_928 - 630 * 129),
        ("mobilenet-v1-0.25", (96, 96, 3), 215_642),
        ("mobilenet-v2-0.35", (32, 32, 3), 408_938),
    ],
)
def test_networks_of_the_field_have_the_weights_their_papers_say(
    name: str, shape: tuple[int, ...], weights: int
) -> None:
    network = find_network(name)
    assert network is not None
    model = network.build(shape, 10)
    assert model.input_shape == (None, *shape)
    assert model.output_shape == (None, 10)
    assert sum(int(np.prod(v.shape)) for v in model.trainable_variables) == weights


@pytest.mark.parametrize("name", ["mobilenet-v3", "mobilenet-v1-", "mobilenet-v1-0", "resnet9"])
def test_no_network_has_another_name(name: str) -> None:
    assert find_network(name) is None


@pytest.mark.parametrize("name", ["digits-cnn", "mobilenet-v1-0.25"])
def test_a_network_without_data_has_its_own_inputs(name: str) -> None:
    network = find_network(name)
    assert network is not None
    assert load_model(name).input_shape == (None, *network.input_shape)
