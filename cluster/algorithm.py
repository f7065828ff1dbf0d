"""The mathematics of clustering-aware training, usable alone in any layer or loop.

Forward: w = c[argmin|W - c|]. Backward: the gradient of w reaches the original weight W unchanged
(straight-through) and each centroid as the sum or the mean over its members.
Source: the weight clustering of TensorFlow Model Optimization (tfmot), pull request 519.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import tensorflow as tf

from .aggregation import GradientAggregation
from .channels import Channels
from .nearest import nearest_bytes
from .palette import MAX_CLUSTERS
from .side_by_side import is_large, side_by_side

# rows the gradient is folded into for DenseBincount: a fixed number keeps the sums bit-reproducible
BINCOUNT_ROWS = 64
# sums a bin of a large weight has, taken in turn: an addition need not wait for the one before, to the same bin
LANES = 8
# of the smallest type that is summed: float32
SUMMED_BYTES = 4


def centroid_gradient(
    gradient: Any, indices: Any, clusters: int, aggregation: GradientAggregation
) -> Any:
    """Sum (or mean) of `gradient` over the members of each cluster: shape (clusters,).

    gradient: any shape. indices: integers of the same shape. An empty cluster gets 0.
    Reproducible from run to run, O(N) time, and compiles under XLA.
    """
    flat = tf.reshape(gradient, (-1,))
    members = tf.reshape(indices, (-1,))
    padding = -int(flat.shape[0]) % BINCOUNT_ROWS
    # padding copies everything: spared where it can be
    weights, bins = (
        tf.reshape(tf.pad(part, [[0, padding]]) if padding else part, (BINCOUNT_ROWS, -1))
        for part in (flat, members)
    )
    total = tf.reduce_sum(_row_sums(weights, bins, clusters), axis=0)
    if aggregation is GradientAggregation.SUM:
        return total
    return tf.math.divide_no_nan(total, cluster_sizes(members, clusters, total.dtype))


def row_gradients(
    gradient: Any, indices: Any, clusters: int, aggregation: GradientAggregation
) -> Any:
    """`centroid_gradient` of every row: (rows, N) and (rows, N) to (rows, clusters)."""
    total = _row_sums(gradient, indices, clusters)
    if aggregation is GradientAggregation.SUM:
        return total
    return tf.math.divide_no_nan(total, cluster_sizes(indices, clusters, total.dtype))


def cluster_sizes(indices: Any, clusters: int, dtype: Any) -> Any:
    """Members of each cluster: (clusters,), or of each row's: (rows, clusters)."""
    members = tf.cast(indices, tf.int32)
    if len(members.shape) != 2:
        members = tf.reshape(members, (-1,))
    no_weights = tf.zeros((0,), tf.int32)
    return tf.cast(
        tf.raw_ops.DenseBincount(input=members, size=clusters, weights=no_weights), dtype
    )


def _row_sums(weights: Any, bins: Any, clusters: int) -> Any:
    """Sums of the weights in every bin of each row, (rows, clusters)."""
    if weights.dtype.size < SUMMED_BYTES:
        # no operator sums these, and sums of many members would have few digits
        return tf.cast(_row_sums(tf.cast(weights, tf.float32), bins, clusters), weights.dtype)
    if not is_large(weights):
        return tf.raw_ops.DenseBincount(
            input=tf.cast(bins, tf.int32), size=clusters, weights=weights
        )
    compiled = _compiled_sums(clusters, weights.dtype.name, bins.dtype.name)
    # XLA would copy weights of two dimensions
    return side_by_side(lambda rows, own: compiled(tf.reshape(rows, (-1,)), own), weights, bins)


@cache
def _compiled_sums(clusters: int, weights_type: str, bins_type: str) -> Any:
    """The same of flat weights by XLA: on one thread and in one order, so to the same bits, in less than half the time."""
    types = [tf.TensorSpec((None,), weights_type), tf.TensorSpec((None, None), bins_type)]

    @tf.function(jit_compile=True, input_signature=types)  # type: ignore[untyped-decorator] # TF has no stubs
    def sums(weights: Any, bins: Any) -> Any:
        rows, columns = tf.unstack(tf.shape(bins))
        lane = tf.range(rows)[:, None] * LANES + tf.range(columns) % LANES
        own = tf.reshape(lane * clusters + tf.cast(bins, tf.int32), (-1,))
        total = tf.math.unsorted_segment_sum(weights, own, rows * LANES * clusters)
        return tf.reduce_sum(tf.reshape(total, (rows, LANES, clusters)), axis=1)

    return sums.get_concrete_function()


class ClusteringAlgorithm:
    """Shared centroids of one weight, with their forward and backward rules.

    clusters_centroids: (K,) tensor or variable, K up to 256; or (channels, K), a row per output channel.
    cluster_gradient_aggregation: how members' gradients make a centroid's.
    data_format: for the per-channel form, where the weight's channels are: None or "channels_last" for the
        last axis, "channels_first" for the first.
    channels: for the per-channel form of a weight whose channels lie elsewhere; instead of `data_format`.
    """

    def __init__(
        self,
        clusters_centroids: Any,
        cluster_gradient_aggregation: GradientAggregation = GradientAggregation.SUM,
        data_format: str | None = None,
        channels: Channels | None = None,
    ) -> None:
        if data_format not in (None, "channels_last", "channels_first"):
            raise ValueError(
                f"data_format must be None, 'channels_last' or 'channels_first', got {data_format!r}"
            )
        if len(clusters_centroids.shape) not in (1, 2):
            raise ValueError(
                "clusters_centroids must have shape (K,) or (channels, K), "
                f"got {tuple(clusters_centroids.shape)}"
            )
        if not 1 <= int(clusters_centroids.shape[-1]) <= MAX_CLUSTERS:
            raise ValueError(
                f"clusters_centroids must be 1 to {MAX_CLUSTERS} values, got {clusters_centroids.shape[-1]}"
            )
        self.cluster_centroids = clusters_centroids
        self.cluster_gradient_aggregation = GradientAggregation(cluster_gradient_aggregation)
        self.data_format = data_format
        self.channels = channels

    @property
    def per_channel(self) -> bool:
        """Whether every channel has centroids of its own."""
        return len(self.cluster_centroids.shape) == 2

    def get_pulling_indices(self, weight: Any, centroids: Any = None) -> Any:
        """Index of each weight's nearest centroid: int32 in the weight's shape."""
        return tf.cast(self.get_indices_and_values(weight, centroids)[0], tf.int32)

    def get_indices_and_values(self, weight: Any, centroids: Any = None) -> tuple[Any, Any]:
        """(indices uint8, clustered weight): both forms of the forward pass from one search."""
        centroids = tf.convert_to_tensor(self.cluster_centroids if centroids is None else centroids)
        weight = tf.convert_to_tensor(weight)
        if not self.per_channel:
            return nearest_bytes(weight, centroids)
        channels = self._channels_of(weight.shape)
        indices, values = nearest_bytes(channels.rows(weight), centroids)
        return channels.unrows(indices), channels.unrows(values)

    def get_clustered_weight(self, pulling_indices: Any, original_weight: Any) -> Any:
        """`centroids[pulling_indices]`, differentiable in the centroids and in the original weight."""
        centroids = tf.convert_to_tensor(self.cluster_centroids)
        if self.cluster_gradient_aggregation is GradientAggregation.AVG:
            sizes = self.cluster_sizes(pulling_indices)
            centroids = self.average_centroids_gradient_by_cluster_size(centroids, sizes)
        clustered = self._gather(centroids, pulling_indices)
        return self.add_gradient_to_original_weight(clustered, original_weight)

    def cluster_sizes(self, pulling_indices: Any) -> Any:
        """Members of each cluster, in the centroids' shape and type."""
        clusters, dtype = int(self.cluster_centroids.shape[-1]), self.cluster_centroids.dtype
        if not self.per_channel:
            return cluster_sizes(tf.reshape(pulling_indices, (-1,)), clusters, dtype)
        rows = self._channels_of(pulling_indices.shape).rows(pulling_indices)
        return cluster_sizes(rows, clusters, dtype)

    def average_centroids_gradient_by_cluster_size(
        self, cluster_centroids: Any, cluster_sizes: Any
    ) -> Any:
        """The centroids themselves; their gradient is divided by the number of members, 0 if there is none."""

        @tf.custom_gradient  # type: ignore[untyped-decorator] # TF has no stubs
        def averaged(values: Any) -> Any:
            return tf.identity(values), lambda gradient: tf.math.divide_no_nan(
                gradient, cluster_sizes
            )

        return averaged(tf.convert_to_tensor(cluster_centroids))

    def add_gradient_to_original_weight(self, clustered_weight: Any, original_weight: Any) -> Any:
        """The clustered weight; its gradient goes to the original weight unchanged as well (straight-through)."""

        @tf.custom_gradient  # type: ignore[untyped-decorator] # TF has no stubs
        def straight_through(clustered: Any, original: Any) -> Any:
            return tf.identity(clustered), lambda gradient: (gradient, gradient)

        return straight_through(
            tf.convert_to_tensor(clustered_weight), tf.convert_to_tensor(original_weight)
        )

    def split_gradient(self, gradient: Any, pulling_indices: Any) -> tuple[Any, Any]:
        """(gradient of the original weight, gradient of the centroids) from the clustered weight's.

        The same arithmetic as the gradients of `get_clustered_weight`, for a caller that holds the kernel's gradient.
        """
        return gradient, self._centroid_gradient(
            gradient, pulling_indices, self.cluster_gradient_aggregation
        )

    def _gather(self, centroids: Any, indices: Any) -> Any:
        """Lookup whose gradient is the reproducible `centroid_gradient`, not a scatter."""
        shape = tf.convert_to_tensor(indices).shape

        @tf.custom_gradient  # type: ignore[untyped-decorator] # TF has no stubs
        def lookup(values: Any) -> Any:
            # a step traced for any batch size may not know the gradient's shape
            return self.look_up(values, indices), lambda gradient: self._centroid_gradient(
                tf.reshape(gradient, shape), indices, GradientAggregation.SUM
            )

        return lookup(centroids)

    def look_up(self, centroids: Any, indices: Any) -> Any:
        """`centroids[indices]`, without the gradient of `get_clustered_weight`."""
        indices = tf.cast(indices, tf.int32)
        if not self.per_channel:
            return tf.gather(centroids, indices)
        channels = self._channels_of(indices.shape)
        return channels.unrows(tf.gather(centroids, channels.rows(indices), batch_dims=1))

    def _centroid_gradient(
        self, gradient: Any, indices: Any, aggregation: GradientAggregation
    ) -> Any:
        clusters = int(self.cluster_centroids.shape[-1])
        if not self.per_channel:
            return centroid_gradient(gradient, indices, clusters, aggregation)
        channels = self._channels_of(indices.shape)
        return row_gradients(channels.rows(gradient), channels.rows(indices), clusters, aggregation)

    def _channels_of(self, shape: Any) -> Channels:
        if self.channels is not None:
            return self.channels
        axis = 0 if self.data_format == "channels_first" else -1
        return Channels.of(tuple(shape), (axis,))
