"""The loss a model is trained with, and labels in the form it takes: wrong ones ruin training in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edgepalette.errors import DataError
from edgepalette.pipeline.data import Dataset
from edgepalette.pipeline.task import Kind, near_chance, task_of


def model_of(*head: Any, inputs: tuple[int, ...] = (4,), compiled: Any = None) -> Any:
    """A functional model that ends in these layers."""
    entry = keras.Input(inputs)
    y = entry
    for layer in head:
        y = layer(y)
    model = keras.Model(entry, y)
    if compiled is not None:
        model.compile("sgd", compiled)
    return model


def data_of(labels: Any, inputs: tuple[int, ...] = (4,)) -> Dataset:
    y = np.asarray(labels)
    x = np.random.default_rng(0).random((len(y), *inputs)).astype(np.float32)
    return Dataset("d", x, y, x, y)


CLASSES = np.arange(12) % 3
ONE_HOT = np.eye(3)[CLASSES]
BITS = np.arange(12) % 2
REAL = np.linspace(0, 1, 12)


def test_a_softmax_is_trained_with_class_numbers() -> None:
    task = task_of(model_of(layers.Dense(3, activation="softmax")), data_of(CLASSES), None)
    assert (task.kind, task.loss) == (Kind.CLASSES, "sparse_categorical_crossentropy")
    assert task.origin == "inferred from the last activation, softmax"
    assert task.metric == "accuracy"
    assert np.array_equal(task.training_labels(task.canonical(CLASSES, "y")), CLASSES)


@pytest.mark.parametrize(
    "head",
    [
        lambda: [layers.Dense(3), layers.Softmax()],
        lambda: [layers.Dense(3), layers.Activation("softmax")],
        lambda: [layers.Dense(3, activation="softmax"), layers.Reshape((3,))],
        lambda: [keras.Sequential([keras.Input((4,)), layers.Dense(3, activation="softmax")])],
    ],
    ids=["Softmax", "Activation", "behind a Reshape", "in a nested model"],
)
def test_a_softmax_is_found_wherever_it_stands(head: Callable[[], list[Any]]) -> None:
    task = task_of(model_of(*head()), data_of(CLASSES), None)
    assert task.loss == "sparse_categorical_crossentropy"


class Hidden(keras.Model):
    """A subclassed model: its last activation cannot be read from a layer."""

    def __init__(self, units: int, activation: str) -> None:
        super().__init__()
        self.dense = layers.Dense(units)
        self.last = keras.activations.get(activation)

    def call(self, inputs: Any) -> Any:
        return self.last(self.dense(inputs))


def test_a_subclassed_model_that_hides_a_softmax_is_seen_through() -> None:
    task = task_of(model_of(Hidden(3, "softmax")), data_of(CLASSES), None)
    assert task.loss == "sparse_categorical_crossentropy"
    # the same without: from logits
    task = task_of(model_of(Hidden(3, "linear")), data_of(CLASSES), None)
    assert task.loss.get_config()["from_logits"] is True


@pytest.mark.parametrize(
    "head",
    [
        lambda: [Hidden(1, "sigmoid")],
        lambda: [keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="sigmoid")])],
        lambda: [layers.Dense(1, activation="sigmoid"), layers.Reshape((1,))],
    ],
    ids=["subclassed", "nested", "behind a Reshape"],
)
def test_a_hidden_sigmoid_on_two_classes_is_no_regression(head: Callable[[], list[Any]]) -> None:
    task = task_of(model_of(*head()), data_of(BITS), None)
    assert (task.kind, task.loss) == (Kind.BINARY, "binary_crossentropy")


def test_logits_are_trained_from_logits() -> None:
    task = task_of(model_of(layers.Dense(3)), data_of(CLASSES), None)
    assert task.kind is Kind.CLASSES
    assert task.loss.get_config()["from_logits"] is True
    assert "logits" in task.loss_name


@pytest.mark.parametrize(
    "labels", [BITS, BITS[:, None], BITS.astype(np.float32), BITS.astype(bool)]
)
def test_a_single_sigmoid_is_binary(labels: Any) -> None:
    task = task_of(model_of(layers.Dense(1, activation="sigmoid")), data_of(labels), None)
    assert (task.kind, task.loss) == (Kind.BINARY, "binary_crossentropy")
    canonical = task.canonical(labels, "y")
    assert np.array_equal(canonical, BITS)
    trained = task.training_labels(canonical)
    assert (trained.shape, trained.dtype) == ((12, 1), np.float32)


@pytest.mark.parametrize(
    ("units", "activation", "labels"),
    [(1, "linear", REAL), (1, "linear", CLASSES), (1, "sigmoid", REAL), (2, "linear", np.stack([REAL, REAL], 1)), (1, "relu", REAL)],
)  # fmt: skip
def test_real_labels_or_a_single_linear_output_are_a_regression(
    units: int, activation: str, labels: Any
) -> None:
    task = task_of(model_of(layers.Dense(units, activation=activation)), data_of(labels), None)
    assert (task.kind, task.loss) == (Kind.REGRESSION, "mean_squared_error")
    assert task.metric == "mae"
    assert task.training_labels(task.canonical(labels, "y")).shape == (12, units)


@pytest.mark.parametrize("activation", ["softmax", "linear"])
def test_one_hot_labels_are_class_numbers(activation: str) -> None:
    task = task_of(model_of(layers.Dense(3, activation=activation)), data_of(ONE_HOT), None)
    assert task.kind is Kind.CLASSES
    assert np.array_equal(task.canonical(ONE_HOT, "y"), CLASSES)


@pytest.mark.parametrize("labels", [CLASSES, ONE_HOT, CLASSES[:, None], CLASSES.astype(np.float32)])
@pytest.mark.parametrize("loss", ["sparse_categorical_crossentropy", "categorical_crossentropy"])
def test_the_compiled_loss_wins_and_gets_the_labels_it_takes(labels: Any, loss: str) -> None:
    model = model_of(layers.Dense(3, activation="softmax"), compiled=loss)
    task = task_of(model, data_of(labels), None)
    assert (task.loss, task.origin) == (loss, "the model's own")
    trained = task.training_labels(task.canonical(labels, "y"))
    assert np.array_equal(trained, CLASSES if "sparse" in loss else ONE_HOT)


def test_a_compiled_regression_of_a_softmax_stays_the_users() -> None:
    model = model_of(layers.Dense(1, activation="sigmoid"), compiled="mean_absolute_error")
    task = task_of(model, data_of(REAL), None)
    assert (task.kind, task.loss) == (Kind.REGRESSION, "mean_absolute_error")


def test_the_loss_asked_for_wins_over_the_compiled_one() -> None:
    model = model_of(
        layers.Dense(3, activation="softmax"), compiled="sparse_categorical_crossentropy"
    )
    task = task_of(model, data_of(CLASSES), "categorical_crossentropy")
    assert (task.loss, task.origin, task.one_hot) == ("categorical_crossentropy", "asked for", True)


@pytest.mark.parametrize(
    ("loss", "units", "labels", "kind", "one_hot"),
    [
        ("SparseCategoricalCrossentropy", 3, CLASSES, Kind.CLASSES, False),
        ("CategoricalCrossentropy", 3, CLASSES, Kind.CLASSES, True),
        ("BinaryCrossentropy", 1, BITS, Kind.BINARY, False),
        ("MeanSquaredError", 1, REAL, Kind.REGRESSION, False),
    ],
)
def test_keras_class_names_of_losses_mean_the_same_as_their_snake_case(
    loss: str, units: int, labels: Any, kind: Kind, one_hot: bool
) -> None:
    assert keras.losses.get(loss) is not None
    activation = {3: "softmax", 1: "sigmoid"}[units]
    task = task_of(model_of(layers.Dense(units, activation=activation)), data_of(labels), loss)
    assert (task.kind, task.one_hot) == (kind, one_hot)


@pytest.mark.parametrize(
    ("units", "activation", "labels", "message"),
    [
        (3, "softmax", [0, 1, 3], r"y must lie in \[0, 3\), as the model has 3 outputs, got 0 to 3"),
        (3, "softmax", [-1, 0, 2], "got -1 to 2"),
        (1, "sigmoid", [0, 1, 2], r"must lie in \[0, 2\)"),
        (3, "softmax", [[1, 1, 0]] * 3, r"class numbers \(N,\) or one-hot rows \(N, 3\), got shape \(3, 3\)"),
        (3, "softmax", [[0.5, 0.5]] * 3, "or one-hot rows"),
        (3, "softmax", [0.5, 1.5, 2.0], "class numbers"),
    ],
)  # fmt: skip
def test_labels_the_outputs_cannot_mean_are_told(
    units: int, activation: str, labels: Any, message: str
) -> None:
    task = task_of(model_of(layers.Dense(units, activation=activation)), data_of(labels), None)
    with pytest.raises(DataError, match=message):
        task.canonical(np.asarray(labels), "y")


@pytest.mark.parametrize("labels", [REAL, np.stack([REAL, REAL], 1)])
def test_regression_labels_of_another_width_are_told_not_broadcast(labels: Any) -> None:
    data, model = data_of(labels), model_of(layers.Dense(3))

    def prepare() -> None:
        task_of(model, data, "mean_squared_error").canonical(labels, "y")

    with pytest.raises(DataError, match=r"3"):
        prepare()


def test_inputs_of_another_shape_are_told() -> None:
    model = model_of(layers.Flatten(), layers.Dense(3), inputs=(8, 8, 1))
    with pytest.raises(
        DataError, match=r"d: inputs must have shape \(N, 8, 8, 1\) as the model asks, got \(N, 4\)"
    ):
        task_of(model, data_of(CLASSES), None)
    with pytest.raises(DataError, match=r"got \(N, 8, 8, 3\)"):
        task_of(model, data_of(CLASSES, (8, 8, 3)), None)


def test_a_free_input_size_takes_any() -> None:
    model = model_of(
        layers.GlobalAveragePooling2D(),
        layers.Dense(3, activation="softmax"),
        inputs=(None, None, 1),
    )
    task_of(model, data_of(CLASSES, (5, 7, 1)), None)


@pytest.mark.parametrize(
    ("labels", "accuracy", "near"),
    [
        (np.arange(100) % 10, 0.11, True),
        (np.arange(100) % 10, 0.16, False),
        (np.arange(100) % 2, 0.55, True),
        (np.arange(100) % 2, 0.80, False),
        # nine of ten examples are of one class: 0.9 says nothing
        ((np.arange(100) % 10 == 0).astype(int), 0.9, True),
        ((np.arange(100) % 10 == 0).astype(int), 0.97, False),
    ],
)
def test_guessing_is_recognised(labels: Any, accuracy: float, near: bool) -> None:
    task = task_of(model_of(layers.Dense(10, activation="softmax")), data_of(labels), None)
    chance = near_chance(task, labels, accuracy)
    assert (chance is not None) is near
    if chance is not None:
        assert chance == np.bincount(labels).max() / len(labels)


def test_the_labels_given_to_fit_train_the_model() -> None:
    labels = np.eye(2)[BITS]
    x = (BITS[:, None] * 2 - 1 + np.zeros((12, 4))).astype(np.float32)
    data = Dataset("d", x, labels, x, labels)
    for head, loss in [
        (layers.Dense(2, activation="softmax"), None),
        (layers.Dense(2, activation="softmax"), "categorical_crossentropy"),
        (layers.Dense(2), None),
    ]:
        model = model_of(head)
        task = task_of(model, data, loss)
        model.compile(keras.optimizers.Adam(0.3), task.loss, metrics=task.keras_metrics)
        targets = task.training_labels(task.canonical(labels, "y"))
        history = model.fit(x, targets, epochs=10, verbose=0).history
        assert history["accuracy"][-1] == 1.0


@pytest.mark.parametrize(
    ("head", "labels", "loss"),
    [
        ([layers.Dense(3, activation="softmax")], CLASSES, None),
        ([layers.Dense(3)], CLASSES, None),
        ([layers.Dense(1, activation="sigmoid")], BITS, None),
        ([layers.Dense(1)], BITS, keras.losses.BinaryCrossentropy(from_logits=True)),
        ([layers.Dense(3, activation="softmax")], ONE_HOT, "categorical_crossentropy"),
        ([layers.Dense(1)], REAL, None),
    ],
    ids=["softmax", "logits", "sigmoid", "binary logits", "one-hot", "regression"],
)
def test_a_models_own_outputs_are_the_best_labels_it_can_be_given(
    head: list[Any], labels: Any, loss: Any
) -> None:
    """The gradient vanishes where model and teacher agree, and nowhere near it."""
    model = model_of(*head, compiled=loss)
    data = data_of(labels)
    task = task_of(model, data, None)
    assert task.teacher_obstacle is None
    soft = task.distilled()
    targets = np.asarray(soft.as_labels(model(data.x_train)))
    model.compile(keras.optimizers.SGD(1.0), soft.loss, metrics=soft.keras_metrics)
    before = model.get_weights()
    model.train_on_batch(data.x_train, targets)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)
    others = np.roll(targets, 1, axis=-1 if targets.shape[-1] > 1 else 0)
    model.train_on_batch(data.x_train, others)
    assert np.abs(model.get_weights()[0] - before[0]).max() > 1e-4


def test_agreement_with_the_teacher_is_shown_by_its_name() -> None:
    model = model_of(layers.Dense(3, activation="softmax"))
    task = task_of(model, data_of(CLASSES), None).distilled()
    assert [metric.name for metric in task.keras_metrics] == ["agreement"]


def test_a_loss_that_may_not_take_outputs_for_labels_says_so() -> None:
    def own(truth: Any, predicted: Any) -> Any:
        return keras.ops.mean(keras.ops.square(truth - predicted))

    task = task_of(model_of(layers.Dense(1), compiled=own), data_of(REAL), None)
    assert "is not known to take a model's outputs for labels" in str(task.teacher_obstacle)
