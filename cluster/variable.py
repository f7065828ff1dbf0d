"""One kernel with what clustering-aware training holds for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from .algorithm import ClusteringAlgorithm

# the largest magnitude of a symmetric int8 weight
INT8_MAX = 127.0


@dataclass(frozen=True, eq=False)
class ClusteredVariable:
    """One kernel with its original weight, centroids and indices, as Keras variables.

    signs: ±1 in the kernel's shape, or None. original, centroids and indices are of signs · kernel.
    free: 0 for centroids that stay 0, 1 for the others; None if all move.
    mask: 0 for weights that stay 0, 1 for the others; None if all move.
    int8: whether the kernel takes the centroids' values rounded to the grid of int8, as the file will hold them.
    rate: the part of the inner optimizer's step a centroid takes.
    """

    kernel: Any
    original: Any
    centroids: Any
    indices: Any
    signs: Any
    free: Any
    mask: Any
    int8: bool
    rate: float
    algorithm: ClusteringAlgorithm

    def split(self, gradient: Any, pull: Any = None) -> tuple[Any, Any]:
        """(gradient of the original weight, gradient of the centroids) from the kernel's.

        pull: how strongly the original weight is drawn to its shared value, beside its gradient.
        """
        # an embedding's gradient is sparse, and a step traced for any batch size may not know its shape
        gradient = tf.reshape(tf.convert_to_tensor(gradient), self.indices.shape)
        original, centroids = self.algorithm.split_gradient(
            _flip(gradient, self.signs), self.indices.value
        )
        if pull is not None:
            kernel = _flip(tf.convert_to_tensor(self.kernel.value), self.signs)
            original = original + tf.cast(pull, original.dtype) * (self.original.value - kernel)
        if self.mask is not None:
            original = original * tf.cast(self.mask.value, original.dtype)
        return original, centroids if self.free is None else centroids * self.free.value

    def shared_values(self, nearest: bool) -> Any:
        """The kernel's values by the centroids as they are: of the nearest ones, or of those the indices name."""
        table = _table(tf.convert_to_tensor(self.centroids.value), self.int8)
        if nearest:
            _, values = self.algorithm.get_indices_and_values(self.original.value, table)
        else:
            values = self.algorithm.look_up(table, self.indices.value)
        return _flip(values, self.signs)

    @property
    def state(self) -> tuple[Any, ...]:
        """The variables `write_into` takes, as TensorFlow's."""
        parts = (self.kernel, self.indices, self.original, self.centroids, self.signs)
        return tuple(None if part is None else part.value for part in parts)

    def write(self, refresh: Any) -> None:
        """Indices of the nearest centroids if `refresh` (a bool or a tensor), and their values into the kernel."""
        kernel, indices, original, centroids, signs = self.state
        self.write_into(kernel, indices, original, centroids, signs, refresh)

    def write_into(
        self,
        kernel: Any,
        indices: Any,
        original: Any,
        centroids: Any,
        signs: Any,
        refresh: Any,
        before: Any = None,
    ) -> None:
        """`write` on variables that may be one replica's.

        before: the centroids before a step, of which only the part `rate` is taken.
        """
        if before is not None:
            centroids.assign(before + self.rate * (centroids - before))
        table = _table(tf.convert_to_tensor(centroids), self.int8)

        def renew() -> Any:
            nearest, values = self.algorithm.get_indices_and_values(original, table)
            indices.assign(tf.cast(nearest, indices.dtype))
            return values

        def keep() -> Any:
            return self.algorithm.look_up(table, indices)

        if isinstance(refresh, bool):
            values = renew() if refresh else keep()
        else:
            values = tf.cond(refresh, renew, keep)
        kernel.assign(values if signs is None else values * tf.cast(signs, values.dtype))


def _flip(values: Any, signs: Any) -> Any:
    return values if signs is None else values * tf.cast(signs.value, values.dtype)


def _table(centroids: Any, int8: bool) -> Any:
    """The centroids, or what is left of them on the grid of max |c| / 127."""
    if not int8:
        return centroids
    step = tf.reduce_max(tf.abs(centroids), axis=-1, keepdims=True) / INT8_MAX
    return tf.round(tf.math.divide_no_nan(centroids, step)) * step
