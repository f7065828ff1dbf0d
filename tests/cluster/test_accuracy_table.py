"""`scripts/bench_clustering accuracy`: which examples are trained on and which are measured on."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edgepalette.pipeline.cluster_stage import plan_of
from edgepalette.pipeline.data import Dataset
from edgepalette.pipeline.recipe import changed
from edgepalette.pipeline.zoo import ZOO

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

# a program, not a part of the package
from peers.accuracy_job import MODES, TASKS, Job, fresh_test, lines_of, split

LABELS = np.arange(60) // 20


@pytest.fixture
def data() -> Dataset:
    """Every example its own number, the test set's 100 and on; three labels one after another."""
    test = np.arange(100, 112)
    return Dataset("numbers", np.arange(60.0), LABELS, test.astype(float), (test - 100) // 4)


@pytest.mark.parametrize("by_label", [False, True])
def test_examples_held_back_are_measured_on_and_not_trained_on(
    data: Dataset, by_label: bool
) -> None:
    part = split(data, hold=15, limit=0, by_label=by_label)
    assert len(part.x_test) == 15
    assert sorted([*part.x_train, *part.x_test]) == list(data.x_train)
    assert (len(set(part.y_test)) > 1) == by_label


def test_a_fresh_test_set_holds_nothing_that_was_measured_on_before(data: Dataset) -> None:
    chosen_on = split(data, hold=15, limit=0, by_label=True).x_test
    fresh = fresh_test(data, chosen_on=15)
    assert not set(fresh.x_test) & {*chosen_on, *data.x_test}
    assert {*chosen_on, *data.x_test} <= set(fresh.x_train)
    assert sorted([*fresh.x_train, *fresh.x_test]) == sorted([*data.x_train, *data.x_test])
    np.testing.assert_array_equal(np.bincount(fresh.y_test), np.bincount(data.y_test))
    np.testing.assert_array_equal(fresh.y_test, LABELS[fresh.x_test.astype(int)])


def test_too_few_examples_for_a_fresh_test_set_are_named(data: Dataset) -> None:
    with pytest.raises(ValueError, match="label 0 must have 4 examples no choice has seen, got"):
        fresh_test(data, chosen_on=55)
    with pytest.raises(ValueError, match="fewer examples must be left out than there are"):
        fresh_test(data, chosen_on=60)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("mode", [name for name, mode in MODES.items() if not mode.tfmot])
@pytest.mark.parametrize("clusters", [(4,), (8, 8, 8)])
def test_every_cell_of_ours_has_a_plan(task: str, mode: str, clusters: tuple[int, ...]) -> None:
    """Depthwise kernels count as all others where we train as tfmot does; networks without any have a row too."""
    job = Job(task, mode, clusters, len(clusters) > 1, 0, 0, 0, 0, 1, 0, 1e-4, "", "", 1)
    recipe = job.recipe()
    network = ZOO[recipe.model.source]
    model = network.build(network.input_shape, 10)
    section = changed(recipe, {"cluster.layers": lines_of(job, model)}).cluster
    plan = plan_of(model, clusters[0], section)
    depthwise = [p for p in plan.clustered if p.weight.layer_type == "DepthwiseConv2D"]
    if job.selective:
        assert [p.clusters for p in plan.clustered] == [8, 8, 8]
    else:
        assert {p.clusters for p in depthwise} <= {4 if MODES[mode].like_tfmot else 16}
        assert {p.clusters for p in plan.clustered if p not in depthwise} == {4}
        assert bool(depthwise) == (task == "ds-cnn-l")
