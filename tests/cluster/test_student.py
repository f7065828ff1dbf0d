"""Training on what a teacher computes: outputs, mirror images and hidden activations."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from edgepalette.cluster.model import cluster_weights, strip_clustering
from edgepalette.cluster.plan import ClusterPlan
from edgepalette.cluster.student import HIDDEN_WEIGHT, Student, with_activations
from edgepalette.cluster.twin import int8_twin

from .conftest import CHANNELS, CLASSES, SIDE, Subclassed, functional, sequential

NOTHING = np.zeros(8)


@pytest.fixture
def images() -> Any:
    return np.random.default_rng(0).normal(size=(8, SIDE, SIDE, CHANNELS)).astype(np.float32)


def small(seed: int) -> Any:
    """Two rectified layers, one of them within a convolution, and a softmax."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input((SIDE, SIDE, CHANNELS)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(8),
            layers.ReLU(),
            layers.Dense(CLASSES, activation="softmax"),
        ]
    )


def compiled(student: Any) -> Any:
    student.compile(keras.optimizers.SGD(1.0), keras.losses.CategoricalCrossentropy())
    return student


def test_a_model_gives_its_output_and_then_its_hidden_activations(images: Any) -> None:
    model = small(0)
    output, *hidden = with_activations(model)(images)
    np.testing.assert_array_equal(output, model(images))
    assert [tuple(part.shape) for part in hidden] == [(8, 4, 4, 4), (8, 8)]
    assert all(np.min(part) >= 0 for part in hidden)
    assert len(with_activations(functional()).outputs) == 2
    plain = Subclassed()
    plain(images)
    assert with_activations(plain) is plain
    linear = keras.Sequential([keras.Input((3,)), layers.Dense(2)])
    assert with_activations(linear) is linear


def test_a_teachers_equal_has_nothing_to_learn(images: Any) -> None:
    model, teacher = small(0), small(0)
    student = compiled(Student(with_activations(model), with_activations(teacher)))
    before = model.get_weights()
    student.train_on_batch(images, NOTHING)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_loss_is_of_outputs_and_hidden_activations(images: Any, mirrored: bool) -> None:
    model, teacher = (with_activations(small(seed)) for seed in (0, 1))
    student = compiled(Student(model, teacher, mirrored=mirrored))
    (output, *hidden), (taught, *others) = (
        [np.asarray(part, np.float64) for part in m(images)] for m in (model, teacher)
    )
    if mirrored:
        taught = (taught + np.asarray(teacher(images[:, :, ::-1])[0])) / 2
    apart = [np.mean((a - b) ** 2) / np.mean(b**2) for a, b in zip(hidden, others, strict=True)]
    wanted = np.mean(-np.sum(taught * np.log(output), axis=1)) + HIDDEN_WEIGHT * np.mean(apart)
    assert student.train_on_batch(images, NOTHING) == pytest.approx(wanted, rel=1e-5)


def test_outputs_pass_through_what_makes_labels_of_them(images: Any) -> None:
    model, teacher = (with_activations(small(seed)) for seed in (0, 1))
    even = keras.ops.ones((8, CLASSES)) / CLASSES
    student = compiled(Student(model, teacher, lambda _: even, hidden_weight=0.0))
    output = np.asarray(model(images)[0])
    wanted = np.mean(-np.sum(np.log(output) / CLASSES, axis=1))
    assert student.train_on_batch(images, NOTHING) == pytest.approx(wanted, rel=1e-5)


def test_a_clustered_int8_student_comes_nearer_to_its_teacher_and_leaves_it_alone(
    images: Any,
) -> None:
    model, teacher = sequential(), sequential()
    teacher.set_weights(model.get_weights())
    untouched = teacher.get_weights()
    student = Student(int8_twin(with_activations(model)).model, with_activations(teacher))
    student.compile(keras.optimizers.Adam(1e-2), "mse")
    cluster_weights(student, ClusterPlan.of(model, 4, int8=True), centroid_rate=0.2)
    assert len(student.trainable_variables) == len(model.trainable_variables)
    history = student.fit(images, NOTHING, epochs=30, verbose=0).history["loss"]
    assert history[-1] < 0.7 * history[0]
    strip_clustering(student)
    assert len(np.unique(model.get_layer("conv").kernel)) <= 4
    for ours, before in zip(teacher.get_weights(), untouched, strict=True):
        np.testing.assert_array_equal(ours, before)


def test_a_subclassed_model_learns_the_outputs_alone(images: Any) -> None:
    model, teacher = Subclassed(), Subclassed()
    model(images)
    teacher(images)
    student = Student(with_activations(model), with_activations(teacher))
    student.compile(keras.optimizers.SGD(0.01), "mse", metrics=["mae"])
    wanted = np.mean((np.asarray(model(images)) - np.asarray(teacher(images))) ** 2)
    assert student.train_on_batch(images, NOTHING)[0] == pytest.approx(wanted, rel=1e-5)


def test_mixed_precision_compares_in_single_precision(images: Any) -> None:
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        model, teacher = (with_activations(small(seed)) for seed in (0, 1))
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    student = Student(model, teacher)
    student.compile("adam", "mse")
    losses = [float(student.train_on_batch(images, NOTHING)) for _ in range(20)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("mirrored", [False, True])
def test_a_student_is_measured_by_its_teacher_too(images: Any, mirrored: bool) -> None:
    """By `evaluate` and by `fit` with data to validate on; its labels are not looked at."""
    teacher = with_activations(small(1))
    student = compiled(Student(with_activations(small(0)), teacher, mirrored=mirrored))
    apart = student.evaluate(images, NOTHING, verbose=0)
    history = student.fit(images, NOTHING, validation_data=(images, NOTHING), verbose=0).history
    assert history["val_loss"][0] < apart
    itself = compiled(Student(teacher, teacher))
    assert itself.evaluate(images, NOTHING, verbose=0) < apart
