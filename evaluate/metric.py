"""Quality of outputs against labels, and agreement between two models' outputs."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, RecipeError

Outputs = NDArray[np.float32]
Metric = Callable[[NDArray[Any], Outputs], float]

# two regression outputs agree if they differ by less than this share of the float outputs' range
AGREEMENT_RANGE = 0.01


def decisions(outputs: Outputs) -> NDArray[np.int64]:
    """The class each row decides for: the largest of several outputs, or a single one's side of one half."""
    if outputs.shape[-1] == 1:
        return (outputs[..., 0] > 0.5).astype(np.int64)
    return np.asarray(outputs.argmax(axis=-1))


def accuracy(labels: NDArray[Any], outputs: Outputs) -> float:
    """Share of decisions that equal the class labels."""
    return float(np.mean(decisions(outputs) == labels))


def auc(labels: NDArray[Any], outputs: Outputs) -> float:
    """Area under the ROC curve; one against the rest, averaged, for several classes."""
    from sklearn.metrics import roc_auc_score

    classes = max(2, outputs.shape[-1])
    missing = sorted(set(range(classes)) - set(np.unique(labels).tolist()))
    if missing:
        raise DataError(f"auc needs test examples of every class, got none of {missing[:10]}")
    if outputs.shape[-1] == 1:
        return float(roc_auc_score(labels, outputs[..., 0]))
    if outputs.shape[-1] == 2:
        return float(roc_auc_score(labels, outputs[..., 1]))
    one_hot = np.eye(outputs.shape[-1])[labels]
    return float(roc_auc_score(one_hot, outputs, average="macro"))


def mae(labels: NDArray[Any], outputs: Outputs) -> float:
    """Mean absolute error."""
    return float(np.mean(np.abs(outputs - labels.reshape(outputs.shape))))


METRICS: dict[str, Metric] = {"accuracy": accuracy, "auc": auc, "mae": mae}


def get_metric(name: str) -> Metric:
    """A metric by name, or `package.module:function` of (labels, outputs). Raises RecipeError for neither."""
    if name in METRICS:
        return METRICS[name]
    found = load_function(name, "metric", f"one of {', '.join(METRICS)} or ")
    return lambda labels, outputs: float(found(labels, outputs))


def load_attribute(name: str, what: str, own: str = "") -> Any:
    """`package.module:attribute`, the current directory included in the search. Raises RecipeError."""
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise RecipeError(f"{what} must be {own}package.module:function, got {name!r}")
    here = os.getcwd()
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise RecipeError(
            f"{what} {name!r} cannot be imported: {error}; start from the folder that holds {module!r}"
        ) from error
    except AttributeError as error:
        raise RecipeError(f"{what} {name!r}: {module} has no {attribute!r}") from error


def load_function(name: str, what: str, own: str = "") -> Callable[..., Any]:
    """`load_attribute` that can be called. Raises RecipeError for a value that cannot."""
    found: Callable[..., Any] = load_attribute(name, what, own)
    if not callable(found):
        raise RecipeError(f"{what} {name!r} must be a function, got {type(found).__name__}")
    return found


def agreement(outputs: Outputs, reference: Outputs, classifies: bool) -> float:
    """Share of rows that decide as the reference does; for regression, that lie within 1 % of its range."""
    if classifies:
        return float(np.mean(decisions(outputs) == decisions(reference)))
    span = float(np.ptp(reference)) or 1.0
    return float(np.mean(np.abs(outputs - reference) <= AGREEMENT_RANGE * span))


def differing_bytes(ours: NDArray[Any], theirs: NDArray[Any]) -> int:
    """Bytes that differ between two arrays of one type and as many elements."""
    first, second = (
        np.ascontiguousarray(part).reshape(-1).view(np.uint8) for part in (ours, theirs)
    )
    return int((first != second).sum())
