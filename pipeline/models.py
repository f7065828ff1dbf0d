"""Keras models from files, functions and the zoo."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..cluster.backend import require_tensorflow_backend
from ..errors import ModelError, RecipeError
from ..evaluate.metric import load_attribute, load_function
from .data import Dataset, module_hash
from .files import save_keras, sha256, sha256_of
from .zoo import ZOO, Builder, find_network

FILES = (".keras", ".h5", ".hdf5")
# settings by class that Keras 2 wrote and Keras 3 does not know, with the value Keras 3 goes by
KERAS2_SETTINGS: dict[str, tuple[str, int]] = {
    "DepthwiseConv2D": ("groups", 1),
    "SimpleRNN": ("time_major", False),
    "GRU": ("time_major", False),
    "LSTM": ("time_major", False),
}
# tfmot's wrappers by class, and what takes them off
KERAS2_WRAPPERS = {"ClusterWeights": "strip_clustering", "PruneLowMagnitude": "strip_pruning"}
# a Lambda layer's code would run while it is loaded, and the file is anyone's: refused, it goes on as a configuration
# that Keras 3 does not take either
KERAS2_PROGRAM = """
import sys, tf_keras
def refuse(config, custom_objects=None):
    raise RuntimeError("a Lambda layer holds code, which is not run")
tf_keras.layers.Lambda.from_config = refuse
tf_keras.models.load_model(sys.argv[1], compile=False).save(sys.argv[2], save_format="h5")
"""
MAX_METADATA = 1 << 16
# what a checkpoint writes behind the name of a variable's value
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
# what is no weight, and the list in which Keras 3 writes every weight again
BESIDE = ("optimizer", "keras_api/", "_all_variables/")


def is_saved_model(path: Path) -> bool:
    """Whether a path is the folder of a SavedModel."""
    return (path / "saved_model.pb").is_file()


def is_trained(source: str) -> bool:
    """Whether a source brings its weights."""
    return source.endswith(FILES) or is_saved_model(Path(source))


def model_fingerprint(source: str) -> str:
    """What tells this model from another, without loading it."""
    if is_saved_model(Path(source)):
        files = sorted(path for path in Path(source).rglob("*") if path.is_file())
        digests = {str(path.relative_to(source)): sha256(path) for path in files}
        return f"sha256:{sha256_of(digests)}"
    if is_trained(source):
        return f"sha256:{sha256(_existing(source))}"
    return f"{source} {module_hash(source)}" if ":" in source else source


def load_model(source: str, data: Dataset | None = None) -> Any:
    """A Keras model with one input and one output, its weights made.

    data: whose input shape and classes a built-in model takes (its own and 10 if None).
    Raises ModelError for a model that cannot be loaded or is of another form, RecipeError for an unknown source.
    """
    require_tensorflow_backend()
    if is_saved_model(Path(source)):
        model = _from_keras2(Path(source))
    elif is_trained(source):
        model = _from_file(_existing(source))
    elif (network := find_network(source)) is not None:
        shape = data.input_shape if data else network.input_shape
        model = _built(network.build, source, shape, _classes(data))
    elif ":" in source:
        model = _from_function(source, data)
    else:
        raise RecipeError(
            f"a model must be one of {', '.join(ZOO)}, a .keras or .h5 file, a SavedModel's folder or package.module:function, got {source!r}"
        )
    _check(model, source)
    return model


def _built(builder: Builder, name: str, shape: tuple[int, ...], classes: int) -> Any:
    try:
        return builder(shape, classes)
    except ValueError as error:
        raise ModelError(
            f"{name} must take the data's inputs, got shape {shape}: {error}"
        ) from error


def save_model(model: Any, path: Path) -> None:
    """The model as a .keras file, as `plain_copy` leaves it."""
    save_keras(plain_copy(model), path)


def plain_copy(model: Any) -> Any:
    """The model without what training left on it: optimizer, losses, metric states.

    Raises ModelError for a class Keras cannot make again from its configuration.
    """
    try:
        plain = type(model).from_config(model.get_config())
    except Exception as error:  # whatever a class of the user's raises
        raise ModelError(
            f"Keras must be able to save {model.name!r} and load it again, and could not make it from its configuration: "
            f"{(str(error).strip().splitlines() or [type(error).__name__])[0][:300]}; give its classes get_config and "
            "@keras.saving.register_keras_serializable()"
        ) from error
    plain.set_weights(model.get_weights())
    return plain


def _existing(source: str) -> Path:
    path = Path(source)
    if not path.is_file():
        raise ModelError(f"a model must be a .keras or .h5 file, got {source}, which is no file")
    return path


def _classes(data: Dataset | None) -> int:
    if data is None:
        return 10
    return int(data.y_train.shape[1]) if data.y_train.ndim > 1 else int(data.y_train.max()) + 1


def _from_file(path: Path, source: Path | None = None) -> Any:
    """source: what the file was made from, for messages."""
    import keras

    if path.suffix == ".keras" and _is_keras2(path):
        return _from_keras2(path)
    try:
        if path.suffix == ".keras":
            return keras.models.load_model(path)
        with tempfile.TemporaryDirectory(prefix="edgepalette-") as folder:
            return keras.models.load_model(_for_keras3(path, Path(folder)), compile=False)
    except Exception as error:  # Keras raises whatever its layers raise
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        hint = "a model with layers of its own is given as package.module:function"
        for wrapper, strip in KERAS2_WRAPPERS.items():
            if wrapper in said:
                hint = f"tfmot's wrappers are still on it: save what {strip} gives"
        raise ModelError(
            f"Keras could not load {source or path}; it said: {said}; {hint}"
        ) from error


def _for_keras3(path: Path, folder: Path) -> Path:
    """A copy of an .h5 file without what Keras 2 wrote and Keras 3 refuses."""
    import h5py

    copy = folder / "model.h5"
    shutil.copyfile(path, copy)
    with h5py.File(copy, "r+") as file:
        text = file.attrs.get("model_config")
        if text is not None:
            config = json.loads(text)
            _drop_settings(config)
            file.attrs["model_config"] = json.dumps(config)
    return copy


def _drop_settings(node: Any) -> None:
    if isinstance(node, list):
        for entry in node:
            _drop_settings(entry)
    elif isinstance(node, dict):
        config = node.get("config")
        if isinstance(config, dict):
            setting, usual = KERAS2_SETTINGS.get(str(node.get("class_name")), ("", None))
            # another value is Keras 3's to refuse
            if setting in config and config[setting] == usual:
                del config[setting]
            # inside a nested model Keras 2 wrote the list it held
            axis = config.get("axis")
            if node.get("class_name") == "BatchNormalization" and isinstance(axis, list) and len(axis) == 1:  # fmt: skip
                config["axis"] = axis[0]
        for entry in node.values():
            _drop_settings(entry)


def _is_keras2(path: Path) -> bool:
    """Whether a .keras file says that Keras 2 wrote it."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("metadata.json") as file:
            version = json.loads(file.read(MAX_METADATA)).get("keras_version")
    except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile):
        return False
    return str(version).startswith("2.")


def _from_keras2(path: Path) -> Any:
    """A SavedModel or a .keras file of Keras 2: Keras 2 itself, in a process of its own, makes an .h5 of it.

    Raises ModelError if it cannot, or is not installed.
    """
    if path.is_dir() and not (path / "keras_metadata.pb").is_file():
        raise ModelError(
            f"a SavedModel must hold its Keras layers, got {path} without keras_metadata.pb: model.export, Keras 3 and "
            "tf.saved_model.save leave functions and variables only (inspect shows those); save the model itself, by "
            "model.save('m.keras') where it was made"
        )
    if importlib.util.find_spec("tf_keras") is None:
        raise ModelError(
            f"{path} was saved by Keras 2, which is needed to read it, got none: pip install tf_keras; or save it as an "
            ".h5 file where it was made"
        )
    with tempfile.TemporaryDirectory(prefix="edgepalette-") as folder:
        made = Path(folder, "keras2.h5")
        command = [sys.executable, "-P", "-c", KERAS2_PROGRAM, str(path), str(made)]
        environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, capture_output=True, env=environment, check=False)  # noqa: S603 # our own program
        if done.returncode or not made.is_file():
            said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
            raise ModelError(
                f"Keras 2 could not load {path}; it said: {said[-1][:300]}; a model with layers of its own is given as "
                "package.module:function"
            )
        return _from_file(made, path)


def saved_variables(path: Path) -> Iterator[tuple[str, NDArray[Any]]]:
    """(name, values) of the variables of a SavedModel, whoever wrote it. Raises ModelError if they cannot be read."""
    import tensorflow as tf

    try:
        checkpoint = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        names = sorted(checkpoint.get_variable_to_shape_map())
        kept = [name for name in names if name.endswith(VALUE) and not name.startswith(BESIDE)]
        for name in kept:
            values = np.asarray(checkpoint.get_tensor(name))
            if values.dtype.kind == "f":
                yield name.removesuffix(VALUE), values
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise ModelError(
            f"a SavedModel must hold variables that can be read, got {path}: {str(error).splitlines()[0][:300]}"
        ) from None


def _from_function(source: str, data: Dataset | None) -> Any:
    import keras

    model = load_function(source, "model")()
    if not isinstance(model, keras.Model):
        raise ModelError(f"{source} must give a Keras model, got {type(model).__name__}")
    if getattr(model, "inputs", None) or data is None:
        return model
    # a subclassed model says nothing of its inputs: the data does
    inputs = keras.Input(data.input_shape)
    wrapped = keras.Model(inputs, model(inputs), name=f"{model.name}_with_input")
    if getattr(model, "compiled", False):
        wrapped.compile(**model._compile_config.config)
    return wrapped


def open_saved(path: Path, source: str) -> Any:
    """A model a run has saved; `source` is where it came from, whose classes loading may need."""
    if ":" in source and not is_trained(source):
        load_attribute(source, "model")
    return _from_file(path)


def _check(model: Any, source: str) -> None:
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not model.built or not inputs or not outputs:
        raise ModelError(
            f"{source} must give a built model; add an Input or call the model once on a batch"
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise ModelError(
            f"{source} must have one input and one output, got {len(inputs)} and {len(outputs)}"
        )
