"""Keras models from files, functions and the zoo."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from ..cluster.backend import require_tensorflow_backend
from ..errors import ModelError, RecipeError
from ..evaluate.metric import load_attribute, load_function
from .data import Dataset, module_hash
from .files import save_keras, sha256, sha256_of
from .keras2 import WRAPPERS, for_keras3, h5_of, is_keras2, is_saved_model
from .zoo import ZOO, Builder, find_network

FILES = (".keras", ".h5", ".hdf5")


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
        model = _from_file(Path(source))
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


def _from_file(path: Path) -> Any:
    """Of a .keras or .h5 file or a SavedModel's folder."""
    import keras

    with tempfile.TemporaryDirectory(prefix="edgepalette-") as name:
        folder = Path(name)
        file = h5_of(path, folder) if path.is_dir() or is_keras2(path) else path
        try:
            if file.suffix == ".keras":
                return keras.models.load_model(file)
            return keras.models.load_model(for_keras3(file, folder), compile=False)
        except Exception as error:  # Keras raises whatever its layers raise
            said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
            hint = "a model with layers of its own is given as package.module:function"
            for wrapper, strip in WRAPPERS.items():
                if wrapper in said:
                    hint = f"tfmot's wrappers are still on it: save what {strip} gives"
            raise ModelError(f"Keras could not load {path}; it said: {said}; {hint}") from error


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
