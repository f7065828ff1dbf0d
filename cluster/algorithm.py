"""The mathematics of clustering-aware training, usable alone in any layer or loop.

Forward: w = c[argmin|W - c|]. Backward: the gradient of w reaches the original weight W unchanged
(straight-through) and each centroid as the sum or the mean over its members.
Source: the weight clustering of TensorFlow Model Optimization (tfmot), pull request 519.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from .aggregation import GradientAggregation
from .nearest import nearest

# rows the gradient is folded into for DenseBincount: a fixed number keeps the sums bit-reproducible
BINCOUNT_ROWS = 64


def centroid_gradient(
    gradient: Any, indices: Any, clusters: int, aggregation: GradientAggregation
) -> Any:
    """Sum (or mean) of `gradient` over the members of each cluster: shape (clusters,).

    gradient: any shape. indices: integers of the same shape. An empty cluster gets 0.
    Reproducible from run to run, O(N) time, and compiles under XLA.
    """
    flat = tf.reshape(gradient, (-1,))
    members = tf.reshape(tf.cast(indices, tf.int32), (-1,))
    padding = -int(flat.shape[0]) % BINCOUNT_ROWS
    weights = tf.reshape(tf.pad(flat, [[0, padding]]), (BINCOUNT_ROWS, -1))
    bins = tf.reshape(tf.pad(members, [[0, padding]]), (BINCOUNT_ROWS, -1))
    sums = tf.raw_ops.DenseBincount(input=bins, size=clusters, weights=weights)
    total = tf.reduce_sum(sums, axis=0)
    if aggregation is GradientAggregation.SUM:
        return total
    return tf.math.divide_no_nan(total, _sizes(members, clusters, total.dtype))


def _sizes(indices: Any, clusters: int, dtype: Any) -> Any:
    members = tf.reshape(tf.cast(indices, tf.int32), (-1,))
    no_weights = tf.zeros((0,), tf.int32)
    return tf.cast(
        tf.raw_ops.DenseBincount(input=members, size=clusters, weights=no_weights), dtype
    )


class ClusteringAlgorithm:
    """Shared centroids of one weight, with their forward and backward rules.

    clusters_centroids: (K,) tensor or variable; or (channels, K), a row per output channel.
    cluster_gradient_aggregation: how members' gradients make a centroid's.
    data_format: for the per-channel form, where the weight's channels are: None or "channels_last" for the
        last axis, "channels_first" for the first.
    """

    def __init__(
        self,
        clusters_centroids: Any,
        cluster_gradient_aggregation: GradientAggregation = GradientAggregation.SUM,
        data_format: str | None = None,
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
        self.cluster_centroids = clusters_centroids
        self.cluster_gradient_aggregation = GradientAggregation(cluster_gradient_aggregation)
        self.data_format = data_format

    @property
    def per_channel(self) -> bool:
        """Whether every channel has centroids of its own."""
        return len(self.cluster_centroids.shape) == 2

    def get_pulling_indices(self, weight: Any, centroids: Any = None) -> Any:
        """Index of each weight's nearest centroid: int32 in the weight's shape."""
        return self.get_indices_and_values(weight, centroids)[0]

    def get_indices_and_values(self, weight: Any, centroids: Any = None) -> tuple[Any, Any]:
        """(indices int32, clustered weight): both forms of the forward pass from one search."""
        centroids = tf.convert_to_tensor(self.cluster_centroids if centroids is None else centroids)
        weight = tf.convert_to_tensor(weight)
        if not self.per_channel:
            return nearest(weight, centroids)
        rows = self._rows(weight)
        pairs = [nearest(rows[row], centroids[row]) for row in range(centroids.shape[0])]
        indices, values = (tf.stack(part) for part in zip(*pairs, strict=True))
        return self._unrows(indices, weight.shape), self._unrows(values, weight.shape)

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
        return self._per_row(lambda row: _sizes(row, clusters, dtype), pulling_indices)

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

        @tf.custom_gradient  # type: ignore[untyped-decorator] # TF has no stubs
        def lookup(values: Any) -> Any:
            if self.per_channel:
                picked = tf.gather(values, self._rows(indices), batch_dims=1)
                clustered = self._unrows(picked, indices.shape)
            else:
                clustered = tf.gather(values, indices)

            return clustered, lambda gradient: self._centroid_gradient(
                gradient, indices, GradientAggregation.SUM
            )

        return lookup(centroids)

    def _centroid_gradient(
        self, gradient: Any, indices: Any, aggregation: GradientAggregation
    ) -> Any:
        clusters = int(self.cluster_centroids.shape[-1])
        return self._per_row(
            lambda part, members: centroid_gradient(part, members, clusters, aggregation),
            gradient,
            indices,
        )

    def _per_row(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """`function` of the whole arrays, or of each channel's rows, stacked."""
        if not self.per_channel:
            return function(*arrays)
        rows = [self._rows(array) for array in arrays]
        return tf.stack(
            [function(*(part[row] for part in rows)) for row in range(rows[0].shape[0])]
        )

    def _rows(self, array: Any) -> Any:
        """(channels, elements per channel)."""
        if self.data_format != "channels_first":
            rank = len(array.shape)
            array = tf.transpose(array, [rank - 1, *range(rank - 1)])
        return tf.reshape(array, (array.shape[0], -1))

    def _unrows(self, rows: Any, shape: Any) -> Any:
        shape = list(shape)
        if self.data_format == "channels_first":
            return tf.reshape(rows, shape)
        array = tf.reshape(rows, [shape[-1], *shape[:-1]])
        return tf.transpose(array, [*range(1, len(shape)), 0])
