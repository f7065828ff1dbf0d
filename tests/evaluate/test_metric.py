"""Metrics against their definitions and scikit-learn; agreement; functions of the user's own."""

from __future__ import annotations

import math
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from edgepalette.errors import EdgepaletteError, RecipeError
from edgepalette.evaluate.metric import accuracy, agreement, auc, decisions, get_metric, mae

# float32 outputs summed in another order
ROUNDING = 1e-6


def as_float(*rows: list[float]) -> np.ndarray:
    return np.array(rows, np.float32)


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, empty; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def test_accuracy_counts_rows_whose_largest_output_is_the_label() -> None:
    outputs = as_float([0.1, 0.9, 0.0], [0.8, 0.1, 0.1], [0.2, 0.3, 0.5])
    assert accuracy(np.array([1, 0, 0]), outputs) == pytest.approx(2 / 3)


def test_accuracy_of_a_single_output_cuts_at_one_half() -> None:
    outputs = as_float([0.49], [0.51], [0.9], [0.1])
    assert decisions(outputs).tolist() == [0, 1, 1, 0]
    assert accuracy(np.array([0, 1, 0, 0]), outputs) == 0.75


def test_auc_of_two_classes_is_scikit_learns() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 200)
    score = (labels + rng.normal(0, 1, 200)).astype(np.float32)
    expected = roc_auc_score(labels, score)
    assert auc(labels, score[:, None]) == pytest.approx(expected)
    assert auc(labels, np.stack([-score, score], 1)) == pytest.approx(expected)


def test_auc_of_several_classes_is_scikit_learns_one_against_the_rest() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 300)
    outputs = rng.random((300, 4)).astype(np.float32) + np.eye(4, dtype=np.float32)[labels]
    outputs /= outputs.sum(axis=1, keepdims=True)
    expected = roc_auc_score(labels, outputs.astype(np.float64), multi_class="ovr")
    assert auc(labels, outputs) == pytest.approx(expected, abs=ROUNDING)


# TFLM runs a sample of the test set, which may miss a rare class
@pytest.mark.filterwarnings("ignore:Only one class is present")
@pytest.mark.parametrize(("labels", "columns"), [([0, 1, 0, 1, 1, 0], 3), ([0, 0, 0, 0, 0, 0], 1)])
def test_auc_is_a_number_or_a_clear_error_where_a_class_is_missing(
    labels: list[int], columns: int
) -> None:
    outputs = np.random.default_rng(2).random((6, columns)).astype(np.float32)
    value = 0.0
    with suppress(EdgepaletteError):
        value = auc(np.array(labels), outputs)
    # nan is no JSON: others could not read measurements.json
    assert math.isfinite(value)


def test_mae_takes_labels_with_and_without_a_last_axis() -> None:
    outputs = as_float([1.0], [2.0], [4.0])
    assert mae(np.array([1.0, 1.0, 2.0]), outputs) == pytest.approx(1.0)
    assert mae(np.array([[1.0], [1.0], [2.0]]), outputs) == pytest.approx(1.0)


def test_a_function_of_the_users_own_is_found_in_the_current_directory(own_folder: Path) -> None:
    (own_folder / "own_metric.py").write_text(
        "def recall(labels, outputs):\n    return (outputs.argmax(1)[labels == 1] == 1).mean()\n"
    )
    outputs = as_float([0.1, 0.9], [0.9, 0.1], [0.9, 0.1])
    value = get_metric("own_metric:recall")(np.array([1, 1, 0]), outputs)
    assert value == 0.5
    assert isinstance(value, float)


@pytest.mark.parametrize("name", ["f1", "", "module:", ":function"])
def test_an_unknown_metric_says_what_it_may_be(name: str) -> None:
    with pytest.raises(RecipeError, match=f"metric must be one of .*:function, got '{name}'"):
        get_metric(name)


def test_an_unknown_metric_names_the_ones_there_are() -> None:
    with pytest.raises(RecipeError, match="accuracy, auc, mae"):
        get_metric("f1")


def test_a_module_that_is_not_there_says_where_it_was_looked_for(own_folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"'own_nowhere:f' cannot be imported.*the folder that"):
        get_metric("own_nowhere:f")


def test_a_function_that_is_not_there_and_a_value_that_is_none_are_refused(
    own_folder: Path,
) -> None:
    (own_folder / "own_values.py").write_text("limit = 3\n")
    with pytest.raises(RecipeError, match="own_values has no 'f1'"):
        get_metric("own_values:f1")
    with pytest.raises(RecipeError, match="must be a function"):
        get_metric("own_values:limit")


def test_agreement_of_classifiers_is_the_share_of_equal_decisions() -> None:
    ours = as_float([0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.4, 0.6])
    theirs = as_float([0.6, 0.4], [0.1, 0.9], [0.3, 0.7], [0.1, 0.9])
    assert agreement(ours, theirs, classifies=True) == 0.75
    assert agreement(as_float([0.6], [0.1]), as_float([0.9], [0.7]), classifies=True) == 0.5


def test_agreement_of_regressions_is_the_share_within_a_hundredth_of_the_range() -> None:
    reference = as_float([0.0], [5.0], [10.0], [2.0])
    ours = reference + as_float([0.09], [-0.09], [0.11], [0.0])
    assert agreement(ours, reference, classifies=False) == 0.75


def test_agreement_of_constant_outputs_does_not_divide_by_zero() -> None:
    constant = as_float([2.0], [2.0])
    assert agreement(constant, constant, classifies=False) == 1.0
