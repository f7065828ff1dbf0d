"""edgepalette: Keras models whose weights share a palette of values, from training to small devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cluster.aggregation import GradientAggregation
    from .cluster.algorithm import ClusteringAlgorithm
    from .cluster.batchnorm import recalibrate_batchnorm
    from .cluster.centroids import Initialization
    from .cluster.model import cluster_weights, strip_clustering
    from .cluster.monitor import ClusteringMonitor
    from .cluster.moving_averages import SwapEMAWeights
    from .cluster.optimizer import ClusteringOptimizer
    from .cluster.palette import Palette
    from .cluster.plan import ClusterPlan, Override
    from .cluster.post_training import cluster_post_training
    from .cluster.sensitivity import sensitivities
    from .cluster.student import Student, with_activations
    from .cluster.twin import int8_twin
    from .errors import EdgepaletteError

__version__ = "0.1.0"

# Inert at load: a test runner may import this file a second time under the folder's name, and
# `edgepalette --help` must not pay for TensorFlow.
_PUBLIC = {
    "ClusterPlan": "cluster.plan",
    "ClusteringAlgorithm": "cluster.algorithm",
    "ClusteringMonitor": "cluster.monitor",
    "ClusteringOptimizer": "cluster.optimizer",
    "EdgepaletteError": "errors",
    "GradientAggregation": "cluster.aggregation",
    "Initialization": "cluster.centroids",
    "Override": "cluster.plan",
    "Palette": "cluster.palette",
    "Student": "cluster.student",
    "SwapEMAWeights": "cluster.moving_averages",
    "cluster_post_training": "cluster.post_training",
    "cluster_weights": "cluster.model",
    "int8_twin": "cluster.twin",
    "recalibrate_batchnorm": "cluster.batchnorm",
    "sensitivities": "cluster.sensitivity",
    "strip_clustering": "cluster.model",
    "with_activations": "cluster.student",
}

__all__ = [
    "ClusterPlan",
    "ClusteringAlgorithm",
    "ClusteringMonitor",
    "ClusteringOptimizer",
    "EdgepaletteError",
    "GradientAggregation",
    "Initialization",
    "Override",
    "Palette",
    "Student",
    "SwapEMAWeights",
    "cluster_post_training",
    "cluster_weights",
    "int8_twin",
    "recalibrate_batchnorm",
    "sensitivities",
    "strip_clustering",
    "with_activations",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgepalette' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"edgepalette.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
