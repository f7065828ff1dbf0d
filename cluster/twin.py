"""A twin of a model that shares its layers and rounds activations to 8 bits, as an int8 runtime does: train the twin."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from ..errors import ModelError
from .backend import require_tensorflow_backend

BITS = 8
# how slowly a range follows the batches (Jacob et al. 2018, Quantization and Training of Neural Networks)
MOMENTUM = 0.99
# XLA makes NaN of a range that is empty, as that of activations that are all zero
LEAST_HIGH = 1e-20
# layers whose output has the scale of their input, or is none at all on a device
PASSING = frozenset(
    {
        "AveragePooling1D",
        "AveragePooling2D",
        "Cropping1D",
        "Cropping2D",
        "Dropout",
        "Flatten",
        "GlobalMaxPooling1D",
        "GlobalMaxPooling2D",
        "InputLayer",
        "MaxPooling1D",
        "MaxPooling2D",
        "Permute",
        "Reshape",
        "SpatialDropout1D",
        "SpatialDropout2D",
        "ZeroPadding1D",
        "ZeroPadding2D",
    }
)
# operators a following BatchNorm is folded into, and those a following ReLU is
LINEAR = frozenset(
    {
        "Conv1D",
        "Conv1DTranspose",
        "Conv2D",
        "Conv2DTranspose",
        "Dense",
        "DepthwiseConv1D",
        "DepthwiseConv2D",
        "SeparableConv1D",
        "SeparableConv2D",
    }
)
BEFORE_RELU = LINEAR | {"Add", "BatchNormalization", "Multiply", "Subtract"}


@keras.saving.register_keras_serializable("edgepalette")
class FakeQuantized(keras.layers.Layer):
    """Its input rounded to the 256 values of a range that follows the batches it was trained on; gradients pass inside.

    Until it was trained on a batch it changes nothing. Under replicas the range is their mean.
    """

    def build(self, input_shape: Any) -> None:
        """Make the range and the number of batches it has seen."""
        self.low, self.high, self.batches = (
            self.add_weight(
                shape=(),
                initializer="zeros",
                dtype="float32",
                # a range in half precision has no 256 even steps
                autocast=False,
                trainable=False,
                aggregation="mean",
                name=name,
            )
            for name in ("low", "high", "batches")
        )

    def call(self, inputs: Any, training: bool = False) -> Any:
        """The rounded inputs, in their own type."""
        values = tf.cast(inputs, tf.float32)

        def rounded() -> Any:
            high = tf.maximum(self.high.value, LEAST_HIGH)
            return tf.quantization.fake_quant_with_min_max_vars(values, self.low.value, high, BITS)

        if training:
            self._follow(values)
            return tf.cast(rounded(), inputs.dtype)
        found = tf.cond(self.batches.value > 0, rounded, lambda: tf.identity(values))
        return tf.cast(found, inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """As the input's."""
        return input_shape

    def _follow(self, values: Any) -> None:
        """Move the range towards this batch's; the first batch's is taken whole."""
        old = tf.where(self.batches.value > 0, MOMENTUM, 0.0)
        # an affine grid holds zero exactly
        low, high = (tf.minimum(tf.reduce_min(values), 0), tf.maximum(tf.reduce_max(values), 0))
        self.low.assign(old * self.low.value + (1 - old) * low)
        self.high.assign(old * self.high.value + (1 - old) * high)
        self.batches.assign_add(1.0)


@dataclass(frozen=True, eq=False)
class Twin:
    """model: shares every layer with the one it is a twin of. rounded: layers whose outputs it rounds.

    unrounded: nested models and layers with activations of their own inside, whose inner values stay float.
    """

    model: Any
    rounded: tuple[str, ...]
    unrounded: tuple[str, ...]


def int8_twin(model: Any) -> Twin:
    """The twin of a functional or Sequential model.

    Inputs and outputs of operators are rounded where TFLite's int8 form has a tensor: not between a convolution, its
    BatchNorm and its ReLU, not after what only moves or pools values, and not at the model's outputs, whose loss wants
    them whole. Weights are not rounded: that is `ClusterPlan.of(…, int8=True)`.
    Raises ModelError for a model whose graph Keras does not know.
    """
    require_tensorflow_backend()
    if not getattr(model, "inputs", None):
        raise ModelError(
            f"training as int8 runs needs a functional or Sequential model, got {type(model).__name__}; "
            "wrap it: keras.Model(inputs, model(inputs)) rounds its inputs at least"
        )
    plain = graph_of(model)
    rounded = _rounded_layers(plain)
    inputs = [keras.Input(batch_shape=x.shape, dtype=x.dtype, name=x.name) for x in plain.inputs]
    entries = {id(x): FakeQuantized()(x) for x in inputs if "float" in x.dtype}

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = keras.tree.map_structure(lambda x: entries.get(id(x), x), (args, kwargs))
        outputs = layer(*args, **kwargs)
        if layer.name not in rounded:
            return outputs
        return keras.tree.map_structure(lambda x: FakeQuantized()(x), outputs)

    twin = keras.models.clone_model(
        plain,
        input_tensors=keras.tree.pack_sequence_as(plain.input, inputs),
        clone_function=lambda layer: layer,
        call_function=call,
    )
    inner = tuple(layer.name for layer in plain.layers if _hides_values(layer))
    return Twin(twin, tuple(sorted(rounded)), inner)


def graph_of(model: Any) -> Any:
    """A functional model of the same layers as a functional or Sequential one, called alike and never compiled."""
    sequential = isinstance(model, keras.Sequential)
    start, end = (model.inputs[0], model.outputs[0]) if sequential else (model.input, model.output)
    return keras.Model(start, end, name=model.name)


def _rounded_layers(model: Any) -> frozenset[str]:
    """Names of the layers whose outputs are tensors of an int8 file."""
    readers: dict[int, list[Any]] = defaultdict(list)
    nodes = [node for layer in model._nodes_by_depth.values() for node in layer]
    for node in nodes:
        for tensor in node.arguments.keras_tensors:
            readers[id(tensor)].append(node.operation)
    # an output that others read is a tensor of the file like any other
    ends = {id(tensor) for tensor in model.outputs if not readers[id(tensor)]}
    return frozenset(
        node.operation.name
        for node in nodes
        for tensor in node.outputs
        if id(tensor) not in ends and _is_rounded(node.operation, readers[id(tensor)])
    )


def _is_rounded(layer: Any, readers: list[Any]) -> bool:
    if type(layer).__name__ in PASSING:
        return False
    return not readers or not all(_is_fused(layer, reader) for reader in readers)


def _is_fused(layer: Any, reader: Any) -> bool:
    """Whether a runtime computes `reader` in the operator of `layer`."""
    kind, after = type(layer).__name__, type(reader).__name__
    if getattr(layer, "activation", None) not in (None, keras.activations.linear):
        return False
    if after == "BatchNormalization":
        return kind in LINEAR
    rectifies = after == "ReLU" or (
        after == "Activation"
        and reader.activation in (keras.activations.relu, keras.activations.relu6)
    )
    return rectifies and kind in BEFORE_RELU


def _hides_values(layer: Any) -> bool:
    """Whether values inside a layer are out of the twin's reach: a model's, a cell's, an activation's after its sum."""
    own = getattr(layer, "activation", None)
    simple = (None, keras.activations.linear, keras.activations.relu, keras.activations.relu6)
    inside = isinstance(layer, keras.Model) or bool(getattr(layer, "_layers", ()))
    return inside or (type(layer).__name__ != "Activation" and own not in simple)
