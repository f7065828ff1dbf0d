"""Training on what another model computes instead of labels: its outputs, and its hidden activations as well.

Few shared values cannot repeat a network's weights, but what its layers compute (Hinton et al. 2015, Distilling the
Knowledge in a Neural Network; Romero et al. 2015, FitNets).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from .twin import graph_of

# what hidden activations count beside the outputs' loss, in their mean
HIDDEN_WEIGHT = 0.7
# layers that are an activation and nothing else
ACTIVATIONS = frozenset({"ELU", "LeakyReLU", "PReLU", "ReLU"})
# these say how sure a model is, or gate; they are no features
NO_FEATURES = (None, keras.activations.linear, keras.activations.softmax, keras.activations.sigmoid)
# keeps the distance a number where a teacher's activation is all zero
LEAST_ENERGY = 1e-12


def with_activations(model: Any) -> Any:
    """A model of the same layers that gives its output, then its hidden activations; the model itself if it has none.

    Hidden activations are outputs of rectifiers and the like in the graph of a functional or Sequential model of one
    output; nested models are not looked into.
    """
    if not getattr(model, "inputs", None) or len(model.outputs) != 1:
        return model
    graph = graph_of(model)
    found = {
        id(tensor): tensor
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in graph._nodes_by_depth[depth]
        if _activates(node.operation)
        for tensor in node.outputs
    }
    (end,) = graph.outputs
    hidden = [tensor for tensor in found.values() if tensor is not end]
    return keras.Model(graph.input, [end, *hidden], name=model.name) if hidden else model


def _activates(layer: Any) -> bool:
    if type(layer).__name__ in ACTIVATIONS:
        return True
    return getattr(layer, "activation", None) not in NO_FEATURES


class Student(keras.Model):
    """A model that `fit` trains on a teacher's outputs, whatever labels it is given. Never saved; train it, use `model`.

    model, teacher: take the same inputs and give the same outputs. The first ones are compared by the compiled loss,
    the others (`with_activations`) by their squared distance as a part of the teacher's mean square.
    as_labels: from the teacher's first output to what the loss takes for labels, softmax for logits.
    mirrored: the labels are the mean of those for images (N, height, width, channels) and for their mirror images.
    hidden_weight: what the mean of those distances counts beside the loss.
    """

    def __init__(
        self,
        model: Any,
        teacher: Any,
        as_labels: Callable[[Any], Any] = tf.identity,
        mirrored: bool = False,
        hidden_weight: float = HIDDEN_WEIGHT,
    ) -> None:
        super().__init__(name=model.name)
        self.model = model
        self.hidden_weight = hidden_weight

        def outputs(inputs: Any) -> list[Any]:
            labels, *hidden = keras.tree.flatten(teacher(inputs, training=False))
            return [as_labels(labels), *hidden]

        def taught(inputs: Any) -> list[Any]:
            labels, *hidden = outputs(inputs)
            if mirrored:
                labels = (labels + outputs(inputs[:, :, ::-1])[0]) / 2
            return [labels, *hidden]

        # a function hides the teacher: its weights are not this model's
        self.taught = taught
        self.built = model.built

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The model's."""
        return self.model(inputs, training=training)

    def train_step(self, data: Any) -> Any:
        """Keras', on what the teacher gives."""
        return super().train_step(self._by_teacher(data))

    def test_step(self, data: Any) -> Any:
        """Keras', on what the teacher gives as well: how far from it the model is."""
        return super().test_step(self._by_teacher(data))

    def _by_teacher(self, data: Any) -> tuple[Any, Any, Any]:
        inputs, _, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        return inputs, self.taught(inputs), sample_weight

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        """The compiled loss of the output, and the hidden activations' distance."""
        outputs, targets = keras.tree.flatten(y_pred), keras.tree.flatten(y)
        loss = super().compute_loss(
            x=x, y=targets[0], y_pred=outputs[0], sample_weight=sample_weight, training=training
        )
        apart = [_distance(a, b) for a, b in zip(outputs[1:], targets[1:], strict=True)]
        return loss + self.hidden_weight * tf.add_n(apart) / len(apart) if apart else loss

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """The compiled metrics of the output."""
        output, target = keras.tree.flatten(y_pred)[0], keras.tree.flatten(y)[0]
        return super().compute_metrics(x, target, output, sample_weight)


def _distance(ours: Any, theirs: Any) -> Any:
    ours, theirs = tf.cast(ours, tf.float32), tf.cast(theirs, tf.float32)
    energy = tf.reduce_mean(tf.square(theirs)) + LEAST_ENERGY
    return tf.reduce_mean(tf.square(ours - theirs)) / energy
