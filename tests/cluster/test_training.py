"""Training with shared values through Keras' own ways: fit, loops, saving, every kind of model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from edgepalette.cluster.aggregation import GradientAggregation
from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.nearest import nearest_reference
from edgepalette.cluster.optimizer import ClusteringOptimizer
from edgepalette.cluster.plan import ClusterPlan

Build = Callable[..., Any]
Pictures = NDArray[np.float32]
Labels = NDArray[np.int32]


def loss() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def clustered(build: Build, name: str, clusters: int = 8, **compile_arguments: Any) -> Any:
    """A compiled model of conftest's that trains with shared values."""
    options = {"optimizer": keras.optimizers.Adam(0.02), "loss": loss(), "jit_compile": False}
    model = build(name, **{**options, **compile_arguments})
    return cluster_weights(model, ClusterPlan.of(model, clusters))


def fit(model: Any, pictures: Pictures, labels: Labels, epochs: int = 1) -> None:
    model.fit(pictures, labels, batch_size=16, epochs=epochs, shuffle=False, verbose=0)


def bits(model: Any) -> bytes:
    """All weights and the optimizer's state; Keras does not save the state of Dropout's generator."""
    variables = [*model.weights, *model.optimizer.variables]
    variables = [v for v in variables if v.name != "seed_generator_state"]
    return b"".join(variable.numpy().tobytes() for variable in variables)


def assert_clustered(model: Any, clusters: int) -> None:
    for variable in model.optimizer.clustered_variables:
        kernel, centroids = variable.kernel.numpy(), variable.centroids.numpy()
        indices = nearest_reference(variable.original.numpy(), centroids)
        assert len(np.unique(kernel)) <= max(clusters, 16 * ("depthwise" in variable.kernel.path))
        np.testing.assert_array_equal(variable.indices.numpy(), indices)
        np.testing.assert_array_equal(kernel, centroids[indices])


def planned(model: Any, kernels: int) -> None:
    assert len(model.optimizer.clustered_variables) == kernels


@pytest.mark.parametrize(
    ("name", "kernels"),
    [("sequential", 4), ("functional", 3), ("nested", 2), ("shared_layer", 2), ("subclassed", 2)],
)
def test_fit_keeps_the_values_of_every_kind_of_model_shared(
    build: Build, pictures: Pictures, labels: Labels, name: str, kernels: int
) -> None:
    model = clustered(build, name)
    planned(model, kernels)
    before = [v.original.numpy() for v in model.optimizer.clustered_variables]
    fit(model, pictures, labels)
    assert_clustered(model, 8)
    for old, variable in zip(before, model.optimizer.clustered_variables, strict=True):
        assert (variable.original.numpy() != old).any(), variable.kernel.path


@pytest.mark.slow
def test_fit_works_compiled_by_xla(build: Build, pictures: Pictures, labels: Labels) -> None:
    model = clustered(build, "sequential", jit_compile=True)
    fit(model, pictures, labels)
    assert_clustered(model, 8)


def test_fit_works_step_by_step_without_a_graph(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    model = clustered(build, "functional", run_eagerly=True)
    fit(model, pictures[:16], labels[:16])
    assert_clustered(model, 8)


def test_a_last_batch_of_another_size_trains_dense_layers_on_sequences_too() -> None:
    """Keras traces the step again for a free batch size; the kernel's gradient then has no static shape."""
    keras.utils.set_random_seed(7)
    model = keras.Sequential([keras.Input((6, 5)), keras.layers.Dense(4)])
    model.compile("sgd", "mse", jit_compile=False)
    cluster_weights(model, ClusterPlan.of(model, 3))
    random = np.random.default_rng(0)
    inputs, targets = random.normal(size=(10, 6, 5)), random.normal(size=(10, 6, 4))
    model.fit(inputs, targets, batch_size=4, epochs=2, verbose=0)
    assert_clustered(model, 3)


def test_training_learns(build: Build, pictures: Pictures) -> None:
    labels = (pictures.mean(axis=(1, 2, 3)) > 0).astype(np.int32)
    model = clustered(build, "functional", clusters=4)
    first = model.evaluate(pictures, labels, verbose=0)
    fit(model, pictures, labels, epochs=10)
    assert model.evaluate(pictures, labels, verbose=0) < first / 2
    assert_clustered(model, 4)


def test_a_custom_loop_trains_as_fit_does(build: Build, pictures: Pictures, labels: Labels) -> None:
    fitted = clustered(build, "functional")
    fit(fitted, pictures, labels)

    model = build("functional")
    optimizer = ClusteringOptimizer(keras.optimizers.Adam(0.02), ClusterPlan.of(model, 8))
    optimizer.build(model.trainable_variables)
    measure = loss()

    @tf.function
    def step(images: Any, truth: Any) -> None:
        with tf.GradientTape() as tape:
            value = measure(truth, model(images, training=True))
        gradients = tape.gradient(value, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    for start in range(0, len(pictures), 16):
        step(pictures[start : start + 16], labels[start : start + 16])
    for ours, theirs in zip(model.get_weights(), fitted.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_the_same_seed_gives_the_same_bits(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    runs = set()
    for _ in range(2):
        model = clustered(build, "sequential")
        fit(model, pictures, labels)
        runs.add(bits(model))
    assert len(runs) == 1


def test_a_step_computes_what_plain_keras_computes_with_the_clustered_weights(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    """Dropout draws the same masks, BatchNorm moves its statistics: the model is plain Keras."""
    model = clustered(build, "sequential")
    plain = build(
        "sequential", optimizer=keras.optimizers.Adam(0.02), loss=loss(), jit_compile=False
    )
    plain.set_weights(model.get_weights())

    losses = [m.train_on_batch(pictures[:16], labels[:16]) for m in (model, plain)]

    assert losses[0] == losses[1]
    ours, theirs = model.get_layer("norm"), plain.get_layer("norm")
    for name in ("moving_mean", "moving_variance", "gamma", "beta"):
        np.testing.assert_array_equal(getattr(ours, name).numpy(), getattr(theirs, name).numpy())
    assert np.abs(ours.moving_mean.numpy()).min() > 0


def test_dropout_is_active_in_training_and_silent_in_inference(
    build: Build, pictures: Pictures
) -> None:
    model = clustered(build, "sequential")
    calm = [model(pictures[:2], training=False).numpy() for _ in range(2)]
    np.testing.assert_array_equal(calm[0], calm[1])
    noisy = [model(pictures[:2], training=True).numpy() for _ in range(2)]
    assert (noisy[0] != noisy[1]).any()


def test_a_model_saved_during_training_goes_on_to_the_same_bits(
    build: Build, pictures: Pictures, labels: Labels, tmp_path: Path
) -> None:
    # no Dropout: Keras does not save the state of its generator, so plain Keras would not either
    uninterrupted = clustered(build, "functional")
    fit(uninterrupted, pictures, labels)
    uninterrupted.save(tmp_path / "halfway.keras")
    fit(uninterrupted, pictures, labels)

    resumed = keras.models.load_model(tmp_path / "halfway.keras")
    assert isinstance(resumed.optimizer, ClusteringOptimizer)
    assert_clustered(resumed, 8)
    fit(resumed, pictures, labels)

    assert bits(resumed) == bits(uninterrupted)


def test_loading_restores_the_weights_that_were_saved(
    build: Build, pictures: Pictures, labels: Labels, tmp_path: Path
) -> None:
    model = clustered(build, "sequential")
    fit(model, pictures, labels)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert bits(loaded) == bits(model)
    np.testing.assert_array_equal(
        loaded.predict(pictures, verbose=0), model.predict(pictures, verbose=0)
    )


def test_a_callback_changes_the_learning_rate_epoch_by_epoch(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    model = clustered(build, "functional")
    rates = [0.5, 0.25, 0.125]
    seen = []
    model.fit(
        pictures,
        labels,
        batch_size=16,
        epochs=3,
        verbose=0,
        callbacks=[
            keras.callbacks.LearningRateScheduler(lambda epoch, _: rates[epoch]),
            keras.callbacks.LambdaCallback(
                on_epoch_end=lambda *_: seen.append(float(model.optimizer.learning_rate))
            ),
        ],
    )
    assert seen == rates
    assert_clustered(model, 8)


def test_mixed_precision_keeps_its_loss_scale_outside(pictures: Pictures, labels: Labels) -> None:
    keras.utils.set_random_seed(2)
    dtype = "mixed_float16"
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Flatten(dtype=dtype),
            keras.layers.Dense(4, dtype=dtype),
        ]
    )
    plain = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.02), initial_scale=8.0)
    model.compile(plain, loss(), jit_compile=False)
    cluster_weights(model, ClusterPlan.of(model, 4))
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert model.optimizer.initial_scale == 8.0
    before = model.layers[-1].kernel.numpy()
    fit(model, pictures, labels)
    (variable,) = model.optimizer.inner_optimizer.clustered_variables
    kernel = variable.kernel.numpy()
    assert (kernel != before).any()
    np.testing.assert_array_equal(kernel, variable.centroids.numpy()[variable.indices.numpy()])


def test_the_plans_aggregation_is_the_optimizers(build: Build) -> None:
    model = build("functional", optimizer="sgd", loss=loss())
    plan = ClusterPlan.of(model, 4, aggregation=GradientAggregation.AVG)
    assert cluster_weights(model, plan).optimizer.aggregation is GradientAggregation.AVG
