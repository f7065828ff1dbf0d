"""ClusteringOptimizer: every step against an oracle of numpy or of a plain Keras optimizer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from edgepalette.cluster.aggregation import GradientAggregation
from edgepalette.cluster.nearest import nearest_reference
from edgepalette.cluster.optimizer import ClusteringOptimizer
from edgepalette.cluster.plan import ClusterPlan, Override
from edgepalette.errors import ModelError

Build = Callable[..., Any]
SGD = keras.optimizers.SGD

K = 3
# one product and one difference in float32, and a sum of at most 24 terms in another order
ROUNDING = 32 * float(np.finfo(np.float32).eps)


def dense_model() -> Any:
    """One Dense layer: a kernel of (6, 4) and a bias."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4, name="dense")])
    model.layers[0].bias.assign([0.1, 0.2, 0.3, 0.4])
    return model


def optimizer_for(model: Any, inner: Any, clusters: int = K, **options: Any) -> ClusteringOptimizer:
    optimizer = ClusteringOptimizer(inner, ClusterPlan.of(model, clusters), **options)
    optimizer.build(model.trainable_variables)
    return optimizer


def random_gradients(model: Any, seed: int = 0) -> list[NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return [random.normal(size=v.shape).astype(np.float32) for v in model.trainable_variables]


def apply(optimizer: Any, gradients: Sequence[NDArray[np.float32]], model: Any) -> None:
    optimizer.apply([tf.constant(g) for g in gradients], model.trainable_variables)


def state(optimizer: ClusteringOptimizer) -> tuple[Any, Any, Any, Any]:
    """(kernel, original weight, centroids, indices) of the only clustered variable."""
    (variable,) = optimizer.clustered_variables
    parts = (variable.kernel, variable.original, variable.centroids, variable.indices)
    kernel, original, centroids, indices = (part.numpy() for part in parts)
    return kernel, original, centroids, indices


def member_sums(gradient: NDArray[Any], indices: NDArray[Any], clusters: int) -> NDArray[Any]:
    return np.bincount(indices.reshape(-1), gradient.reshape(-1).astype(np.float64), clusters)


def assert_clustered(optimizer: ClusteringOptimizer) -> None:
    """Kernels hold c[indices], and with refresh the indices are those of the nearest centroid."""
    for variable in optimizer.clustered_variables:
        centroids, indices = variable.centroids.numpy(), variable.indices.numpy()
        kernel = variable.kernel.numpy()
        np.testing.assert_array_equal(kernel, centroids[indices])
        assert len(np.unique(kernel)) <= len(centroids)
        if optimizer.refresh:
            nearest = nearest_reference(variable.original.numpy(), centroids)
            np.testing.assert_array_equal(indices, nearest)


def test_building_writes_clustered_kernels_and_keeps_the_original() -> None:
    model = dense_model()
    before = model.layers[0].kernel.numpy()
    optimizer = optimizer_for(model, SGD())
    kernel, original, _, _ = state(optimizer)
    np.testing.assert_array_equal(original, before)
    assert len(np.unique(kernel)) == K
    assert_clustered(optimizer)


@pytest.mark.parametrize("aggregation", list(GradientAggregation))
def test_one_sgd_step_moves_weight_and_centroids_and_refreshes_the_indices(
    aggregation: GradientAggregation,
) -> None:
    rate = 0.5
    model = dense_model()
    optimizer = optimizer_for(model, SGD(rate), aggregation=aggregation)
    _, original, centroids, indices = state(optimizer)
    gradients = random_gradients(model)
    bias = model.layers[0].bias.numpy()

    apply(optimizer, gradients, model)

    sums = member_sums(gradients[0], indices, K)
    if aggregation is GradientAggregation.AVG:
        sums /= np.bincount(indices.reshape(-1), minlength=K)
    moved_weight = original - rate * gradients[0]
    moved_centroids = centroids - rate * sums
    kernel, new_original, new_centroids, new_indices = state(optimizer)
    np.testing.assert_allclose(new_original, moved_weight, rtol=0, atol=ROUNDING)
    scale = np.abs(gradients[0]).sum()
    np.testing.assert_allclose(new_centroids, moved_centroids, rtol=0, atol=ROUNDING * scale)
    np.testing.assert_array_equal(new_indices, nearest_reference(new_original, new_centroids))
    assert (new_indices != indices).any(), "the case must move indices to show that they move"
    np.testing.assert_array_equal(kernel, new_centroids[new_indices])
    np.testing.assert_allclose(
        model.layers[0].bias.numpy(), bias - rate * gradients[1], rtol=0, atol=ROUNDING
    )


@pytest.mark.parametrize("clusters", [2, 3, 16, 20])
def test_the_kernel_is_its_centroids_after_every_step(clusters: int) -> None:
    model = dense_model()
    optimizer = optimizer_for(model, keras.optimizers.Adam(0.05), clusters)
    for step in range(6):
        apply(optimizer, random_gradients(model, step), model)
        assert_clustered(optimizer)


def test_the_first_step_is_right_for_weights_changed_since_the_model_was_made() -> None:
    model = dense_model()
    model.layers[0].kernel.assign(np.arange(24, dtype=np.float32).reshape(6, 4))
    _, original, centroids, _ = state(optimizer_for(model, SGD()))
    np.testing.assert_array_equal(original.reshape(-1), np.arange(24))
    assert centroids.min() >= 0
    assert centroids.max() <= 23


def test_refresh_false_keeps_the_first_indices() -> None:
    model = dense_model()
    optimizer = optimizer_for(model, SGD(0.5), refresh=False)
    indices = state(optimizer)[3]
    for step in range(3):
        apply(optimizer, random_gradients(model, step), model)
    np.testing.assert_array_equal(state(optimizer)[3], indices)
    assert_clustered(optimizer)
    moved = nearest_reference(state(optimizer)[1], state(optimizer)[2])
    assert (moved != indices).any(), "refreshing must make a difference in this case"


@pytest.mark.parametrize("option", ["clipnorm", "clipvalue", "global_clipnorm"])
def test_clipping_acts_on_the_kernels_gradient_before_it_is_split(option: str) -> None:
    limit, rate = 0.25, 0.5
    model = dense_model()
    optimizer = optimizer_for(model, SGD(rate, **{option: limit}))
    _, original, centroids, indices = state(optimizer)
    gradients = random_gradients(model)

    apply(optimizer, gradients, model)

    kernel_gradient = gradients[0].astype(np.float64)
    if option == "clipvalue":
        clipped = np.clip(kernel_gradient, -limit, limit)
    else:
        over = gradients[:1] if option == "clipnorm" else gradients
        norm = np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in over))
        assert norm > limit
        clipped = kernel_gradient * limit / norm
    _, new_original, new_centroids, _ = state(optimizer)
    np.testing.assert_allclose(new_original, original - rate * clipped, rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(
        new_centroids,
        centroids - rate * member_sums(clipped, indices, K),
        rtol=0,
        atol=ROUNDING * np.abs(clipped).sum(),
    )


def test_weight_decay_shrinks_the_weight_and_leaves_the_centroids() -> None:
    rate, decay = 0.5, 0.1
    model = dense_model()
    optimizer = optimizer_for(model, SGD(rate, weight_decay=decay))
    _, original, centroids, _ = state(optimizer)
    apply(optimizer, [np.zeros_like(g) for g in random_gradients(model)], model)
    _, new_original, new_centroids, _ = state(optimizer)
    np.testing.assert_allclose(new_original, original * (1 - rate * decay), rtol=ROUNDING)
    np.testing.assert_array_equal(new_centroids, centroids)


def test_a_kernel_excluded_from_weight_decay_stays_excluded() -> None:
    model = dense_model()
    inner = SGD(0.5, weight_decay=0.1)
    inner.exclude_from_weight_decay(var_list=[model.layers[0].kernel])
    optimizer = optimizer_for(model, inner)
    before = state(optimizer)[1]
    bias = model.layers[0].bias.numpy()
    apply(optimizer, [np.zeros_like(g) for g in random_gradients(model)], model)
    np.testing.assert_array_equal(state(optimizer)[1], before)
    assert (model.layers[0].bias.numpy() != bias).all()


def test_the_kernels_constraint_acts_on_the_weight_and_not_on_the_centroids() -> None:
    keras.utils.set_random_seed(3)
    constraint = keras.constraints.NonNeg()
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(4, kernel_constraint=constraint)]
    )
    optimizer = optimizer_for(model, SGD(0.5))
    _, original, centroids, indices = state(optimizer)
    gradients = random_gradients(model)
    apply(optimizer, gradients, model)
    _, new_original, new_centroids, _ = state(optimizer)
    moved = np.maximum(original - 0.5 * gradients[0], 0)
    np.testing.assert_allclose(new_original, moved, rtol=0, atol=ROUNDING)
    expected = centroids - 0.5 * member_sums(gradients[0], indices, K)
    assert expected.min() < 0
    np.testing.assert_allclose(new_centroids, expected, rtol=0, atol=24 * ROUNDING)
    assert_clustered(optimizer)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(0.2, momentum=0.9, nesterov=True),
        lambda: keras.optimizers.Adam(0.05),
        lambda: SGD(0.2, use_ema=True, ema_momentum=0.7),
        lambda: SGD(0.2, use_ema=True, ema_momentum=0.7, ema_overwrite_frequency=2),
        lambda: SGD(0.2, gradient_accumulation_steps=2),
        lambda: keras.optimizers.Adam(0.05, gradient_accumulation_steps=2, weight_decay=0.0),
        lambda: keras.optimizers.Adam(
            keras.optimizers.schedules.ExponentialDecay(0.05, 1, 0.8), gradient_accumulation_steps=2
        ),
    ],
    ids=[
        "momentum",
        "adam",
        "ema",
        "ema overwriting",
        "accumulation",
        "adam accumulating",
        "schedule accumulating",
    ],
)
def test_weight_and_centroids_move_as_under_the_plain_optimizer(
    make: Callable[[], Any],
) -> None:
    model = dense_model()
    optimizer = optimizer_for(model, make())
    plain = make()
    twins = [keras.Variable(part) for part in state(optimizer)[1:3]]
    plain.build(twins)

    for step in range(5):
        gradients = random_gradients(model, step)
        sums = member_sums(gradients[0], state(optimizer)[3], K).astype(np.float32)
        apply(optimizer, gradients, model)
        plain.apply([tf.constant(gradients[0]), tf.constant(sums)], twins)
        assert_clustered(optimizer)
    optimizer.finalize_variable_values(model.trainable_variables)
    plain.finalize_variable_values(twins)

    _, original, centroids, _ = state(optimizer)
    np.testing.assert_allclose(original, twins[0].numpy(), rtol=0, atol=10 * ROUNDING)
    np.testing.assert_allclose(centroids, twins[1].numpy(), rtol=0, atol=200 * ROUNDING)
    assert_clustered(optimizer)


def test_moving_averages_reach_the_weight_the_centroids_and_the_kernel_at_the_end() -> None:
    model = dense_model()
    optimizer = optimizer_for(model, SGD(0.5, use_ema=True, ema_momentum=0.5))
    averages = []
    for step in range(4):
        apply(optimizer, random_gradients(model, step), model)
        moved = state(optimizer)[1:3]
        averages.append(
            moved
            if not averages
            else [0.5 * a + 0.5 * m for a, m in zip(averages[-1], moved, strict=True)]
        )
    optimizer.finalize_variable_values(model.trainable_variables)
    _, original, centroids, _ = state(optimizer)
    np.testing.assert_allclose(original, averages[-1][0], rtol=0, atol=ROUNDING)
    np.testing.assert_allclose(centroids, averages[-1][1], rtol=0, atol=24 * ROUNDING)
    assert_clustered(optimizer)


def test_learning_rate_is_the_inner_optimizers_and_can_be_set() -> None:
    model = dense_model()
    optimizer = optimizer_for(model, SGD(0.5))
    assert float(optimizer.learning_rate) == 0.5
    optimizer.learning_rate = 0.125
    assert float(optimizer.wrapped.learning_rate) == 0.125
    before, gradients = state(optimizer)[1], random_gradients(model)
    apply(optimizer, gradients, model)
    np.testing.assert_allclose(
        state(optimizer)[1], before - 0.125 * gradients[0], rtol=0, atol=ROUNDING
    )


def test_a_learning_rate_schedule_is_followed_step_by_step() -> None:
    model = dense_model()
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 2], [0.5, 0.25, 0.0])
    optimizer = optimizer_for(model, SGD(schedule))
    zeros = np.zeros(4, np.float32)
    ones = np.ones((6, 4), np.float32)
    moved = []
    for _ in range(5):
        before = state(optimizer)[1]
        apply(optimizer, [ones, zeros], model)
        moved.append(float((before - state(optimizer)[1]).mean()))
    np.testing.assert_allclose(moved, [0.5, 0.5, 0.25, 0, 0], rtol=0, atol=ROUNDING)
    assert int(optimizer.iterations) == 5


def test_iterations_count_once_per_step() -> None:
    model = dense_model()
    optimizer = optimizer_for(model, SGD())
    for step in range(3):
        apply(optimizer, random_gradients(model, step), model)
    assert int(optimizer.iterations) == 3


def test_a_kernel_without_a_gradient_stays(build: Build) -> None:
    model = build("functional")
    optimizer = optimizer_for(model, SGD(0.5))
    before = [v.kernel.numpy() for v in optimizer.clustered_variables]
    gradients = [tf.ones(v.shape) if "head" in v.path else None for v in model.trainable_variables]
    with pytest.warns(UserWarning, match="Gradients do not exist for variables"):
        optimizer.apply(gradients, model.trainable_variables)
    after = [v.kernel.numpy() for v in optimizer.clustered_variables]
    assert [np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [
        True,
        True,
        False,
    ]


def test_weights_the_plan_keeps_train_as_in_plain_keras() -> None:
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(6, name="a"), keras.layers.Dense(4, name="b")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    optimizer = ClusteringOptimizer(SGD(0.5), ClusterPlan.of(model, K, [Override("a", None)]))
    optimizer.build(model.trainable_variables)
    before, gradients = layers[0].kernel.numpy(), random_gradients(model)
    apply(optimizer, gradients, model)
    assert len(optimizer.clustered_variables) == 1
    np.testing.assert_allclose(
        layers[0].kernel.numpy(), before - 0.5 * gradients[0], rtol=0, atol=ROUNDING
    )


def test_the_plan_of_another_frozen_layer_is_left_out() -> None:
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Dense(6, name="a"), keras.layers.Dense(4, name="b")]
    model = keras.Sequential([keras.Input((6,)), *layers])
    layers[0].trainable = False
    optimizer = optimizer_for(model, SGD(0.5))
    assert [v.kernel.path for v in optimizer.clustered_variables] == [layers[1].kernel.path]


def test_an_optimizer_can_be_named_as_keras_names_them() -> None:
    model = dense_model()
    optimizer = optimizer_for(model, "adam")
    assert isinstance(optimizer.wrapped, keras.optimizers.Adam)


def test_a_loss_scale_inside_is_refused_and_outside_it_works() -> None:
    model = dense_model()
    plan = ClusterPlan.of(model, K)
    with pytest.raises(ModelError, match="the loss scale must stand outside the clustering"):
        ClusteringOptimizer(keras.optimizers.LossScaleOptimizer(SGD()), plan)

    optimizer = ClusteringOptimizer(SGD(0.5), plan)
    outer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=4.0)
    outer.build(model.trainable_variables)
    before, gradients = state(optimizer)[1], random_gradients(model)
    outer.apply([tf.constant(4 * g) for g in gradients], model.trainable_variables)
    np.testing.assert_allclose(
        state(optimizer)[1], before - 0.5 * gradients[0], rtol=0, atol=ROUNDING
    )
    assert_clustered(optimizer)


def test_accumulated_gradients_are_clipped_once_they_are_a_mean() -> None:
    rate, limit = 0.5, 0.25
    model = dense_model()
    inner = SGD(rate, clipvalue=limit, gradient_accumulation_steps=2)
    optimizer = optimizer_for(model, inner)
    _, original, centroids, indices = state(optimizer)
    first, second = (random_gradients(model, seed) for seed in (0, 1))

    apply(optimizer, first, model)
    np.testing.assert_array_equal(state(optimizer)[1], original)
    apply(optimizer, second, model)

    clipped = np.clip((first[0] + second[0]) / 2, -limit, limit)
    _, new_original, new_centroids, _ = state(optimizer)
    np.testing.assert_allclose(new_original, original - rate * clipped, rtol=0, atol=ROUNDING)
    sums = member_sums(clipped, indices, K)
    np.testing.assert_allclose(new_centroids, centroids - rate * sums, rtol=0, atol=9 * ROUNDING)
    assert int(optimizer.iterations) == 1
    assert_clustered(optimizer)


def test_moving_averages_with_accumulation_are_refused() -> None:
    inner = SGD(use_ema=True, gradient_accumulation_steps=2)
    with pytest.raises(ModelError, match="moving averages or accumulates gradients, got one that"):
        ClusteringOptimizer(inner, ClusterPlan.of(dense_model(), K))


def test_moving_averages_with_a_part_of_the_step_are_refused() -> None:
    with pytest.raises(ModelError, match=r"got use_ema with centroid_rate 0\.5"):
        ClusteringOptimizer(SGD(use_ema=True), ClusterPlan.of(dense_model(), K), centroid_rate=0.5)


@pytest.mark.parametrize("make", [lambda: SGD(0.5), lambda: keras.optimizers.Adam(0.05)])
def test_centroids_take_the_part_of_the_step_asked_for(make: Callable[[], Any]) -> None:
    part = 0.25
    steps = {}
    for rate in (1.0, part):
        model = dense_model()
        optimizer = optimizer_for(model, make(), centroid_rate=rate)
        before = state(optimizer)[2]
        apply(optimizer, random_gradients(model), model)
        assert_clustered(optimizer)
        steps[rate] = state(optimizer)[2] - before
    assert np.abs(steps[1.0]).min() > 0
    np.testing.assert_allclose(steps[part], part * steps[1.0], rtol=0, atol=9 * ROUNDING)


@pytest.mark.parametrize("scheduled", [False, True])
def test_damping_draws_weights_to_their_centroids_and_leaves_these_alone(scheduled: bool) -> None:
    rate, most = 0.5, 0.2
    schedule = keras.optimizers.schedules.PolynomialDecay(0.0, 2, most)
    model = dense_model()
    optimizer = optimizer_for(model, SGD(rate), damping=schedule if scheduled else most)
    for step in range(3):
        kernel, original, centroids, indices = state(optimizer)
        gradients = random_gradients(model, step)
        apply(optimizer, gradients, model)
        pull = most * min(1, step / 2) if scheduled else most
        moved = original - rate * (gradients[0] + pull * (original - kernel))
        sums = member_sums(gradients[0], indices, K)
        np.testing.assert_allclose(state(optimizer)[1], moved, rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(
            state(optimizer)[2], centroids - rate * sums, rtol=0, atol=24 * ROUNDING
        )
        assert_clustered(optimizer)


def test_negative_damping_is_refused() -> None:
    with pytest.raises(ModelError, match=r"damping must not be negative, got -0\.1"):
        ClusteringOptimizer(SGD(), ClusterPlan.of(dense_model(), K), damping=-0.1)


@pytest.mark.parametrize("every", [2, 3])
def test_indices_are_refreshed_every_so_many_steps(every: int) -> None:
    model = dense_model()
    optimizer = optimizer_for(model, SGD(0.5), refresh_every=every)
    before = state(optimizer)[3]
    for step in range(1, 7):
        apply(optimizer, random_gradients(model, step), model)
        kernel, original, centroids, indices = state(optimizer)
        np.testing.assert_array_equal(kernel, centroids[indices])
        if step % every:
            np.testing.assert_array_equal(indices, before)
        else:
            np.testing.assert_array_equal(indices, nearest_reference(original, centroids))
        before = indices
    optimizer.finalize_variable_values(model.trainable_variables)
    _, original, centroids, indices = state(optimizer)
    np.testing.assert_array_equal(indices, nearest_reference(original, centroids))


@pytest.mark.parametrize("every", [0, 1.5])
def test_refreshing_every_no_steps_or_a_part_of_one_is_refused(every: Any) -> None:
    with pytest.raises(ModelError, match=f"must be a number of steps, 1 or more, got {every}"):
        ClusteringOptimizer(SGD(), ClusterPlan.of(dense_model(), K), refresh_every=every)


@pytest.mark.parametrize("aggregation", list(GradientAggregation))
def test_every_channel_moves_its_own_values(aggregation: GradientAggregation) -> None:
    rate = 0.5
    model = dense_model()
    plan = ClusterPlan.of(model, 2, per_channel=True)
    optimizer = ClusteringOptimizer(SGD(rate), plan, aggregation=aggregation)
    optimizer.build(model.trainable_variables)
    _, original, centroids, indices = state(optimizer)
    assert centroids.shape == (4, 2)
    gradients = random_gradients(model)

    apply(optimizer, gradients, model)

    kernel, new_original, new_centroids, new_indices = state(optimizer)
    np.testing.assert_allclose(new_original, original - rate * gradients[0], atol=ROUNDING)
    for channel in range(4):
        column, members = gradients[0][:, channel], indices[:, channel]
        sums = member_sums(column, members, 2)
        if aggregation is GradientAggregation.AVG:
            sums /= np.maximum(np.bincount(members, minlength=2), 1)
        expected = centroids[channel] - rate * sums
        np.testing.assert_allclose(new_centroids[channel], expected, atol=9 * ROUNDING)
        near = nearest_reference(new_original[:, channel], new_centroids[channel])
        np.testing.assert_array_equal(new_indices[:, channel], near)
        np.testing.assert_array_equal(kernel[:, channel], new_centroids[channel][near])


def test_a_pruned_kernel_keeps_its_zeros() -> None:
    model = dense_model()
    kernel = model.layers[0].kernel
    pruned = np.arange(24).reshape(6, 4) % 3 == 0
    kernel.assign(np.where(pruned, 0, kernel.numpy()))
    optimizer = optimizer_for(model, keras.optimizers.Adam(0.05))
    for step in range(5):
        apply(optimizer, random_gradients(model, step), model)
    assert_clustered(optimizer)
    values, original, centroids, _ = state(optimizer)
    np.testing.assert_array_equal(values[pruned], 0)
    np.testing.assert_array_equal(original[pruned], 0)
    assert np.count_nonzero(centroids == 0) == 1
    assert np.count_nonzero(values) > 0


@pytest.mark.parametrize("per_channel", [False, True])
def test_values_on_the_grid_of_int8_are_whole_steps(per_channel: bool) -> None:
    model = dense_model()
    plan = ClusterPlan.of(model, 2 if per_channel else K, per_channel=per_channel, int8=True)
    optimizer = ClusteringOptimizer(keras.optimizers.Adam(0.05), plan)
    optimizer.build(model.trainable_variables)
    for step in range(5):
        apply(optimizer, random_gradients(model, step), model)
        kernel, _, centroids, _ = state(optimizer)
        steps = kernel / (np.abs(centroids).max(axis=-1) / 127)
        np.testing.assert_allclose(steps, np.round(steps), rtol=0, atol=1e-4)
        assert np.abs(np.round(steps)).max() <= 127
        distance = np.abs(state(optimizer)[1] - kernel)
        nearest = np.abs(state(optimizer)[1][..., None] - centroids).min(axis=-1)
        np.testing.assert_allclose(distance, nearest, rtol=0, atol=np.abs(centroids).max() / 127)


def test_an_embeddings_sparse_gradient_is_taken() -> None:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((5,), dtype="int32"), keras.layers.Embedding(9, 4)])
    optimizer = optimizer_for(model, SGD(0.5))
    before = state(optimizer)[1]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model(np.array([[1, 1, 2, 8, 1]])))
    (gradient,) = tape.gradient(loss, model.trainable_variables)
    assert isinstance(gradient, tf.IndexedSlices)
    optimizer.apply([gradient], model.trainable_variables)
    times = np.bincount([1, 1, 2, 8, 1], minlength=9)[:, None]
    np.testing.assert_allclose(state(optimizer)[1], before - 0.5 * times, rtol=0, atol=ROUNDING)
    assert_clustered(optimizer)


def test_a_loss_scale_factor_is_taken_out_of_the_gradients_once() -> None:
    model = dense_model()
    optimizer = optimizer_for(model, SGD(0.5, loss_scale_factor=8.0))
    before, gradients = state(optimizer)[1], random_gradients(model)
    assert float(optimizer.scale_loss(1.0)) == 8.0
    apply(optimizer, [8 * g for g in gradients], model)
    np.testing.assert_allclose(
        state(optimizer)[1], before - 0.5 * gradients[0], rtol=0, atol=ROUNDING
    )


def test_an_unbuilt_optimizer_cannot_be_saved_or_built_inside_a_traced_step() -> None:
    model = dense_model()
    optimizer = ClusteringOptimizer(SGD(), ClusterPlan.of(model, K))
    with pytest.raises(ModelError, match="can be saved once it is built"):
        optimizer.get_config()
    build = tf.function(lambda: optimizer.build(model.trainable_variables))
    with pytest.raises(ModelError, match="must be built before the traced training step"):
        build()


def test_its_configuration_is_plain_data_that_makes_the_same_optimizer() -> None:
    model = dense_model()
    inner = keras.optimizers.Adam(0.25, clipnorm=2.0, weight_decay=0.5)
    optimizer = optimizer_for(
        model,
        inner,
        refresh=False,
        aggregation=GradientAggregation.AVG,
        damping=keras.optimizers.schedules.PolynomialDecay(0.0, 9, 0.5),
        name="mine",
    )
    config = keras.saving.serialize_keras_object(optimizer)
    copy = keras.saving.deserialize_keras_object(config)
    copy.build(model.trainable_variables)
    assert copy.get_config() == optimizer.get_config()
    assert float(copy.damping(9)) == 0.5
    assert (copy.refresh, copy.aggregation, copy.name) == (False, GradientAggregation.AVG, "mine")
    assert copy.clipnorm == 2.0
    assert len(state(copy)[2]) == K


def test_the_plain_optimizer_has_the_settings_the_user_gave() -> None:
    model = dense_model()
    inner = keras.optimizers.Adam(0.25, clipnorm=2.0, weight_decay=0.5, loss_scale_factor=4.0)
    settings = keras.optimizers.Adam.from_config(inner.get_config()).get_config()
    plain = optimizer_for(model, inner).plain_optimizer()
    assert type(plain) is keras.optimizers.Adam
    assert plain.get_config() == settings
    assert not plain.built


def test_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    plan = ClusterPlan.of(dense_model(), K)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ModelError, match="on the tensorflow backend, got 'jax'; set the env"):
        ClusteringOptimizer(SGD(), plan)
