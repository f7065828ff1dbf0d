"""What Keras 2 wrote, made readable by Keras 3: .h5 and .keras files, SavedModels."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelError

# settings by class that Keras 2 wrote and Keras 3 does not know, with the value Keras 3 goes by
SETTINGS: dict[str, tuple[str, int]] = {
    "DepthwiseConv2D": ("groups", 1),
    "SimpleRNN": ("time_major", False),
    "GRU": ("time_major", False),
    "LSTM": ("time_major", False),
}
# tfmot's wrappers by class, and what takes them off
WRAPPERS = {"ClusterWeights": "strip_clustering", "PruneLowMagnitude": "strip_pruning"}
MAX_METADATA = 1 << 16
# what a checkpoint writes behind the name of a variable's value
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
# what is no weight, and the list in which Keras 3 writes every weight again
BESIDE = ("optimizer", "keras_api/", "_all_variables/")


def is_saved_model(path: Path) -> bool:
    """Whether a path is the folder of a SavedModel."""
    return (path / "saved_model.pb").is_file()


def for_keras3(path: Path, folder: Path) -> Path:
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
            setting, usual = SETTINGS.get(str(node.get("class_name")), ("", None))
            # another value is Keras 3's to refuse
            if setting in config and config[setting] == usual:
                del config[setting]
            # inside a nested model Keras 2 wrote the list it held
            axis = config.get("axis")
            if node.get("class_name") == "BatchNormalization" and isinstance(axis, list) and len(axis) == 1:  # fmt: skip
                config["axis"] = axis[0]
        for entry in node.values():
            _drop_settings(entry)


def is_keras2(path: Path) -> bool:
    """Whether a .keras file says that Keras 2 wrote it."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open("metadata.json") as file:
            version = json.loads(file.read(MAX_METADATA)).get("keras_version")
    except (OSError, KeyError, ValueError, AttributeError, zipfile.BadZipFile):
        return False
    return str(version).startswith("2.")


def h5_of(path: Path, folder: Path) -> Path:
    """A SavedModel or a .keras file of Keras 2 as an .h5 in `folder`, made by Keras 2 itself in a process of its own.

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
    made = folder / "keras2.h5"
    command = [
        sys.executable,
        "-P",
        "-m",
        "edgepalette.pipeline.keras2_child",
        str(path),
        str(made),
    ]
    environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, env=environment, check=False)  # noqa: S603 # our own module
    if done.returncode or not made.is_file():
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["nothing"]
        raise ModelError(
            f"Keras 2 could not load {path}; it said: {said[-1][:300]}; a model with layers of its own is given as "
            "package.module:function"
        )
    return made


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
