"""edgepalette: Keras models whose weights share a palette of values, from training to small devices."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cluster.aggregation import GradientAggregation
    from .cluster.algorithm import ClusteringAlgorithm
    from .cluster.batchnorm import recalibrate_batchnorm
    from .cluster.centroids import Initialization
    from .cluster.model import cluster_weights, strip_clustering
    from .cluster.optimizer import ClusteringOptimizer
    from .cluster.palette import Palette
    from .cluster.plan import ClusterPlan, Override
    from .errors import EdgepaletteError

__version__ = "0.1.0"

# Inert at load: a test runner may import this file a second time under the folder's name, and
# `edgepalette --help` must not pay for TensorFlow.
_PUBLIC = {
    "ClusterPlan": "cluster.plan",
    "ClusteringAlgorithm": "cluster.algorithm",
    "ClusteringOptimizer": "cluster.optimizer",
    "EdgepaletteError": "errors",
    "GradientAggregation": "cluster.aggregation",
    "Initialization": "cluster.centroids",
    "Override": "cluster.plan",
    "Palette": "cluster.palette",
    "cluster_weights": "cluster.model",
    "recalibrate_batchnorm": "cluster.batchnorm",
    "strip_clustering": "cluster.model",
}

__all__ = [
    "ClusterPlan",
    "ClusteringAlgorithm",
    "ClusteringOptimizer",
    "EdgepaletteError",
    "GradientAggregation",
    "Initialization",
    "Override",
    "Palette",
    "cluster_weights",
    "recalibrate_batchnorm",
    "strip_clustering",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'edgepalette' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"edgepalette.{_PUBLIC[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
