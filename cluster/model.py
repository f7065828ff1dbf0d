"""From a Keras model to one whose weights share values, and back to a plain Keras model."""

from __future__ import annotations

from typing import Any

import keras

from ..errors import ModelError
from .backend import require_tensorflow_backend
from .optimizer import ClusteringOptimizer, clustering_optimizer
from .plan import ClusterPlan


def cluster_weights(
    model: Any,
    plan: ClusterPlan,
    refresh: bool = True,
    refresh_every: int = 1,
    centroid_rate: float = 1.0,
    damping: Any = 0.0,
) -> Any:
    """Give every planned weight its shared values, in place, and return the model.

    A compiled model goes on training under a ClusteringOptimizer around a fresh copy of its optimizer, so that
    `fit` keeps the values shared; compile first for clustering-aware training. An uncompiled model is only clustered.
    refresh, refresh_every, centroid_rate, damping: as ClusteringOptimizer has them.
    A planned weight that does not train (a frozen layer's) is clustered once and stays.
    The optimizer goes on from its own original weights: after assigning others (`set_weights`, an early stop that
    restores the best) call this again with a plan of them before training on.
    Raises ModelError for a plan of another model.
    """
    require_tensorflow_backend()
    _check_plan(model, plan)
    compiled = bool(getattr(model, "compiled", False))
    trained = {id(variable) for variable in model.trainable_variables} if compiled else set()
    for planned in plan.clustered:
        variable = planned.weight.variable
        if id(variable) not in trained:
            variable.assign(planned.cluster())
    if compiled:
        inner = model.optimizer
        outer = inner if isinstance(inner, keras.optimizers.LossScaleOptimizer) else None
        if outer is not None:  # as Keras compiles for mixed_float16: the loss scale stays outside
            inner = outer.inner_optimizer
        if isinstance(inner, ClusteringOptimizer):
            inner = inner.plain_optimizer()
        optimizer = ClusteringOptimizer(
            _unbuilt(inner),
            plan,
            refresh=refresh,
            refresh_every=refresh_every,
            centroid_rate=centroid_rate,
            damping=damping,
        )
        if outer is not None:
            optimizer = keras.optimizers.LossScaleOptimizer(
                optimizer, outer.initial_scale, outer.dynamic_growth_steps
            )
        optimizer.build(model.trainable_variables)
        _recompile(model, optimizer)
    return model


def strip_clustering(model: Any) -> Any:
    """The same model as plain Keras: its weights keep their shared values, its optimizer is the user's own again.

    It saves, loads and predicts with no edgepalette installed.
    Raises ModelError for a model that was not clustered by `cluster_weights` or a ClusteringOptimizer.
    """
    optimizer = getattr(model, "optimizer", None)
    outer = optimizer if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) else None
    clustering = clustering_optimizer(optimizer)
    if clustering is None:
        raise ModelError(
            "strip_clustering needs a model trained under a ClusteringOptimizer, "
            f"got one whose optimizer is {type(optimizer).__name__}; call cluster_weights(model, plan) first"
        )
    plain = clustering.plain_optimizer()
    if outer is not None:
        plain = keras.optimizers.LossScaleOptimizer(
            plain, outer.initial_scale, outer.dynamic_growth_steps
        )
    # Keras builds it when it loads the model, and warns of a file that has no state for it
    plain.build(model.trainable_variables)
    _recompile(model, plain)
    return model


def _check_plan(model: Any, plan: ClusterPlan) -> None:
    own = {id(variable) for variable in model.variables}
    foreign = [p.weight.name for p in plan.clustered if id(p.weight.variable) not in own]
    if foreign:
        raise ModelError(
            f"the plan must be of this model or of one it shares its layers with, got {foreign[0]} of another; "
            "make it by ClusterPlan.of(model, …)"
        )


def _unbuilt(optimizer: Any) -> Any:
    """A new optimizer of the same settings, and of the same exclusions from weight decay, which are no part of those."""
    anew = type(optimizer).from_config(optimizer.get_config())
    for name in ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern"):
        if hasattr(optimizer, name):
            setattr(anew, name, getattr(optimizer, name))
    return anew


def _recompile(model: Any, optimizer: Any) -> None:
    """Compile again with another optimizer and everything else as it was.

    Keras keeps what `compile` was given in `_compile_config`, the objects themselves; the public form is serialized.
    """
    model.compile(**{**model._compile_config.config, "optimizer": optimizer})
