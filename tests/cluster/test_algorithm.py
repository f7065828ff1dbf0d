"""ClusteringAlgorithm: forward and backward against a naive numpy oracle."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgepalette.cluster.aggregation import GradientAggregation
from edgepalette.cluster.algorithm import ClusteringAlgorithm, centroid_gradient
from edgepalette.cluster.nearest import nearest_reference

SUM, AVG = GradientAggregation.SUM, GradientAggregation.AVG
FORMATS = ["channels_last", "channels_first"]


def oracle_gradient(
    gradient: NDArray[Any], indices: NDArray[Any], clusters: int, aggregation: GradientAggregation
) -> NDArray[np.float64]:
    """A centroid's gradient by its definition; an empty cluster has 0."""
    result = np.zeros(clusters)
    for cluster in range(clusters):
        members = gradient[indices == cluster].astype(np.float64)
        if members.size:
            result[cluster] = members.sum() if aggregation is SUM else members.mean()
    return result


def case(shape: tuple[int, ...], clusters: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(weight, unsorted centroids, gradient); gradients are whole numbers, so their sums are exact."""
    random = np.random.default_rng(sum(shape) + clusters)
    weight = random.normal(size=shape).astype(np.float32)
    centroids = random.permutation(np.linspace(-1.5, 1.5, clusters)).astype(np.float32)
    gradient = random.integers(-50, 50, size=shape).astype(np.float32)
    return weight, centroids, gradient


def tape_gradients(
    algorithm: ClusteringAlgorithm, weight: Any, gradient: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """(clustered weight, gradient of the original weight, gradient of the centroids)."""
    original = tf.Variable(weight)
    indices = algorithm.get_pulling_indices(original)
    with tf.GradientTape() as tape:
        clustered = algorithm.get_clustered_weight(indices, original)
        loss = tf.reduce_sum(clustered * gradient)
    d_weight, d_centroids = tape.gradient(loss, [original, algorithm.cluster_centroids])
    return clustered.numpy(), d_weight.numpy(), d_centroids.numpy()


@pytest.mark.parametrize("aggregation", [SUM, AVG])
@pytest.mark.parametrize(
    ("shape", "clusters"), [((7,), 3), ((6, 11), 5), ((3, 3, 4, 5), 16), ((2, 3, 2, 2, 3), 2)]
)
def test_the_gradient_reaches_the_weight_unchanged_and_each_centroid_from_its_members(
    shape: tuple[int, ...], clusters: int, aggregation: GradientAggregation
) -> None:
    weight, centroids, gradient = case(shape, clusters)
    algorithm = ClusteringAlgorithm(tf.Variable(centroids), aggregation)

    clustered, d_weight, d_centroids = tape_gradients(algorithm, weight, gradient)

    indices = nearest_reference(weight, centroids)
    np.testing.assert_array_equal(clustered, centroids[indices])
    np.testing.assert_array_equal(d_weight, gradient)
    expected = oracle_gradient(gradient, indices, clusters, aggregation)
    # sums of whole numbers are exact; a mean is rounded once
    np.testing.assert_array_equal(d_centroids, expected.astype(np.float32))


@pytest.mark.parametrize("aggregation", [SUM, AVG])
def test_an_empty_cluster_has_gradient_zero(aggregation: GradientAggregation) -> None:
    centroids = tf.Variable(np.array([0.0, 100.0, 1.0], np.float32))
    weight = np.array([[0.1, 0.9], [1.2, -3.0]], np.float32)
    algorithm = ClusteringAlgorithm(centroids, aggregation)
    _, _, d_centroids = tape_gradients(algorithm, weight, np.ones((2, 2), np.float32))
    assert d_centroids[1] == 0


@pytest.mark.parametrize("aggregation", [SUM, AVG])
@pytest.mark.parametrize("data_format", FORMATS)
def test_every_channel_has_centroids_of_its_own(
    data_format: str, aggregation: GradientAggregation
) -> None:
    random = np.random.default_rng(3)
    shape, clusters = (4, 3, 2, 5), 3
    channels = shape[-1] if data_format == "channels_last" else shape[0]
    axis = 3 if data_format == "channels_last" else 0
    centroids = random.normal(size=(channels, clusters)).astype(np.float32)
    weight, _, gradient = case(shape, clusters)
    algorithm = ClusteringAlgorithm(tf.Variable(centroids), aggregation, data_format)

    clustered, d_weight, d_centroids = tape_gradients(algorithm, weight, gradient)

    np.testing.assert_array_equal(d_weight, gradient)
    for channel in range(channels):
        part, row = np.take(weight, channel, axis), centroids[channel]
        indices = nearest_reference(part, row)
        np.testing.assert_array_equal(np.take(clustered, channel, axis), row[indices])
        expected = oracle_gradient(
            np.take(gradient, channel, axis), indices, clusters, aggregation
        ).astype(np.float32)
        np.testing.assert_array_equal(d_centroids[channel], expected)


@pytest.mark.parametrize("aggregation", [SUM, AVG])
@pytest.mark.parametrize("data_format", [None, *FORMATS])
def test_split_gradient_equals_the_tape_bit_for_bit(
    data_format: str | None, aggregation: GradientAggregation
) -> None:
    random = np.random.default_rng(5)
    weight, gradient = random.normal(size=(2, 3, 5, 3, 4)).astype(np.float32)
    if data_format is None:
        centroids = random.normal(size=6)
    else:
        centroids = random.normal(size=(4 if data_format == "channels_last" else 3, 6))
    algorithm = ClusteringAlgorithm(
        tf.Variable(centroids.astype(np.float32)), aggregation, data_format
    )
    _, d_weight, d_centroids = tape_gradients(algorithm, weight, gradient)

    indices = algorithm.get_pulling_indices(weight)
    split = algorithm.split_gradient(tf.constant(gradient), indices)

    assert split[0].numpy().tobytes() == d_weight.tobytes()
    assert split[1].numpy().tobytes() == d_centroids.tobytes()


@given(
    hnp.array_shapes(min_dims=1, max_dims=3, max_side=9).flatmap(
        lambda shape: st.tuples(
            hnp.arrays(np.float32, shape, elements=st.integers(-99, 99).map(np.float32)),
            hnp.arrays(np.int32, shape, elements=st.integers(0, 6)),
        )
    ),
    st.sampled_from([SUM, AVG]),
)
@settings(deadline=None, max_examples=60)
def test_centroid_gradient_is_its_definition_for_every_size(
    arrays: tuple[NDArray[Any], NDArray[Any]], aggregation: GradientAggregation
) -> None:
    gradient, indices = arrays
    found = centroid_gradient(tf.constant(gradient), tf.constant(indices), 7, aggregation)
    expected = oracle_gradient(gradient, indices, 7, aggregation).astype(np.float32)
    np.testing.assert_array_equal(found.numpy(), expected)


def test_the_centroid_gradient_has_the_same_bits_every_time() -> None:
    random = np.random.default_rng(0)
    gradient = tf.constant(random.normal(size=(300, 701)).astype(np.float32))
    indices = tf.constant(random.integers(0, 16, size=(300, 701)).astype(np.uint8))
    compiled = tf.function(lambda: centroid_gradient(gradient, indices, 16, SUM))
    results = {compiled().numpy().tobytes() for _ in range(20)}
    assert len(results) == 1


@pytest.mark.parametrize("aggregation", [SUM, AVG])
def test_the_centroid_gradient_compiles_under_xla(aggregation: GradientAggregation) -> None:
    weight, _, gradient = case((13, 17), 5)
    indices = nearest_reference(weight, np.linspace(-1, 1, 5).astype(np.float32))
    compiled = tf.function(
        lambda: centroid_gradient(tf.constant(gradient), tf.constant(indices), 5, aggregation),
        jit_compile=True,
    )
    expected = oracle_gradient(gradient, indices, 5, aggregation).astype(np.float32)
    # XLA may divide by a reciprocal: one rounding more
    np.testing.assert_array_max_ulp(compiled().numpy(), expected, maxulp=1)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (1, 2, 3, 2, 1)])
def test_pulling_indices_are_int32_in_the_weights_shape(shape: tuple[int, ...]) -> None:
    algorithm = ClusteringAlgorithm(tf.constant([1.0, 0.0]))
    indices = algorithm.get_pulling_indices(np.full(shape, 0.9, np.float32))
    assert indices.dtype == tf.int32
    assert indices.shape == shape
    assert not indices.numpy().any()


def test_pulling_indices_can_be_asked_of_other_centroids() -> None:
    algorithm = ClusteringAlgorithm(tf.constant([1.0, 0.0]))
    weight = np.array([0.9, 0.1], np.float32)
    np.testing.assert_array_equal(algorithm.get_pulling_indices(weight), [0, 1])
    np.testing.assert_array_equal(
        algorithm.get_pulling_indices(weight, centroids=tf.constant([0.0, 1.0])), [1, 0]
    )


@pytest.mark.parametrize("data_format", [None, *FORMATS])
def test_cluster_sizes_count_the_members(data_format: str | None) -> None:
    centroids = np.zeros(3 if data_format is None else (2, 3), np.float32)
    indices = tf.constant([[0, 2], [2, 2]])
    sizes = ClusteringAlgorithm(tf.constant(centroids), data_format=data_format).cluster_sizes(
        indices
    )
    expected = {
        None: [1, 0, 3],
        "channels_last": [[1, 0, 1], [0, 0, 2]],
        "channels_first": [[1, 0, 1], [0, 0, 2]],
    }[data_format]
    np.testing.assert_array_equal(sizes.numpy(), expected)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="'channels_last' or 'channels_first', got 'NCHW'"):
        ClusteringAlgorithm(tf.constant([1.0]), data_format="NCHW")
    with pytest.raises(ValueError, match=r"shape \(K,\) or \(channels, K\), got \(1, 1, 1\)"):
        ClusteringAlgorithm(tf.constant([[[1.0]]]))


def test_more_centroids_than_a_byte_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="must be 1 to 256 values, got 257"):
        ClusteringAlgorithm(tf.zeros(257))


class OwnLayer(keras.layers.Layer):
    """A dense layer of the user's, whose weight shares four values."""

    def build(self, shape: Any) -> None:
        self.weight = self.add_weight(shape=(shape[-1], 3), name="weight")
        self.centroids = self.add_weight(shape=(4,), name="centroids")
        self.centroids.assign([-0.6, -0.2, 0.2, 0.6])
        # every centroid has members
        self.weight.assign(np.linspace(-0.7, 0.7, 18).reshape(6, 3))

    def call(self, inputs: Any) -> Any:
        weight = tf.convert_to_tensor(self.weight)
        algorithm = ClusteringAlgorithm(tf.convert_to_tensor(self.centroids))
        indices = algorithm.get_pulling_indices(weight)
        return tf.matmul(inputs, algorithm.get_clustered_weight(indices, weight))


@pytest.mark.filterwarnings("ignore:.*underlying_.*:DeprecationWarning")
@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("shape", [(6,), (5, 6)])
def test_a_layer_of_the_users_trains_in_every_precision(
    policy: str, shape: tuple[int, ...]
) -> None:
    """The last batch is a smaller one, so that steps are traced for any number of examples."""
    model = keras.Sequential([keras.Input(shape), OwnLayer(dtype=policy)])
    model.compile("sgd", "mse")
    before = model.layers[0].centroids.numpy()
    x = np.random.default_rng(0).normal(size=(20, *shape)).astype(np.float32)
    model.fit(x, np.ones((*x.shape[:-1], 3), np.float32), batch_size=8, verbose=0)
    after = model.layers[0].centroids.numpy()
    assert np.isfinite(after).all()
    assert (after != before).all()
