"""cluster_weights and strip_clustering: into clustering-aware training and back to plain Keras."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from edgepalette.cluster.model import cluster_weights, strip_clustering
from edgepalette.cluster.optimizer import ClusteringOptimizer
from edgepalette.cluster.plan import ClusterPlan, Override
from edgepalette.errors import ModelError

Build = Callable[..., Any]
Pictures = NDArray[np.float32]
Labels = NDArray[np.int32]


def loss() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def trained(build: Build, name: str, pictures: Pictures, labels: Labels) -> Any:
    adam = keras.optimizers.Adam(0.02)
    model = build(name, optimizer=adam, loss=loss(), metrics=["accuracy"], run_eagerly=True)
    cluster_weights(model, ClusterPlan.of(model, 4))
    model.fit(pictures, labels, batch_size=16, verbose=0)
    return model


def kernels(model: Any) -> dict[str, NDArray[np.float32]]:
    return {layer.name: layer.kernel.numpy() for layer in model.layers if hasattr(layer, "kernel")}


def test_an_uncompiled_model_is_clustered_and_stays_uncompiled(build: Build) -> None:
    model = build("sequential")
    assert cluster_weights(model, ClusterPlan.of(model, 5, [Override("head", 3)])) is model
    distinct = {name: len(np.unique(value)) for name, value in kernels(model).items()}
    assert distinct.pop("head") == 3
    assert distinct.pop("depthwise") == 16
    assert set(distinct.values()) == {5}
    assert not model.compiled


def test_clustering_takes_the_nearest_value_and_moves_nothing_else(build: Build) -> None:
    model, before = build("sequential"), build("sequential")
    cluster_weights(model, ClusterPlan.of(model, 5, [Override("conv", None)]))
    after, original = kernels(model), kernels(before)
    np.testing.assert_array_equal(after["conv"], original["conv"])
    values = np.unique(after["head"])
    distance = np.abs(original["head"][..., None] - values).min(axis=-1)
    np.testing.assert_array_equal(np.abs(after["head"] - original["head"]), distance)


def test_a_compiled_model_keeps_its_loss_and_metrics_and_a_copy_of_its_optimizer(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    adam = keras.optimizers.Adam(0.03, beta_1=0.8)
    model = build("functional", optimizer=adam, loss=loss(), metrics=["accuracy"])
    cluster_weights(model, ClusterPlan.of(model, 4))
    assert isinstance(model.optimizer, ClusteringOptimizer)
    assert model.optimizer.wrapped is not adam
    assert model.optimizer.plain_optimizer().get_config() == adam.get_config()
    assert set(model.evaluate(pictures, labels, verbose=0, return_dict=True)) == {
        "loss",
        "accuracy",
    }


def test_a_frozen_layer_is_clustered_once_and_stays(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    model = build("sequential")
    model.get_layer("conv").trainable = False
    model.compile(keras.optimizers.Adam(0.02), loss(), run_eagerly=True)
    cluster_weights(model, ClusterPlan.of(model, 4))
    frozen = model.get_layer("conv").kernel.numpy()
    assert len(np.unique(frozen)) == 4
    model.fit(pictures, labels, batch_size=16, verbose=0)
    np.testing.assert_array_equal(model.get_layer("conv").kernel.numpy(), frozen)
    assert len(np.unique(model.get_layer("head").kernel.numpy())) <= 4


def test_stripping_keeps_the_shared_values_and_gives_the_users_optimizer_back(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    model = trained(build, "sequential", pictures, labels)
    before = [value.copy() for value in model.get_weights()]
    assert strip_clustering(model) is model
    assert type(model.optimizer) is keras.optimizers.Adam
    assert float(model.optimizer.learning_rate) == np.float32(0.02)
    for ours, theirs in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    distinct = {name: len(np.unique(value)) for name, value in kernels(model).items()}
    assert distinct.pop("depthwise") <= 16
    assert max(distinct.values()) <= 4


def test_a_stripped_model_trains_on_as_plain_keras(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    model = strip_clustering(trained(build, "functional", pictures, labels))
    model.fit(pictures, labels, batch_size=16, verbose=0)
    assert len(np.unique(model.get_layer("head").kernel.numpy())) > 4


def test_clustering_a_clustered_model_again_can_be_stripped_to_plain_keras(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    """From 4 clusters on to 2: the way to few clusters goes by steps."""
    model = trained(build, "functional", pictures, labels)
    cluster_weights(model, ClusterPlan.of(model, 2))
    model.fit(pictures, labels, batch_size=16, verbose=0)
    assert all(len(np.unique(value)) <= 2 for value in kernels(model).values())
    assert type(model.optimizer.wrapped) is keras.optimizers.Adam
    assert type(strip_clustering(model).optimizer) is keras.optimizers.Adam


def test_a_model_trained_under_a_loss_scale_can_be_stripped(
    build: Build, pictures: Pictures, labels: Labels
) -> None:
    """The order of the two optimizers is the one the error text of ClusteringOptimizer asks for."""
    model = build("functional")
    optimizer = ClusteringOptimizer(keras.optimizers.SGD(0.1), ClusterPlan.of(model, 4))
    outer = keras.optimizers.LossScaleOptimizer(optimizer, 8.0, dynamic_growth_steps=3)
    outer.build(model.trainable_variables)
    model.compile(outer, loss(), run_eagerly=True)
    model.fit(pictures, labels, batch_size=16, verbose=0)
    strip_clustering(model)
    assert type(model.optimizer.inner_optimizer) is keras.optimizers.SGD
    assert (model.optimizer.initial_scale, model.optimizer.dynamic_growth_steps) == (8.0, 3)


def test_a_stripped_file_loads_whole_with_its_optimizer(
    build: Build, pictures: Pictures, labels: Labels, tmp_path: Path
) -> None:
    """Keras warns of an optimizer saved without state, and warnings are errors here."""
    model = strip_clustering(trained(build, "functional", pictures, labels))
    model.save(tmp_path / "plain.keras")
    loaded = keras.models.load_model(tmp_path / "plain.keras")
    assert type(loaded.optimizer) is keras.optimizers.Adam
    np.testing.assert_array_equal(
        loaded.predict(pictures, verbose=0), model.predict(pictures, verbose=0)
    )


@pytest.mark.parametrize("compiled", [False, True])
def test_a_model_that_was_not_clustered_cannot_be_stripped(build: Build, compiled: bool) -> None:
    model = build("functional", **({"optimizer": "sgd", "loss": loss()} if compiled else {}))
    name = "SGD" if compiled else "NoneType"
    with pytest.raises(ModelError, match=f"one whose optimizer is {name}; call cluster_weights"):
        strip_clustering(model)


@pytest.mark.slow
def test_a_stripped_file_loads_and_predicts_alike_where_edgepalette_is_not_installed(
    build: Build, pictures: Pictures, labels: Labels, tmp_path: Path
) -> None:
    model = strip_clustering(trained(build, "sequential", pictures, labels))
    model.save(tmp_path / "plain.keras")
    np.save(tmp_path / "pictures.npy", pictures)
    code = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "edgepalette":
            raise ImportError("edgepalette is not installed here")

sys.meta_path.insert(0, Blocker())
import keras, numpy as np
model = keras.models.load_model("plain.keras")
np.save("predicted.npy", model.predict(np.load("pictures.npy"), verbose=0))
assert not any(name.startswith("edgepalette") for name in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-I", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(
        np.load(tmp_path / "predicted.npy"), model.predict(pictures, verbose=0)
    )


def test_the_plan_of_another_model_is_refused_and_changes_nothing(build: Build) -> None:
    planned, other = build("functional"), build("functional", optimizer="sgd", loss=loss())
    before = planned.get_weights()
    with pytest.raises(ModelError, match="got rows/kernel of another; make it by"):
        cluster_weights(other, ClusterPlan.of(planned, 4))
    for now, value in zip(planned.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, value)


@pytest.mark.parametrize("by_name", [True, False])
def test_what_the_user_excluded_from_weight_decay_stays_excluded(
    build: Build, by_name: bool
) -> None:
    """In training with shared values, after another clustering and after stripping."""
    model = build("functional")
    head = model.get_layer("head")
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    if by_name:
        optimizer.exclude_from_weight_decay(var_names=["bias"])
    else:
        optimizer.exclude_from_weight_decay(var_list=[head.bias])
    model.compile(optimizer, loss())
    for _ in range(2):
        cluster_weights(model, ClusterPlan.of(model, 4))
    for _ in range(2):
        head.bias.assign(np.ones(head.bias.shape))
        branch = model.get_layer("branch").bias
        branch.assign(np.ones(branch.shape))
        model.optimizer.apply(
            [tf.zeros(v.shape) for v in model.trainable_variables], model.trainable_variables
        )
        np.testing.assert_array_equal(head.bias.numpy(), 1)
        assert (branch.numpy() == 1).all() == by_name
        if isinstance(model.optimizer, ClusteringOptimizer):
            strip_clustering(model)


@pytest.mark.parametrize("left", ["some", "one"])
def test_a_model_frozen_after_clustering_does_not_load_into_other_weights(
    build: Build, pictures: Pictures, labels: Labels, tmp_path: Path, left: str
) -> None:
    """Its state has no place then: Keras alone would train on from the weights the model was made with."""
    model = trained(build, "functional", pictures, labels)
    for layer in model.layers:
        layer.trainable = layer.name == "head" or (left == "some" and layer.name == "branch")
    model.save(tmp_path / "frozen.keras")
    with pytest.raises((ModelError, ValueError), match="frozen or thawed after clustering"):
        keras.models.load_model(tmp_path / "frozen.keras")
    loaded = keras.models.load_model(tmp_path / "frozen.keras", compile=False)
    np.testing.assert_array_equal(loaded(pictures), model(pictures))


@pytest.mark.slow
def test_training_goes_on_in_a_new_process_to_the_same_bits(
    build: Build, pictures: Pictures, labels: Labels, tmp_path: Path
) -> None:
    """Keras finds the optimizer's class once edgepalette has been asked for it."""
    model = trained(build, "functional", pictures, labels)
    model.save(tmp_path / "half.keras")
    np.savez(tmp_path / "data.npz", x=pictures, y=labels)
    code = """
from edgepalette import ClusteringOptimizer
import keras, numpy as np
data = np.load("data.npz")
model = keras.models.load_model("half.keras")
assert type(model.optimizer) is ClusteringOptimizer
model.run_eagerly = True
model.fit(data["x"], data["y"], batch_size=16, shuffle=False, verbose=0)
np.savez("end.npz", *model.get_weights())
"""
    model.fit(pictures, labels, batch_size=16, shuffle=False, verbose=0)
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "end.npz") as end:
        for ours, theirs in zip(end.values(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)
