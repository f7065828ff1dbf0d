"""Clustering-aware training as an optimizer around any Keras optimizer; the model stays plain Keras.

The gradient of a clustered weight is the gradient of the layer's own kernel variable. So the optimizer holds the
original weight W and the centroids c, splits each kernel gradient into the pair (dW, dc), lets the inner optimizer
move both, refreshes the indices and writes c[indices] into the kernel: layers need no wrappers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import tensorflow as tf

from ..errors import ModelError
from .aggregation import GradientAggregation
from .algorithm import ClusteringAlgorithm
from .backend import require_tensorflow_backend
from .centroids import Initialization
from .channels import Channels
from .plan import ClusterPlan, PlannedWeight
from .variable import ClusteredVariable
from .weights import LayerWeight

# what this optimizer does before the split, the inner one must not do again
TAKEN_OVER = (
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)

# why a saved state does not fit its model, and what to do
FROZEN_SINCE = (
    "were layers frozen or thawed after clustering? Load with compile=False, compile, and call "
    "cluster_weights(model, plan) again"
)


@dataclass(frozen=True)
class _Place:
    """A clustered variable by its place among the model's trainable variables: survives saving."""

    position: int
    clusters: int
    initialization: str
    # unknown in what earlier versions saved
    shape: tuple[int, ...] | None = None
    axes: tuple[int, ...] | None = None
    signed: bool = False
    pin_zero: bool = False
    sparse: bool = False
    int8: bool = False

    @classmethod
    def of(cls, position: int, planned: PlannedWeight) -> _Place:
        return cls(
            position,
            planned.clusters,
            planned.initialization.value,
            tuple(planned.weight.shape),
            None if planned.channels is None else planned.channels.axes,
            planned.signs is not None,
            planned.pin_zero,
            planned.sparse,
            planned.int8,
        )

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> _Place:
        lists = {name: config.get(name) for name in ("shape", "axes")}
        return cls(**{**config, **{n: None if v is None else tuple(v) for n, v in lists.items()}})


class _Clustered:
    """Holds the variables out of Keras' attribute tracking, which would rewrap the lists."""

    def __init__(self, variables: Sequence[ClusteredVariable]) -> None:
        self.variables = tuple(variables)
        self.by_kernel = {id(variable.kernel): variable for variable in self.variables}
        # the kernels' values while moving averages are in the model
        self.trained: list[Any] = []


@keras.saving.register_keras_serializable("edgepalette")
class ClusteringOptimizer(keras.optimizers.Optimizer):
    """Wraps `inner_optimizer` so that the planned weights keep sharing K values while they train.

    Clipping acts on the kernel's gradient, before it is split: summed centroid gradients would dominate a norm.
    Weight decay and the kernel's constraint act on W, never on c. Moving averages are the inner optimizer's, and are
    followed by a refresh. A kernel whose plan has signs is clustered as signs · kernel. Build it before `fit`
    (`cluster_weights` does): a traced step cannot read a kernel.

    plan: a ClusterPlan of the model, or the places a saved optimizer's configuration names.
    refresh: False freezes the first indices (training as before tfmot's pull request 519), for comparisons.
    refresh_every: steps from one refresh of the indices to the next; between them only the centroids' values move.
        The end of every `fit` refreshes as well.
    centroid_rate: the part of the inner optimizer's step each centroid takes. Under Adam a centroid moves as far as a
        single weight, and all its members with it: a smaller part keeps layers and BatchNorm statistics calm.
    damping: what pulls each original weight to its centroid, λ·(W - c[index]) beside its gradient; a number or a Keras
        schedule over steps. Without it weights swing about the borders, the more the longer training lasts (Nagel et
        al. 2022, Overcoming Oscillations in Quantization-Aware Training).
    Raises ModelError for another backend, a loss scale inside, moving averages together with accumulation or with a
    centroid_rate below 1 (averages would hold steps the centroids did not take), and numbers out of range.
    """

    def __init__(
        self,
        inner_optimizer: Any,
        plan: ClusterPlan | Sequence[_Place],
        refresh: bool = True,
        aggregation: GradientAggregation | None = None,
        refresh_every: int = 1,
        centroid_rate: float = 1.0,
        damping: Any = 0.0,
        name: str | None = None,
    ) -> None:
        require_tensorflow_backend()
        inner_optimizer = keras.optimizers.get(inner_optimizer)
        if isinstance(inner_optimizer, keras.optimizers.LossScaleOptimizer):
            raise ModelError(
                "the loss scale must stand outside the clustering, got ClusteringOptimizer(LossScaleOptimizer(…)); "
                "write LossScaleOptimizer(ClusteringOptimizer(…))"
            )
        if inner_optimizer.use_ema and inner_optimizer.gradient_accumulation_steps:
            raise ModelError(
                "clustering takes an optimizer that keeps moving averages or accumulates gradients, got one that does "
                "both; drop use_ema or gradient_accumulation_steps"
            )
        if inner_optimizer.use_ema and centroid_rate != 1:
            raise ModelError(
                "an optimizer that keeps moving averages takes centroids by whole steps, "
                f"got use_ema with centroid_rate {centroid_rate}; drop one of them"
            )
        if refresh_every != int(refresh_every) or refresh_every < 1:
            raise ModelError(
                f"refresh_every must be a number of steps, 1 or more, got {refresh_every}"
            )
        if not centroid_rate >= 0:
            raise ModelError(f"centroid_rate must not be negative, got {centroid_rate}")
        if (
            not isinstance(damping, keras.optimizers.schedules.LearningRateSchedule)
            and not damping >= 0
        ):
            raise ModelError(f"damping must not be negative, got {damping}")
        taken = {option: getattr(inner_optimizer, option) for option in TAKEN_OVER}
        super().__init__(learning_rate=0.0, name=name, **taken)
        for option in taken:
            setattr(inner_optimizer, option, None)
        # by Keras' usual name its callbacks would take this optimizer for a loss scale
        self.wrapped = inner_optimizer
        self.refresh = refresh
        self.refresh_every = refresh_every
        self.centroid_rate = centroid_rate
        self.damping = damping
        self._plan = plan
        if aggregation is None:
            aggregation = (
                plan.aggregation if isinstance(plan, ClusterPlan) else GradientAggregation.SUM
            )
        self.aggregation = aggregation
        self._places: tuple[_Place, ...] = ()
        self._exempt: list[Any] = []
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
        self._exempt = [v for v in var_list if not self.wrapped._use_weight_decay(v)]
        replaced = self._replace(self._exempt)
        self.wrapped.exclude_from_weight_decay(
            var_list=[*replaced, *(v.centroids for v in self._clustered.variables)]
        )
        self.wrapped.build(self._inner_variables(var_list))
        # built without it, so that it holds no gradients; Keras counts steps and schedules by it
        self.wrapped.gradient_accumulation_steps = self.gradient_accumulation_steps
        super().build(list(var_list))
        for variable in self._clustered.variables:
            variable.write(True)

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
        # Keras' own clipping and accumulation, which end in `_backend_update_step`
        self._backend_apply_gradients(grads, variables)
        self._iterations.assign_add(1)

    def _backend_update_step(
        self, grads: Sequence[Any], trainable_variables: Sequence[Any], learning_rate: Any
    ) -> None:
        """What Keras calls with the gradients that count: split, let the inner optimizer move, write the kernels."""
        own_grads, own_variables = [], []
        centroid_grads, centroids = [], []
        pull = self._pull()
        for gradient, variable in zip(grads, trainable_variables, strict=True):
            clustered = self._clustered.by_kernel.get(id(variable))
            if clustered is not None:
                gradient, centroid = clustered.split(gradient, pull)
                centroid_grads.append(centroid)
                centroids.append(clustered.centroids)
                variable = clustered.original
            own_grads.append(gradient)
            own_variables.append(variable)
        before = None
        if self.centroid_rate != 1:
            before = [tf.identity(held.centroids.value) for held in self._clustered.variables]
        self._move([*own_grads, *centroid_grads], [*own_variables, *centroids])
        self._write_kernels(self._due(), before)

    def _pull(self) -> Any:
        """The damping of this step on this replica, whose gradients are summed with the others'; None if there is none."""
        if isinstance(self.damping, keras.optimizers.schedules.LearningRateSchedule):
            now = self.damping(self.iterations)
        elif self.damping:
            now = self.damping
        else:
            return None
        return now / tf.distribute.get_strategy().num_replicas_in_sync

    def _move(self, grads: Sequence[Any], variables: Sequence[Any]) -> None:
        """A step of the inner optimizer, which leaves accumulating to this one but counts as if it did it itself."""
        inner = self.wrapped
        if not self.gradient_accumulation_steps:
            inner.apply(grads, variables)
            return
        inner._iterations.assign(self._iterations)
        inner._apply_weight_decay(variables)
        inner._backend_update_step(grads, variables, inner.learning_rate)
        for variable in variables:
            if variable.constraint is not None:
                variable.assign(variable.constraint(variable))

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Moving averages into W and c, then the kernels follow."""
        self.wrapped.finalize_variable_values(self._inner_variables(var_list))
        self._write_kernels(self.refresh)

    def swap_averages(self, averaged: bool) -> None:
        """Exchange all that trains with its moving averages, exactly, and give the kernels the values of what comes in.

        The indices training goes on from stay as they are.
        averaged: whether it is the averages that come in; False takes them out again.
        Raises ModelError for an optimizer that keeps none.
        """
        if not self.wrapped.use_ema:
            raise ModelError(
                f"swapping weights needs an optimizer that keeps their moving averages, got "
                f"{type(self.wrapped).__name__} without; compile with use_ema=True"
            )
        self._to_averages(_exchange)
        clustered = self._clustered
        if averaged:
            # kept, for a traced step may round the grid of int8 otherwise than this does
            clustered.trained = [tf.identity(v.kernel.value) for v in clustered.variables]
            values = [v.shared_values(self.refresh) for v in clustered.variables]
        else:
            values, clustered.trained = clustered.trained, []
        for variable, value in zip(clustered.variables, values, strict=True):
            variable.kernel.assign(value)

    def keep_averages(self) -> None:
        """What the weights hold now becomes their moving averages: after `swap_averages`, those that came out are gone."""
        self._to_averages(lambda variable, average: average.assign(variable))
        # a callback used for another `fit` brings back what came out
        self._clustered.trained = [tf.identity(v.kernel.value) for v in self._clustered.variables]

    @property
    def _model_variables_moving_average(self) -> Any:
        """What Keras' SwapEMAWeights looks for; it would swap W and c and leave the kernels as they are."""
        raise ModelError(
            "keras.callbacks.SwapEMAWeights does not know weights that share values; "
            "use edgepalette.SwapEMAWeights in its place"
        )

    @property
    def variables(self) -> list[Any]:
        """Own variables and the inner optimizer's."""
        return list(self._variables) + list(self.wrapped.variables)

    @property
    def clustered_variables(self) -> tuple[ClusteredVariable, ...]:
        """State of every clustered kernel, in the order of the model's trainable variables."""
        return self._clustered.variables

    @property
    def learning_rate(self) -> Any:
        """The inner optimizer's learning rate or schedule value."""
        return self.wrapped.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.wrapped.learning_rate = learning_rate

    def get_config(self) -> dict[str, Any]:
        """Serializable once built: planned weights are named by their places among the trainable variables."""
        if not self.built:
            raise ModelError(
                "ClusteringOptimizer can be saved once it is built; call cluster_weights(model, plan) first"
            )
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(self.plain_optimizer()),
            "plan": [asdict(place) for place in self._places],
            "refresh": self.refresh,
            "refresh_every": self.refresh_every,
            "centroid_rate": self.centroid_rate,
            "damping": keras.saving.serialize_keras_object(self.damping),
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
            [_Place.from_config(place) for place in config["plan"]],
            refresh=config["refresh"],
            refresh_every=config["refresh_every"],
            centroid_rate=config["centroid_rate"],
            damping=keras.saving.deserialize_keras_object(config["damping"]),
            aggregation=GradientAggregation(config["aggregation"]),
            name=config["name"],
        )

    def plain_optimizer(self) -> Any:
        """The inner optimizer's settings as the user gave them, in a new, unbuilt optimizer."""
        config = self.wrapped.get_config()
        for option in TAKEN_OVER:
            config[option] = getattr(self, option)
        plain = type(self.wrapped).from_config(config)
        plain.exclude_from_weight_decay(var_list=self._exempt)
        return plain

    def load_own_variables(self, store: Any) -> None:
        """Keras', which would warn and go on from the weights a model starts with if the state does not fit."""
        if len(store.keys()) != len(self.variables):
            raise ModelError(
                f"a clustered model's training state must fit its trainable weights, got {len(store.keys())} saved "
                f"variables for {len(self.variables)}; {FROZEN_SINCE}"
            )
        super().load_own_variables(store)

    def _to_averages(self, change: Callable[[Any, Any], object]) -> None:
        """`change(variable, average)` of all that the inner optimizer updates, on every replica."""
        inner = self.wrapped
        for variable, average in zip(
            inner._trainable_variables, inner._model_variables_moving_average, strict=True
        ):
            self._distribution_strategy.extended.update(
                variable.value, change, args=(average.value,), group=False
            )

    def _add(self, place: _Place, kernel: Any) -> ClusteredVariable:
        """The state of one kernel: new values from the plan, or space for those of a saved optimizer."""
        planned = self._planned(place, kernel)
        start, values = planned.start(), planned.values()
        table = start.shape
        signed, unsigned = _small_integers()

        def add(shape: Any, name: str, value: Any, dtype: Any = kernel.dtype) -> Any:
            def first(shape: Any, dtype: Any) -> Any:
                return keras.ops.broadcast_to(keras.ops.convert_to_tensor(value, dtype), shape)

            # by initializer: no zeros in the way, which the allocator would keep
            return self.add_variable(shape, first, dtype=dtype, name=f"{kernel.name}{name}")

        signs = add(kernel.shape, "_signs", planned.flips, signed) if place.signed else None
        original = add(kernel.shape, "", values)
        original.constraint = _of_signed(kernel.constraint, signs)
        centroids = add(table, "_centroids", start)
        return ClusteredVariable(
            kernel,
            original,
            centroids,
            indices=add(kernel.shape, "_indices", 0, unsigned),
            signs=signs,
            free=add(table, "_free", start != 0) if place.pin_zero else None,
            mask=add(kernel.shape, "_mask", values != 0, signed) if place.sparse else None,
            int8=place.int8,
            rate=self.centroid_rate,
            algorithm=ClusteringAlgorithm(
                centroids.value, self.aggregation, channels=planned.channels
            ),
        )

    def _planned(self, place: _Place, kernel: Any) -> PlannedWeight:
        if isinstance(self._plan, ClusterPlan):
            return self._plan.planned(kernel)
        # saved: only the shapes matter, the values come from the file
        shape = tuple(int(size) for size in kernel.shape)
        return PlannedWeight(
            LayerWeight(kernel.path, kernel.path, "", None, kernel),
            place.clusters,
            Initialization(place.initialization),
            channels=None if place.axes is None else Channels.of(shape, place.axes),
            pin_zero=place.pin_zero,
            sparse=place.sparse,
            int8=place.int8,
        )

    def _replace(self, variables: Sequence[Any]) -> list[Any]:
        """The variables with each clustered kernel's original weight in its place."""
        by_kernel = self._clustered.by_kernel
        return [by_kernel[id(v)].original if id(v) in by_kernel else v for v in variables]

    def _inner_variables(self, var_list: Sequence[Any]) -> list[Any]:
        """What the inner optimizer updates: originals in place of the kernels, and the centroids."""
        return [*self._replace(var_list), *(v.centroids for v in self._clustered.variables)]

    def _write_kernels(self, refresh: Any, before: Sequence[Any] | None = None) -> None:
        """New indices where `refresh` says so, and the kernels' values; on every replica by itself, without traffic.

        before: the centroids before a step of which they take a part.
        """
        context = tf.distribute.get_replica_context()
        if context is None or not tf.distribute.has_strategy():
            self._write_everywhere(None, refresh, before)
        else:
            context.merge_call(self._write_everywhere, args=(refresh, before))

    def _write_everywhere(self, strategy: Any, refresh: Any, before: Sequence[Any] | None) -> None:
        for number, variable in enumerate(self._clustered.variables):
            kernel, *state = variable.state
            arguments = (*state, refresh, None if before is None else before[number])
            if strategy is None:
                variable.write_into(kernel, *arguments)
            else:
                strategy.extended.update(kernel, variable.write_into, args=arguments, group=False)

    def _due(self) -> Any:
        """Whether the indices are refreshed in this step: a Python bool where it is always the same."""
        if not self.refresh or self.refresh_every == 1:
            return self.refresh
        # this step is counted when it is done
        return tf.equal((self.iterations + 1) % self.refresh_every, 0)


def clustering_optimizer(optimizer: Any) -> ClusteringOptimizer | None:
    """The optimizer itself, or the one inside a loss scale, if it clusters."""
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    return optimizer if isinstance(optimizer, ClusteringOptimizer) else None


def _exchange(one: Any, other: Any) -> None:
    held = tf.identity(one)
    one.assign(other)
    other.assign(held)


def _small_integers() -> tuple[str, str]:
    """Types of signs and of indices: a byte each, but for workers, whose first broadcast knows no bytes."""
    if isinstance(tf.distribute.get_strategy(), tf.distribute.MultiWorkerMirroredStrategy):
        return "int32", "int32"
    return "int8", "uint8"


def _places(plan: ClusterPlan | Sequence[_Place], var_list: Sequence[Any]) -> tuple[_Place, ...]:
    """The planned weights by position; those not trained (a frozen layer's) have none."""
    if not isinstance(plan, ClusterPlan):
        for place in plan:
            _check_place(place, var_list)
        return tuple(plan)
    positions = {id(variable): position for position, variable in enumerate(var_list)}
    return tuple(
        _Place.of(positions[id(planned.weight.variable)], planned)
        for planned in plan.clustered
        if id(planned.weight.variable) in positions
    )


def _check_place(place: _Place, var_list: Sequence[Any]) -> None:
    found = tuple(var_list[place.position].shape) if place.position < len(var_list) else None
    if found is None or place.shape not in (None, found):
        raise ModelError(
            f"trainable weight {place.position} must have the shape {place.shape or 'it was saved with'}, "
            f"got {'none' if found is None else found}; {FROZEN_SINCE}"
        )


def _of_signed(constraint: Any, signs: Any) -> Any:
    """The kernel's constraint as one on signs · kernel."""
    if constraint is None or signs is None:
        return constraint

    def constrained(values: Any) -> Any:
        along = tf.cast(signs.value, values.dtype)
        return along * constraint(along * values)

    return constrained
