"""The reference: steps of TensorFlow Model Optimization's weight clustering on a small model, in a process of its own.

python tfmot_steps.py START.npz END.npz, with the `peers` extra. START: batches x and y, rate, weights and centroids. END: original
weights, centroids and indices of every kernel after every step.
"""

from __future__ import annotations

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras as keras


def main(start: str, end: str) -> None:
    """Run the steps."""
    given = np.load(start)
    tfmot_clustering = tfmot.clustering.keras
    model = keras.Sequential(
        [
            keras.layers.Conv2D(8, 3, activation="relu", input_shape=given["x"].shape[2:]),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    model.set_weights([given[f"weight{n}"] for n in range(4)])
    clusters = len(given["centroids0"])
    clustered = tfmot_clustering.cluster_weights(
        model,
        number_of_clusters=clusters,
        cluster_centroids_init=tfmot_clustering.CentroidInitialization.LINEAR,
    )
    wrappers = [layer for layer in clustered.layers if layer.cluster_centroids]
    for number, wrapper in enumerate(wrappers):
        wrapper.cluster_centroids["kernel"].assign(given[f"centroids{number}"])
    optimizer = keras.optimizers.SGD(float(given["rate"]))

    @tf.function
    def step(x: tf.Tensor, y: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(clustered(x, training=True) - y))
        variables = clustered.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))

    result = {}
    for number, (x, y) in enumerate(zip(given["x"], given["y"], strict=True)):
        step(tf.constant(x), tf.constant(y))
        clustered(x, training=True)  # tfmot refreshes its indices in the forward pass
        for place, wrapper in enumerate(wrappers):
            result[f"original{place}-{number}"] = wrapper.original_clusterable_weights[
                "kernel"
            ].numpy()
            result[f"centroids{place}-{number}"] = wrapper.cluster_centroids["kernel"].numpy()
            result[f"indices{place}-{number}"] = wrapper.pulling_indices["kernel"].numpy()
    np.savez(end, **result)


if __name__ == "__main__":
    main(*sys.argv[1:])
