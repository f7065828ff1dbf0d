"""What a model is trained for: its loss, its labels in the form the loss takes, its metric."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, RecipeError
from .data import Dataset

# a trained classifier this close to guessing has the wrong data, loss or labels
CHANCE_FACTOR = 1.5
# losses that take a model's outputs where labels stand
SOFT_LOSSES = frozenset(
    {
        "sparse_categorical_crossentropy",
        "categorical_crossentropy",
        "binary_crossentropy",
        "mean_squared_error",
        "mean_absolute_error",
        "huber",
        "huber_loss",
        "log_cosh",
    }
)
# examples run to see what an output looks like
PROBED = 64


class Kind(Enum):
    """CLASSES: one output per class. BINARY: a single probability. REGRESSION: real numbers."""

    CLASSES = "classes"
    BINARY = "binary"
    REGRESSION = "regression"


@dataclass(frozen=True, eq=False)
class Task:
    """loss: what `compile` takes. origin: where it comes from. one_hot: whether it takes one-hot labels.

    soft: whether the labels are another model's outputs.
    """

    kind: Kind
    outputs: int
    loss: Any
    origin: str
    one_hot: bool
    soft: bool = False

    @property
    def classifies(self) -> bool:
        """Whether outputs decide for classes."""
        return self.kind is not Kind.REGRESSION

    @property
    def logits(self) -> bool:
        """Whether a single output is a logit, cut at 0, and no probability."""
        return self.kind is Kind.BINARY and _from_logits(self.loss)

    def scores(self, outputs: NDArray[np.float32]) -> NDArray[np.float32]:
        """Outputs as metrics take them: a single logit as a probability."""
        return np.asarray(1 / (1 + np.exp(-outputs)), np.float32) if self.logits else outputs

    @property
    def metric(self) -> str:
        """The metric if none is asked for."""
        return "accuracy" if self.classifies else "mae"

    @property
    def keras_metrics(self) -> list[Any]:
        """What training shows beside the loss."""
        if self.soft and self.kind is Kind.CLASSES:
            import keras

            return [keras.metrics.CategoricalAccuracy(name="agreement")]
        if self.soft and self.kind is Kind.BINARY:
            return []
        return ["accuracy"] if self.classifies else ["mae"]

    @property
    def teacher_obstacle(self) -> str | None:
        """Why another model's outputs cannot stand for the labels; None if they can."""
        if _name(self.loss).removesuffix("_from_logits") in SOFT_LOSSES:
            return None
        return f"{self.loss_name} is not known to take a model's outputs for labels"

    def distilled(self) -> Task:
        """The task of learning another model's outputs."""
        import keras

        loss = self.loss
        if "sparse" in _name(loss):
            loss = keras.losses.CategoricalCrossentropy(from_logits=_from_logits(loss))
        return replace(self, loss=loss, soft=True)

    def as_labels(self, outputs: Any) -> Any:
        """A model's outputs as `distilled` takes them for labels: probabilities, or values."""
        import keras

        if not self.classifies or not _from_logits(self.loss):
            return outputs
        binary = "binary" in _name(self.loss)
        return keras.ops.sigmoid(outputs) if binary else keras.ops.softmax(outputs)

    @property
    def loss_name(self) -> str:
        """The loss for people to read."""
        return (
            self.loss if isinstance(self.loss, str) else getattr(self.loss, "name", str(self.loss))
        )

    def training_labels(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Canonical labels as the loss takes them."""
        if self.kind is Kind.CLASSES and self.one_hot:
            return np.asarray(np.eye(self.outputs, dtype=np.float32)[labels])
        if self.kind is Kind.BINARY or (self.kind is Kind.REGRESSION and labels.ndim == 1):
            return labels.astype(np.float32).reshape(len(labels), -1)
        return labels

    def canonical(self, labels: NDArray[Any], name: str) -> NDArray[Any]:
        """Class numbers (N,) or regression targets. Raises DataError for labels the outputs cannot mean."""
        if self.kind is Kind.REGRESSION:
            width = labels.shape[-1] if labels.ndim > 1 else 1
            if width != self.outputs:
                raise DataError(
                    f"{name} must have {self.outputs} values a row, as the model has outputs, got shape {labels.shape}"
                )
            return labels.astype(np.float32)
        classes = self.outputs if self.kind is Kind.CLASSES else 2
        if is_one_hot(labels, classes):
            return np.asarray(labels.argmax(axis=1))
        flat = labels.reshape(len(labels), -1)
        if flat.shape[1] != 1 or np.any(flat != np.round(flat)):
            raise DataError(
                f"{name} must be class numbers (N,) or one-hot rows (N, {classes}), "
                f"got shape {labels.shape} of {labels.dtype}"
            )
        numbers = flat[:, 0].astype(np.int64)
        if numbers.min() < 0 or numbers.max() >= classes:
            raise DataError(
                f"{name} must lie in [0, {classes}), as the model has {self.outputs} outputs, "
                f"got {numbers.min()} to {numbers.max()}"
            )
        return numbers


def task_of(model: Any, data: Dataset, loss: str | None) -> Task:
    """The task of a model on data: the loss asked for, else the compiled one, else by the last activation.

    Raises DataError if inputs or labels do not fit the model.
    """
    _check_input(model, data)
    outputs = int(model.output_shape[-1])
    if loss is not None:
        return _task(outputs, loss, "asked for", _kind(_name(loss), outputs, data))
    compiled = getattr(model, "loss", None) if getattr(model, "compiled", False) else None
    if compiled is not None:
        name = _name(compiled)
        return _task(outputs, compiled, "the model's own", _kind(name, outputs, data))
    return _inferred(outputs, last_activation(model, data), data)


def last_activation(model: Any, data: Dataset) -> str:
    """What makes the model's output: softmax, sigmoid, or another activation's name.

    Read from the last layer where it says so; a layer that hides it (a subclassed model, a Reshape behind a softmax)
    is seen through by its outputs: rows of probabilities that add up to 1.
    """
    layer = model.outputs[0]._keras_history.operation
    name = "softmax" if type(layer).__name__ == "Softmax" else _activation_name(layer)
    if name in ("softmax", "sigmoid"):
        return name
    outputs = np.asarray(model(data.examples(PROBED, seed=0), training=False))
    if outputs.shape[-1] == 1:
        two = bool(np.isin(data.y_train, (0, 1)).all())
        return "sigmoid" if two and np.all((outputs >= 0) & (outputs <= 1)) else name
    return (
        "softmax"
        if np.all(outputs >= 0) and np.allclose(outputs.sum(axis=-1), 1, atol=1e-3)
        else name
    )


def _activation_name(layer: Any) -> str:
    activation = getattr(layer, "activation", None)
    return str(getattr(activation, "__name__", "linear"))


def is_one_hot(labels: NDArray[Any], classes: int) -> bool:
    """Whether every row has a single 1 among `classes` zeros."""
    if labels.ndim != 2 or labels.shape[1] != classes:
        return False
    return bool(np.all((labels == 0) | (labels == 1)) and np.all(labels.sum(axis=1) == 1))


def near_chance(task: Task, labels: NDArray[Any], accuracy: float) -> float | None:
    """The accuracy of always guessing the commonest class, if `accuracy` is not clearly above it."""
    if not task.classifies:
        return None
    chance = float(np.bincount(labels).max() / len(labels))
    limit = min(chance * CHANCE_FACTOR, (1 + chance) / 2)
    return chance if accuracy < limit else None


def _check_input(model: Any, data: Dataset) -> None:
    shape = tuple(model.input_shape[1:])
    fits = len(shape) == len(data.input_shape) and all(
        ours in (None, theirs) for ours, theirs in zip(shape, data.input_shape, strict=True)
    )
    if not fits:
        raise DataError(
            f"{data.name}: inputs must have shape (N, {', '.join(map(str, shape))}) as the model asks, "
            f"got (N, {', '.join(map(str, data.input_shape))})"
        )


def _from_logits(loss: Any) -> bool:
    return bool(
        getattr(loss, "from_logits", False)
        or getattr(loss, "_fn_kwargs", {}).get("from_logits", False)
    )


def _name(loss: Any) -> str:
    """A loss in snake case, however it was given. Raises RecipeError for a name Keras does not know."""
    if isinstance(loss, str):
        import keras

        try:
            loss = keras.losses.get(loss)
        except ValueError:
            raise RecipeError(
                f"the loss must be one Keras knows by name, got {loss!r}; see https://keras.io/api/losses"
            ) from None
    return str(getattr(loss, "name", None) or getattr(loss, "__name__", ""))


def _kind(loss: str, outputs: int, data: Dataset) -> Kind:
    if "categorical" in loss:
        return Kind.CLASSES
    if "binary" in loss:
        return Kind.BINARY if outputs == 1 else Kind.CLASSES
    return Kind.REGRESSION if data.y_train.dtype.kind == "f" or outputs == 1 else Kind.CLASSES


def _task(outputs: int, loss: Any, origin: str, kind: Kind) -> Task:
    one_hot = kind is Kind.CLASSES and "sparse" not in _name(loss)
    return Task(kind, outputs, loss, origin, one_hot)


def _inferred(outputs: int, activation: str, data: Dataset) -> Task:
    import keras

    labels = data.y_train
    origin = f"inferred from the last activation, {activation}"
    one_hot_rows = outputs > 1 and is_one_hot(labels, outputs)
    real = (
        labels.dtype.kind == "f" and not one_hot_rows and bool(np.any(labels != np.round(labels)))
    )
    if activation == "softmax" or (activation == "sigmoid" and outputs > 1 and not real):
        return _task(outputs, "sparse_categorical_crossentropy", origin, Kind.CLASSES)
    if activation == "sigmoid" and not real:
        return _task(outputs, "binary_crossentropy", origin, Kind.BINARY)
    if real or outputs == 1 or activation != "linear":
        return _task(outputs, "mean_squared_error", origin, Kind.REGRESSION)
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, name="sparse_categorical_crossentropy_from_logits"
    )
    return _task(outputs, loss, origin, Kind.CLASSES)
