"""What stage cluster decides by itself."""

from __future__ import annotations

import keras
import pytest
from keras import layers

from edgepalette.cluster.student import HIDDEN_WEIGHT
from edgepalette.pipeline.cluster_stage import learning_rate_of, plan_of
from edgepalette.pipeline.recipe import LEARNING_RATE, ClusterSection, LayerLine


def rate(clusters: int, section: ClusterSection | None = None) -> float:
    """Of a model with a clustered kernel of 600 weights and one of 300."""
    section = section or ClusterSection()
    model = keras.Sequential([keras.Input((30,)), layers.Dense(20, name="a"), layers.Dense(15, name="b")])  # fmt: skip
    return learning_rate_of(section, plan_of(model, clusters, section))


def test_the_learning_rate_grows_where_centroids_are_few() -> None:
    assert [rate(clusters) for clusters in (256, 16)] == [LEARNING_RATE] * 2
    assert rate(4) == pytest.approx(2 * LEARNING_RATE)
    assert rate(2) == pytest.approx(8**0.5 * LEARNING_RATE)


def test_kernels_left_alone_count_in_the_mean() -> None:
    section = ClusterSection(layers=(LayerLine(pattern="a", skip=True),))
    assert rate(4, section) == pytest.approx((600 + 2 * 300) / 900 * LEARNING_RATE)


def test_a_learning_rate_asked_for_is_taken_as_it_is() -> None:
    assert rate(4, ClusterSection(learning_rate=1e-3)) == 1e-3


def test_a_recipe_weighs_hidden_activations_as_a_student_does() -> None:
    # a recipe is read without TensorFlow, so it states the number itself
    assert ClusterSection().hidden_weight == HIDDEN_WEIGHT
