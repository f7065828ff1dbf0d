"""Plans: which weights share how many values, which are left alone and why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest

from edgepalette.cluster.aggregation import GradientAggregation
from edgepalette.cluster.centroids import Initialization
from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.plan import ClusterPlan, Override
from edgepalette.errors import ModelError, RecipeError

Build = Callable[..., Any]


def clusters_of(plan: ClusterPlan) -> dict[str, int]:
    return {planned.weight.name: planned.clusters for planned in plan.clustered}


def reasons_of(plan: ClusterPlan) -> dict[str, str]:
    return {kept.weight.name: kept.reason for kept in plan.kept}


def test_every_weight_of_the_model_is_in_the_plan_once(build: Build) -> None:
    model = build("sequential")
    plan = ClusterPlan.of(model)
    listed = [id(entry.weight.variable) for entry in (*plan.clustered, *plan.kept)]
    assert sorted(listed) == sorted(
        id(v) for v in model.weights if v.name != "seed_generator_state"
    )
    assert clusters_of(plan) == {
        "conv/kernel": 16,
        "depthwise/kernel": 16,
        "transpose/kernel": 16,
        "head/kernel": 16,
    }


def test_defaults_are_16_clusters_by_kmeans_with_summed_gradients(build: Build) -> None:
    plan = ClusterPlan.of(build("functional"))
    assert set(clusters_of(plan).values()) == {16}
    assert {p.initialization for p in plan.clustered} == {Initialization.KMEANS}
    assert plan.aggregation is GradientAggregation.SUM


def test_choices_reach_every_planned_weight(build: Build) -> None:
    plan = ClusterPlan.of(
        build("functional"),
        5,
        initialization=Initialization.LINEAR,
        aggregation=GradientAggregation.AVG,
    )
    assert set(clusters_of(plan).values()) == {5}
    assert {p.initialization for p in plan.clustered} == {Initialization.LINEAR}
    assert plan.aggregation is GradientAggregation.AVG


@pytest.mark.parametrize(
    ("pattern", "touched"),
    [
        ("head", {"head/kernel"}),
        ("conv", {"conv/kernel"}),
        ("Dense", {"head/kernel"}),
        ("DepthwiseConv2D", {"depthwise/kernel"}),
        ("*Conv2D", {"conv/kernel", "depthwise/kernel"}),
        ("*/kernel", {"conv/kernel", "depthwise/kernel", "transpose/kernel", "head/kernel"}),
        ("[ct]*", {"conv/kernel", "transpose/kernel"}),
    ],
)
def test_an_override_names_layers_by_name_by_class_or_by_pattern(
    build: Build, pattern: str, touched: set[str]
) -> None:
    plan = ClusterPlan.of(build("sequential"), 16, [Override(pattern, 4)])
    assert {name for name, clusters in clusters_of(plan).items() if clusters == 4} == touched


def test_of_several_overrides_that_match_the_last_one_counts(build: Build) -> None:
    lines = [Override("head", 2), Override("*", 8), Override("conv", 4), Override("*/bias", None)]
    plan = ClusterPlan.of(build("sequential"), 16, lines)
    assert clusters_of(plan) == {
        "conv/kernel": 4,
        "depthwise/kernel": 8,
        "transpose/kernel": 8,
        "head/kernel": 8,
    }


def test_an_override_without_clusters_skips_and_the_plan_says_so(build: Build) -> None:
    plan = ClusterPlan.of(build("sequential"), 16, [Override("head", None)])
    assert "head/kernel" not in clusters_of(plan)
    assert reasons_of(plan)["head/kernel"] == "skipped by the recipe"


def test_a_later_line_takes_a_skip_back(build: Build) -> None:
    plan = ClusterPlan.of(build("sequential"), 16, [Override("*", None), Override("head", 3)])
    assert clusters_of(plan) == {"head/kernel": 3}


def test_weights_left_alone_come_with_their_reasons(build: Build) -> None:
    plan = ClusterPlan.of(build("sequential"), 16)
    reasons = reasons_of(plan)
    assert reasons["head/bias"] == "bias vectors stay as they are"
    assert reasons["norm/gamma"] == "gamma vectors stay as they are"
    assert reasons["norm/moving_variance"] == "moving_variance vectors stay as they are"
    inputs = keras.Input((5, 5))
    outputs = keras.layers.Dense(9)(keras.layers.PReLU(name="slope")(inputs))
    plan = ClusterPlan.of(keras.Model(inputs, outputs))
    assert reasons_of(plan)["slope/alpha"] == "alpha of PReLU is not clustered"


def test_a_weight_with_no_more_elements_than_clusters_is_kept_and_the_reason_counts() -> None:
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, name="a"), keras.layers.Dense(8, name="b")]
    )
    plan = ClusterPlan.of(model, 16)
    assert clusters_of(plan) == {"b/kernel": 16}
    assert reasons_of(plan)["a/kernel"] == "it has 16 elements, no more than its 16 clusters"


def test_a_weight_of_another_type_is_kept() -> None:
    model = keras.Sequential(
        [
            keras.Input((8,)),
            keras.layers.Dense(8, name="half", dtype="float16"),
            keras.layers.Dense(8, name="full"),
        ]
    )
    reasons = reasons_of(ClusterPlan.of(model))
    assert reasons["half/kernel"] == "its type is float16, float32 is clustered"


def test_layers_of_the_users_are_clustered_whatever_they_call_their_weights() -> None:
    class Scaled(keras.layers.Dense):
        pass

    class Own(keras.layers.Layer):
        def build(self, input_shape: Any) -> None:
            self.kernel = self.add_weight(shape=(input_shape[-1], 9), name="mixing")
            self.table = self.add_weight(shape=(9, 9), name="table", trainable=False)
            self.bias = self.add_weight(shape=(9, 9), name="bias")

        def call(self, inputs: Any) -> Any:
            return keras.ops.matmul(inputs, self.kernel)

    model = keras.Sequential([keras.Input((8,)), Scaled(9, name="derived"), Own(name="own")])
    plan = ClusterPlan.of(model)
    assert clusters_of(plan) == {"derived/kernel": 16, "own/mixing": 16}
    assert reasons_of(plan)["own/table"] == "table of Own is not clustered"
    assert reasons_of(plan)["own/bias"] == "bias of Own is not clustered"


def test_a_depthwise_kernel_gets_at_least_16_clusters_unless_an_override_speaks(
    build: Build,
) -> None:
    model = build("sequential")
    plan = ClusterPlan.of(model, 4)
    (depthwise,) = (p for p in plan.clustered if p.weight.name == "depthwise/kernel")
    assert depthwise.clusters == 16
    assert depthwise.notes == ("a depthwise kernel gets at least 16 clusters",)
    assert clusters_of(plan)["conv/kernel"] == 4
    overridden = ClusterPlan.of(model, 4, [Override("DepthwiseConv2D", 6)])
    assert clusters_of(overridden)["depthwise/kernel"] == 6
    assert clusters_of(ClusterPlan.of(model, 20))["depthwise/kernel"] == 20


def test_weights_below_the_least_size_are_kept_unless_an_override_names_them(build: Build) -> None:
    plan = ClusterPlan.of(build("sequential"), 4, [Override("conv", 4)], min_size=200)
    assert "conv/kernel" in clusters_of(plan)
    assert "head/kernel" in clusters_of(plan)
    assert reasons_of(plan)["transpose/kernel"] == (
        "it has 80 elements, fewer than the 200 asked for"
    )


def test_channels_are_where_the_layer_has_them(build: Build) -> None:
    plan = ClusterPlan.of(build("sequential"), 2, per_channel=True)
    counts = {p.weight.name: p.channels.count for p in plan.clustered if p.channels}
    assert counts == {
        "conv/kernel": 4,
        "depthwise/kernel": 4,
        "transpose/kernel": 5,
        "head/kernel": 4,
    }


def test_an_override_decides_who_has_values_per_channel(build: Build) -> None:
    plan = ClusterPlan.of(build("sequential"), 2, [Override("head", 2, per_channel=True)])
    assert [p.weight.name for p in plan.clustered if p.channels] == ["head/kernel"]


def test_a_pruned_kernel_is_planned_sparse(build: Build) -> None:
    model = build("sequential")
    kernel = model.get_layer("head").kernel
    values = kernel.numpy()
    kernel.assign(np.where(np.arange(values.size).reshape(values.shape) % 2, values, 0))
    for preserve in (True, False):
        plan = ClusterPlan.of(model, 4, preserve_sparsity=preserve)
        sparse = [p for p in plan.clustered if p.sparse]
        assert [p.weight.name for p in sparse] == (["head/kernel"] if preserve else [])
        assert all(p.pin_zero and "zeros stay zeros" in p.notes[0] for p in sparse)


@pytest.mark.parametrize("clusters", [-1, 0, 1, 257])
def test_a_number_of_clusters_out_of_range_is_refused(build: Build, clusters: int) -> None:
    message = f"must lie between 2 and 256, got {clusters}"
    with pytest.raises(RecipeError, match=message):
        ClusterPlan.of(build("sequential"), clusters)
    with pytest.raises(RecipeError, match=message):
        ClusterPlan.of(build("sequential"), 16, [Override("head", clusters)])


def test_a_pattern_that_names_nothing_is_refused_and_the_layers_are_listed(build: Build) -> None:
    with pytest.raises(
        RecipeError, match=r"must name a layer of the model, got 'haed'; its layers: conv, .*head"
    ):
        ClusterPlan.of(build("sequential"), 16, [Override("conv", 4), Override("haed", 4)])


def test_a_pattern_overridden_by_later_lines_still_names_something(build: Build) -> None:
    plan = ClusterPlan.of(build("sequential"), 16, [Override("head", 4), Override("*", 8)])
    assert set(clusters_of(plan).values()) == {8}


def test_a_model_with_nothing_to_cluster_is_refused_with_every_reason(build: Build) -> None:
    with pytest.raises(ModelError, match="a weight to cluster, got none") as caught:
        ClusterPlan.of(build("sequential"), 16, [Override("*", None)])
    assert "  head/kernel: skipped by the recipe" in str(caught.value)
    assert "  head/bias: bias vectors stay as they are" in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name_but_may_be_skipped(
    build: Build, value: float
) -> None:
    model = build("functional")
    head = next(v for v in model.trainable_variables if v.path == "head/kernel")
    values = head.numpy()
    values[0, 0] = value
    head.assign(values)
    with pytest.raises(ModelError, match="finite, got NaN or infinity in head/kernel"):
        ClusterPlan.of(model)
    assert "head/kernel" not in clusters_of(
        ClusterPlan.of(model, overrides=[Override("head", None)])
    )


def test_a_model_without_weights_yet_is_refused() -> None:
    with pytest.raises(ModelError, match="got 'unbuilt' not yet built; call it once on a batch"):
        ClusterPlan.of(keras.Sequential([keras.layers.Dense(3)], name="unbuilt"))


def test_names_of_nested_models_follow_the_tree_and_are_unique(build: Build) -> None:
    plan = ClusterPlan.of(build("nested"), 16, [Override("inner/conv", 4)])
    assert clusters_of(plan) == {"inner/conv/kernel": 4, "conv/kernel": 16}


def test_a_layers_own_name_finds_it_at_any_depth(build: Build) -> None:
    plan = ClusterPlan.of(build("nested"), 16, [Override("conv", 4)])
    assert clusters_of(plan) == {"inner/conv/kernel": 4, "conv/kernel": 4}


def test_repeated_names_are_numbered() -> None:
    class Twins(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.pair = [keras.layers.Dense(8, name="dense") for _ in range(2)]

        def call(self, inputs: Any) -> Any:
            return self.pair[1](self.pair[0](inputs))

    model = Twins()
    model(keras.ops.zeros((1, 8)))
    assert set(clusters_of(ClusterPlan.of(model))) == {"dense/kernel", "dense/kernel#2"}


def test_a_layer_read_twice_has_one_entry(build: Build) -> None:
    plan = ClusterPlan.of(build("shared_layer"), 4)
    assert clusters_of(plan) == {"twice/kernel": 4, "head/kernel": 4}
    assert len(plan.clustered) + len(plan.kept) == 4


def test_sublayers_of_a_subclassed_model_are_found_in_attributes_and_lists(build: Build) -> None:
    plan = ClusterPlan.of(build("subclassed"), 8)
    assert clusters_of(plan) == {"convolution/kernel": 8, "head/kernel": 8}


def test_a_kernel_that_is_all_zero_is_left_alone_and_not_taken_for_pruned(build: Build) -> None:
    model = build("sequential")
    kernel = model.get_layer("head").kernel
    kernel.assign(np.zeros(kernel.shape))
    reasons = reasons_of(ClusterPlan.of(model, 4))
    assert reasons["head/kernel"] == (
        "all its elements are 0; train the model before it is clustered"
    )


def test_channels_of_no_more_elements_than_clusters_are_left_alone(build: Build) -> None:
    """A depthwise kernel has 9 elements a channel here: values of its own for each are no sharing."""
    plan = ClusterPlan.of(build("sequential"), 9, per_channel=True)
    assert reasons_of(plan)["depthwise/kernel"] == (
        "each of its channels has 9 elements, no more than their 9 clusters"
    )
    assert "conv/kernel" in clusters_of(plan)
    # its channels share nothing, so that nothing is gained by giving them more than was asked for
    assert (
        clusters_of(ClusterPlan.of(build("sequential"), 8, per_channel=True))["depthwise/kernel"]
        == 8
    )


@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
@pytest.mark.parametrize("use_bias", [True, False])
def test_a_convolutions_channels_are_its_filters_whatever_its_format_and_bias(
    data_format: str, use_bias: bool
) -> None:
    """tfmot leaves kernels without a bias out, and takes another axis where activations come channels first."""
    convolution = keras.layers.Conv2D(5, 3, data_format=data_format, use_bias=use_bias)
    convolution.build((None, 7, 7, 7))
    model = keras.Sequential([convolution])
    model.build((None, 7, 7, 7))
    cluster_weights(model, ClusterPlan.of(model, 4, per_channel=True))
    filters = np.moveaxis(convolution.kernel.numpy(), -1, 0)
    assert [len(np.unique(row)) for row in filters] == [4] * 5
    assert len(np.unique(filters)) == 20


def test_a_layer_with_lora_matrices_is_left_alone(build: Build) -> None:
    model = build("sequential")
    model.get_layer("head").enable_lora(1)
    assert "merge them first" in reasons_of(ClusterPlan.of(model, 4))["head/kernel"]


def test_sensitivities_must_be_numbers_and_of_weights_of_the_model(build: Build) -> None:
    model = build("functional")
    ones = np.ones(model.get_layer("head").kernel.shape, np.float32)
    with pytest.raises(
        ModelError, match="of weights of the model, got 'haed/kernel'; they are rows"
    ):
        ClusterPlan.of(model, 4, sensitivity={"haed/kernel": ones})
    with pytest.raises(ModelError, match="must be finite, got NaN or infinity for head/kernel"):
        ClusterPlan.of(model, 4, sensitivity={"head/kernel": ones * np.nan})
    ClusterPlan.of(model, 4, [Override("head", None)], sensitivity={"head/kernel": ones})
