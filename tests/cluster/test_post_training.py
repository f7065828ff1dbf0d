"""Clustering without training: models of every kind keep their outputs better than by the nearest values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.plan import ClusterPlan, Override
from edgepalette.cluster.post_training import _gram, cluster_post_training
from edgepalette.cluster.sensitivity import sensitivities
from edgepalette.errors import DataError

Build = Callable[..., Any]
Pictures = NDArray[np.float32]


@pytest.mark.parametrize(
    "name", ["sequential", "functional", "subclassed", "nested", "shared_layer"]
)
@pytest.mark.parametrize("clusters", [2, 4])
def test_outputs_change_less_than_by_the_nearest_values(
    build: Build, pictures: Pictures, name: str, clusters: int
) -> None:
    before = build(name)(pictures, training=False).numpy()
    errors = []
    for compensated in (True, False):
        model = build(name)
        plan = ClusterPlan.of(model, clusters)
        if compensated:
            cluster_post_training(model, plan, [pictures[:16], pictures[16:]])
        else:
            cluster_weights(model, plan)
        after = model(pictures, training=False).numpy()
        errors.append(float(np.square(after - before).mean()))
        for planned in plan.clustered:
            assert len(np.unique(planned.weight.variable.numpy())) <= planned.clusters
    assert errors[0] < errors[1]


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize(
    "make",
    [
        lambda **o: keras.layers.Conv2D(5, (3, 2), strides=(2, 1), **o),
        lambda **o: keras.layers.Conv2D(5, 3, dilation_rate=2, **o),
        lambda **o: keras.layers.DepthwiseConv2D(3, depth_multiplier=2, **o),
        lambda **o: keras.layers.Conv1D(5, 3, strides=2, **o),
        lambda **o: keras.layers.DepthwiseConv1D(3, **o),
    ],
    ids=["conv2d", "dilated", "depthwise", "conv1d", "depthwise1d"],
)
def test_the_grams_of_a_convolution_are_those_of_its_outputs(
    make: Callable[..., Any], padding: str
) -> None:
    """wᵀHw is the mean square of the layer's outputs, whatever its kernel."""
    keras.utils.set_random_seed(0)
    layer = make(padding=padding, use_bias=False)
    one_dimensional = len(layer.kernel_size) == 1
    x = np.random.default_rng(0).normal(size=(4, 9, 3) if one_dimensional else (4, 9, 8, 3))
    model = keras.Sequential([keras.Input(x.shape[1:]), layer])
    outputs = model(x.astype(np.float32)).numpy()
    kernel = layer.kernel.numpy().astype(np.float64)
    depthwise = "Depthwise" in type(layer).__name__
    gram = _gram(model, layer, [x[:2].astype(np.float32), x[2:].astype(np.float32)], depthwise)
    mean_squares = np.square(outputs).reshape(-1, outputs.shape[-1]).mean(axis=0)
    if depthwise:
        rows = np.moveaxis(kernel.reshape(-1, *kernel.shape[-2:]), 1, 0)
        found = np.einsum("gio,gij,gjo->go", rows, gram, rows).reshape(-1)
    else:
        rows = kernel.reshape(-1, kernel.shape[-1])
        found = np.einsum("io,ij,jo->o", rows, gram[0], rows)
    np.testing.assert_allclose(found, mean_squares, rtol=1e-4)


def test_weights_whose_inputs_are_not_known_take_the_nearest_values_and_say_why(
    build: Build, pictures: Pictures
) -> None:
    model, twin = build("sequential"), build("sequential")
    overrides = [Override("head", 4, per_channel=True)]
    results = cluster_post_training(model, ClusterPlan.of(model, 4, overrides), [pictures])
    cluster_weights(twin, ClusterPlan.of(twin, 4, overrides))
    obstacles = {result.name: result.obstacle for result in results}
    assert obstacles["conv/kernel"] is None
    assert obstacles["depthwise/kernel"] is None
    assert "kernel of Conv2DTranspose are not at hand" in str(obstacles["transpose/kernel"])
    assert "values per channel" in str(obstacles["head/kernel"])
    for name in ("transpose", "head"):
        ours, theirs = (m.get_layer(name).kernel.numpy() for m in (model, twin))
        np.testing.assert_array_equal(ours, theirs)


def test_the_model_is_left_as_it_was_but_for_its_kernels(build: Build, pictures: Pictures) -> None:
    model = build("functional")
    layer = model.get_layer("head")
    cluster_post_training(model, ClusterPlan.of(model, 4), [pictures])
    assert "call" not in vars(layer)
    assert not model.compiled
    np.testing.assert_array_equal(layer.bias.numpy(), build("functional").get_layer("head").bias)


def test_without_a_batch_nothing_is_touched(build: Build) -> None:
    model = build("functional")
    with pytest.raises(DataError, match="needs at least one batch of inputs"):
        cluster_post_training(model, ClusterPlan.of(model, 4), [])
    assert len(np.unique(model.get_layer("head").kernel.numpy())) > 4


def test_batches_may_come_from_a_generator(build: Build, pictures: Pictures) -> None:
    one, other = build("functional"), build("functional")
    cluster_post_training(one, ClusterPlan.of(one, 4), [pictures])
    cluster_post_training(other, ClusterPlan.of(other, 4), (x for x in [pictures]))
    for ours, theirs in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_layer_that_does_not_run_takes_the_nearest_values() -> None:
    class Helped(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.head, self.helper = (keras.layers.Dense(9, name=n) for n in ("head", "helper"))

        def call(self, inputs: Any, training: bool = False) -> Any:
            outputs = self.head(inputs)
            return outputs + self.helper(inputs) if training else outputs

    model = Helped()
    x = np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32)
    model(x, training=True)
    results = cluster_post_training(model, ClusterPlan.of(model, 4), [x])
    assert [result.obstacle for result in results] == [
        None,
        "its layer does not run on the batches given",
    ]
    assert len(np.unique(model.helper.kernel.numpy())) == 4


def test_a_pruned_kernel_keeps_its_zeros(build: Build, pictures: Pictures) -> None:
    model = build("functional")
    kernel = model.get_layer("head").kernel
    pruned = np.random.default_rng(0).random(kernel.shape) < 0.5
    kernel.assign(np.where(pruned, 0, kernel.numpy()))
    cluster_post_training(model, ClusterPlan.of(model, 4), [pictures])
    np.testing.assert_array_equal(kernel.numpy()[pruned], 0)


def test_sensitivities_are_mean_squared_gradients() -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(7, name="dense")])
    plan = ClusterPlan.of(model, 4)
    random = np.random.default_rng(0)
    batches = [(random.normal(size=(2, 3)), random.normal(size=(2, 7))) for _ in range(5)]
    batches = [(x.astype(np.float32), y.astype(np.float32)) for x, y in batches]
    found = sensitivities(model, plan, batches, "mean_squared_error")
    expected = np.mean(
        [np.square(x.T @ (2 * (model(x).numpy() - y) / y.size)) for x, y in batches], axis=0
    )
    np.testing.assert_allclose(found["dense/kernel"], expected, rtol=1e-4, atol=1e-9)


def test_sensitivities_need_a_batch() -> None:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(7)])
    with pytest.raises(DataError, match="need at least one batch"):
        sensitivities(model, ClusterPlan.of(model, 4), [], "mse")
