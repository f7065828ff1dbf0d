"""Clustering-aware training as an optimizer around any Keras optimizer; the model stays plain Keras.

The gradient of a clustered weight is the gradient of the layer's own kernel variable. So the optimizer holds the
original weight W and the centroids c, splits each kernel gradient into the pair (dW, dc), lets the inner optimizer
move both, refreshes the indices and writes c[indices] into the kernel: layers need no wrappers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from ..errors import ModelError
from .aggregation import GradientAggregation
from .algorithm import ClusteringAlgorithm
from .backend import require_tensorflow_backend
from .centroids import Initialization, initialize
from .plan import ClusterPlan


@dataclass(frozen=True)
class _Place:
    """A clustered variable by its place among the model's trainable variables: survives saving."""

    position: int
    clusters: int
    initialization: Initialization
    signed: bool = False
    pin_zero: bool = False


@dataclass(frozen=True, eq=False)
class ClusteredVariable:
    """One kernel with what training holds for it: original weight, centroids and indices.

    signs: ±1 in the kernel's shape, or None. original, centroids and indices are of signs · kernel.
    free: 0 for the centroid that stays 0, 1 for the others; None if all move.
    """

    kernel: Any
    original: Any
    centroids: Any
    indices: Any
    signs: Any
    free: Any
    algorithm: ClusteringAlgorithm

    def split(self, gradient: Any) -> tuple[Any, Any]:
        """(gradient of the original weight, gradient of the centroids) from the kernel's."""
        # a step traced for any batch size may give a gradient whose shape is not known
        original, centroids = self.algorithm.split_gradient(
            self.flip(tf.reshape(gradient, self.indices.shape)), self.indices.value
        )
        return original, centroids if self.free is None else centroids * self.free.value

    def refresh(self) -> None:
        """Indices of the nearest centroids from W and c as they are now, and c[indices] into the kernel."""
        indices, values = self.algorithm.get_indices_and_values(
            self.original.value, self.centroids.value
        )
        self.indices.assign(tf.cast(indices, tf.uint8))
        self.kernel.assign(self.flip(values))

    def write_kernel(self) -> None:
        """c[indices] into the kernel, the indices left as they are."""
        values = tf.gather(self.centroids.value, tf.cast(self.indices.value, tf.int32))
        self.kernel.assign(self.flip(values))

    def flip(self, values: Any) -> Any:
        """Multiply by the signs, which undoes itself."""
        return values if self.signs is None else values * tf.cast(self.signs.value, values.dtype)


class _Clustered:
    """Holds the variables out of Keras' attribute tracking, which would rewrap the lists."""

    def __init__(self, variables: Sequence[ClusteredVariable]) -> None:
        self.variables = tuple(variables)
        self.by_kernel = {id(variable.kernel): variable for variable in self.variables}


@keras.saving.register_keras_serializable("edgepalette")
class ClusteringOptimizer(keras.optimizers.Optimizer):
    """Wraps `inner_optimizer` so that the planned weights keep sharing K values while they train.

    Clipping acts on the kernel's gradient, before it is split: summed centroid gradients would dominate a norm.
    Weight decay and the kernel's constraint act on W, never on c. Moving averages are the inner optimizer's, and are
    followed by a refresh. A kernel whose plan has signs is clustered as signs · kernel. Build it before `fit`
    (`cluster_weights` does): a traced step cannot read a kernel.

    plan: a ClusterPlan of the model, or the places a saved optimizer's configuration names.
    refresh: False freezes the first indices (training as before tfmot's pull request 519), for comparisons.
    Raises ModelError for another backend, or an inner optimizer that both clips and accumulates gradients.
    """

    def __init__(
        self,
        inner_optimizer: Any,
        plan: ClusterPlan | Sequence[_Place],
        refresh: bool = True,
        aggregation: GradientAggregation | None = None,
        name: str | None = None,
    ) -> None:
        require_tensorflow_backend()
        inner_optimizer = keras.optimizers.get(inner_optimizer)
        if isinstance(inner_optimizer, keras.optimizers.LossScaleOptimizer):
            raise ModelError(
                "the loss scale must stand outside the clustering, got ClusteringOptimizer(LossScaleOptimizer(…)); "
                "write LossScaleOptimizer(ClusteringOptimizer(…))"
            )
        clips = {
            "clipnorm": inner_optimizer.clipnorm,
            "clipvalue": inner_optimizer.clipvalue,
            "global_clipnorm": inner_optimizer.global_clipnorm,
        }
        if inner_optimizer.gradient_accumulation_steps and any(clips.values()):
            raise ModelError(
                "clustering takes an optimizer that clips or accumulates gradients, got one that does both; "
                "drop gradient_accumulation_steps or the clipping"
            )
        super().__init__(
            learning_rate=0.0,
            loss_scale_factor=inner_optimizer.loss_scale_factor,
            name=name,
            **clips,
        )
        # what this optimizer does before the split, the inner one must not do again
        for option in (*clips, "loss_scale_factor"):
            setattr(inner_optimizer, option, None)
        self.inner_optimizer = inner_optimizer
        self.refresh = refresh
        self._plan = plan
        if aggregation is None:
            aggregation = (
                plan.aggregation if isinstance(plan, ClusterPlan) else GradientAggregation.SUM
            )
        self.aggregation = aggregation
        self._places: tuple[_Place, ...] = ()
        self._clustered = _Clustered(())

    def build(self, var_list: Sequence[Any]) -> None:
        """Make the state of every planned variable in `var_list`, all the model's trainable variables."""
        if not tf.executing_eagerly():
            raise ModelError(
                "ClusteringOptimizer must be built before the traced training step; "
                "call optimizer.build(model.trainable_variables) or cluster_weights(model, plan) first"
            )
        self._places = _places(self._plan, var_list)
        self._clustered = _Clustered(
            [self._add(place, var_list[place.position]) for place in self._places]
        )
        exempt = [v for v in var_list if not self.inner_optimizer._use_weight_decay(v)]
        replaced = self._replace(exempt)
        self.inner_optimizer.exclude_from_weight_decay(
            var_list=[*replaced, *(v.centroids for v in self._clustered.variables)]
        )
        self.inner_optimizer.build(self._inner_variables(var_list))
        super().build(list(var_list))
        for variable in self._clustered.variables:
            variable.refresh()

    def apply(self, grads: Sequence[Any], trainable_variables: Sequence[Any] | None = None) -> None:
        """One step: split the kernel gradients, update W and c, refresh the indices, write the kernels."""
        if not self.built:
            self.build(list(trainable_variables or ()))
        variables = list(
            self._trainable_variables if trainable_variables is None else trainable_variables
        )
        self._check_variables_are_known(variables)
        grads, variables = self._filter_empty_gradients(grads, variables)
        if self.loss_scale_factor is not None:
            grads = [gradient / self.loss_scale_factor for gradient in grads]
        grads = self._clip_gradients(grads)
        own_grads, own_variables = [], []
        centroid_grads, centroids = [], []
        for gradient, variable in zip(grads, variables, strict=True):
            clustered = self._clustered.by_kernel.get(id(variable))
            if clustered is not None:
                gradient, centroid = clustered.split(gradient)
                centroid_grads.append(centroid)
                centroids.append(clustered.centroids)
                variable = clustered.original
            own_grads.append(gradient)
            own_variables.append(variable)
        self.inner_optimizer.apply([*own_grads, *centroid_grads], [*own_variables, *centroids])
        self._write_kernels()

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Moving averages into W and c, then the kernels follow."""
        self.inner_optimizer.finalize_variable_values(self._inner_variables(var_list))
        self._write_kernels()

    @property
    def variables(self) -> list[Any]:
        """Own variables and the inner optimizer's."""
        return list(self._variables) + list(self.inner_optimizer.variables)

    @property
    def clustered_variables(self) -> tuple[ClusteredVariable, ...]:
        """State of every clustered kernel, in the order of the model's trainable variables."""
        return self._clustered.variables

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate or schedule value."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> Any:
        """Steps the inner optimizer has made."""
        return self.inner_optimizer.iterations

    def get_config(self) -> dict[str, Any]:
        """Serializable once built: planned weights are named by their places among the trainable variables."""
        if not self.built:
            raise ModelError(
                "ClusteringOptimizer can be saved once it is built; call cluster_weights(model, plan) first"
            )
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(self.plain_optimizer()),
            "plan": [
                [p.position, p.clusters, p.initialization.value, p.signed, p.pin_zero]
                for p in self._places
            ],
            "refresh": self.refresh,
            "aggregation": self.aggregation.value,
        }

    @classmethod
    def from_config(
        cls, config: dict[str, Any], custom_objects: dict[str, Any] | None = None
    ) -> ClusteringOptimizer:
        """The optimizer `get_config` described; `build` finds its variables by place."""
        return cls(
            keras.saving.deserialize_keras_object(
                config["inner_optimizer"], custom_objects=custom_objects
            ),
            [
                _Place(int(position), int(clusters), Initialization(how), signed, pin_zero)
                for position, clusters, how, signed, pin_zero in config["plan"]
            ],
            refresh=config["refresh"],
            aggregation=GradientAggregation(config["aggregation"]),
            name=config["name"],
        )

    def plain_optimizer(self) -> Any:
        """The inner optimizer's settings as the user gave them, in a new, unbuilt optimizer."""
        config = self.inner_optimizer.get_config()
        for option in ("clipnorm", "clipvalue", "global_clipnorm", "loss_scale_factor"):
            config[option] = getattr(self, option)
        return type(self.inner_optimizer).from_config(config)

    def _add(self, place: _Place, kernel: Any) -> ClusteredVariable:
        name, signs = kernel.name, None
        values = kernel.numpy()
        if place.signed:
            # from the plan now, from the file when a saved optimizer is loaded
            signs = self.add_variable(kernel.shape, "ones", dtype="int8", name=f"{name}_signs")
            if isinstance(self._plan, ClusterPlan):
                signs.assign(self._plan.signs_of(kernel))
            values = values * signs.numpy()
        start = initialize(values, place.clusters, place.initialization, place.pin_zero)
        original = self.add_variable(kernel.shape, dtype=kernel.dtype, name=name)
        original.assign(values)
        original.constraint = _of_signed(kernel.constraint, signs)
        centroids = self.add_variable(
            (place.clusters,), dtype=kernel.dtype, name=f"{name}_centroids"
        )
        centroids.assign(start)
        indices = self.add_variable(kernel.shape, dtype="uint8", name=f"{name}_indices")
        free = None
        if place.pin_zero:
            free = self.add_variable((place.clusters,), dtype=kernel.dtype, name=f"{name}_free")
            free.assign((start != 0).astype(start.dtype))
        algorithm = ClusteringAlgorithm(centroids.value, self.aggregation)
        return ClusteredVariable(kernel, original, centroids, indices, signs, free, algorithm)

    def _replace(self, variables: Sequence[Any]) -> list[Any]:
        """The variables with each clustered kernel's original weight in its place."""
        by_kernel = self._clustered.by_kernel
        return [by_kernel[id(v)].original if id(v) in by_kernel else v for v in variables]

    def _inner_variables(self, var_list: Sequence[Any]) -> list[Any]:
        """What the inner optimizer updates: originals in place of the kernels, and the centroids."""
        return [*self._replace(var_list), *(v.centroids for v in self._clustered.variables)]

    def _write_kernels(self) -> None:
        for variable in self._clustered.variables:
            if self.refresh:
                variable.refresh()
            else:
                variable.write_kernel()


def _places(plan: ClusterPlan | Sequence[_Place], var_list: Sequence[Any]) -> tuple[_Place, ...]:
    """The planned weights by position; those not trained (a frozen layer's) have none."""
    if not isinstance(plan, ClusterPlan):
        return tuple(plan)
    positions = {id(variable): position for position, variable in enumerate(var_list)}
    return tuple(
        _Place(
            positions[id(planned.weight.variable)],
            planned.clusters,
            planned.initialization,
            planned.signs is not None,
            planned.pin_zero,
        )
        for planned in plan.clustered
        if id(planned.weight.variable) in positions
    )


def _of_signed(constraint: Any, signs: Any) -> Any:
    """The kernel's constraint as one on signs · kernel."""
    if constraint is None or signs is None:
        return constraint

    def constrained(values: Any) -> Any:
        along = tf.cast(signs.value, values.dtype)
        return along * constraint(along * values)

    return constrained
