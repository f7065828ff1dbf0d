"""A process of test_distribution: trains a clustered model and saves what every replica holds.

python distributed_training.py one|mirrored|workers fit|averages|loop FILE.npz; TF_CONFIG names the workers.
averages: as fit, with moving averages that are evaluated after every epoch.
"""

from __future__ import annotations

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf

from edgepalette import ClusterPlan, SwapEMAWeights, cluster_weights

GLOBAL_BATCH, EPOCHS = 32, 3
COLLECTIVES = ("CollectiveReduce", "CollectiveGather", "CollectiveBcast")


def make_strategy(kind: str) -> tf.distribute.Strategy:
    if kind == "mirrored":
        cpu = tf.config.list_physical_devices("CPU")[0]
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    if kind == "workers":
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def main(kind: str, how: str, file: str) -> None:
    strategy = make_strategy(kind)
    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((12,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(4)]
        )
        averages = how == "averages"
        model.compile(keras.optimizers.Adam(0.01, use_ema=averages), "mse", jit_compile=False)
        rate = 1.0 if averages else 0.5
        cluster_weights(model, ClusterPlan.of(model, 4), centroid_rate=rate, damping=0.05)
    random = np.random.default_rng(0)
    x = random.normal(size=(256, 12)).astype(np.float32)
    y = random.normal(size=(256, 4)).astype(np.float32)
    losses: list[float] = []
    if how != "loop":
        evaluated = {"validation_data": (x, y), "callbacks": [SwapEMAWeights()]} if averages else {}
        history = model.fit(
            x, y, batch_size=GLOBAL_BATCH, epochs=EPOCHS, shuffle=False, verbose=0, **evaluated
        ).history
        losses = history.get("val_loss", [])
        reductions = 0
    else:
        reductions = loop(model, strategy, x, y)
    saved = {"reductions": np.array(reductions), "loss-0-0": np.array(losses)}
    for number, variable in enumerate(model.optimizer.clustered_variables):
        for name in ("kernel", "original", "centroids", "indices"):
            value = getattr(variable, name).value
            for replica, part in enumerate(getattr(value, "values", [value])):
                saved[f"{name}-{number}-{replica}"] = part.numpy()
    np.savez(file, **saved)


def loop(model: object, strategy: tf.distribute.Strategy, x: np.ndarray, y: np.ndarray) -> int:
    """A loop of one's own; Keras' `fit` does not run under MultiWorkerMirroredStrategy. Reductions in a step."""
    replicas = strategy.num_replicas_in_sync
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(GLOBAL_BATCH).with_options(options)

    def step(inputs: tf.Tensor, labels: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            error = tf.square(model(inputs, training=True) - labels)
            loss = tf.reduce_mean(error) / replicas
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        model.optimizer.apply(gradients, variables)

    @tf.function
    def train(inputs: tf.Tensor, labels: tf.Tensor) -> None:
        strategy.run(step, args=(inputs, labels))

    reductions = 0
    for _ in range(EPOCHS):
        for inputs, labels in strategy.experimental_distribute_dataset(data):
            if not reductions:
                operations = train.get_concrete_function(inputs, labels).graph.get_operations()
                reductions = sum(operation.type.startswith(COLLECTIVES) for operation in operations)
            train(inputs, labels)
    return reductions


if __name__ == "__main__":
    main(*sys.argv[1:])
