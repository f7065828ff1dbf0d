"""A palette .onnx back to a plain one: what its palettes' nodes compute stands in the file as it is."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from ..errors import FormatError
from .onnx_file import check_onnx, read_onnx, tensor_values
from .onnx_palette import STEP_NAME, captured_names, replace_entries

# a byte holds at most 8 codes, and each passes a dozen steps of up to 4 bytes
MAX_EXPANSION = 512
# of one step: 8 codes of a byte as values of 8 bytes
MAX_OUTPUT = 64
# what unpacks codes and looks their values up
UNPACKING = frozenset({"Add", "BitShift", "Cast", "Gather", "Mod", "Mul", "Reshape", "Slice"})


def expand_onnx(data: bytes) -> bytes:
    """The file with initializers in place of what is computed from packed codes alone; other nodes stay.

    Takes at most 2048 times the file's size and 4 MB of memory. Raises FormatError for a file that is damaged or takes
    more than MAX_EXPANSION times its size to unpack.
    """
    proto = read_onnx(data)
    check_onnx(data)
    graph = proto.graph
    constants = Constants(graph, MAX_EXPANSION * len(data))
    kept = [node for node in graph.node if not constants.take(node)]
    if len(kept) == len(graph.node):
        return data
    read = {name for node in kept for name in (*node.input, *captured_names(node))}
    read |= {output.name for output in graph.output}
    initializers = [
        initializer
        for initializer in graph.initializer
        if initializer.name in read or initializer.name not in constants.used
    ]
    initializers += [
        numpy_helper.from_array(values, name)
        for name, values in constants.computed.items()
        if name in read
    ]
    replace_entries(graph.node, kept)
    replace_entries(graph.initializer, initializers)
    return bytes(proto.SerializeToString(deterministic=True))


class Constants:
    """Values known without running the model.

    computed: by name, those made from packed codes. used: what made them. whole: weights, at which a palette ends.
    """

    def __init__(self, graph: Any, budget: int) -> None:
        self.initializers = {initializer.name: initializer for initializer in graph.initializer}
        # an initializer that is an input as well is a default, not a constant
        for value in graph.input:
            self.initializers.pop(value.name, None)
        self.budget = budget
        self.largest = budget // MAX_EXPANSION * MAX_OUTPUT
        self.computed: dict[str, NDArray[Any]] = {}
        self.whole: set[str] = set()
        self.used: set[str] = set()

    def take(self, node: Any) -> bool:
        """Compute a node's output if it is a step of a palette."""
        if node.domain or node.op_type not in UNPACKING or len(node.output) != 1:
            return False
        # no palette holds strings, whose size none can foretell
        if node.op_type == "Cast" and _attribute(node, "to") == TensorProto.STRING:
            return False
        names = [name for name in node.input if name]
        if not all(name in self.computed or name in self.initializers for name in names):
            return False
        if self.whole.intersection(names):
            return False
        if not any(name in self.computed or self._is_packed(name) for name in names):
            return False
        inputs = {name: self._value(name) for name in names}
        self._spend(node, [inputs[name] for name in names])
        try:
            (output,) = ReferenceEvaluator(node).run(None, inputs)
        except Exception as error:  # whatever numpy says of shapes and indices that do not fit
            raise FormatError(
                f"a palette cannot be unpacked ({error}); the file is damaged"
            ) from None
        self.computed[node.output[0]] = np.asarray(output)
        self.used.update(names)
        if any(map(STEP_NAME.fullmatch, names)) and not STEP_NAME.fullmatch(node.output[0]):
            self.whole.add(node.output[0])
        return True

    def _is_packed(self, name: str) -> bool:
        return bool(self.initializers[name].data_type == TensorProto.UINT8)

    def _value(self, name: str) -> NDArray[Any]:
        if name in self.computed:
            return self.computed[name]
        return tensor_values(self.initializers[name])

    def _spend(self, node: Any, inputs: list[NDArray[Any]]) -> None:
        """Count the output's bytes before they are made."""
        operator, axis = node.op_type, _attribute(node, "axis")
        if operator == "Gather":
            if len(inputs) != 2 or not -inputs[0].ndim <= axis < inputs[0].ndim:
                shapes = " and ".join(str(part.shape) for part in inputs)
                raise FormatError(
                    f"a Gather must have two inputs and an axis of the first, got axis {axis} of {shapes}; "
                    "the file is damaged"
                )
            rows = inputs[0].size // max(1, inputs[0].shape[axis])
            size = inputs[1].size * rows * inputs[0].itemsize
        elif operator in ("Reshape", "Slice"):
            size = inputs[0].nbytes
        else:
            try:
                shape = np.broadcast_shapes(*(part.shape for part in inputs))
            except ValueError as error:
                raise FormatError(
                    f"a palette cannot be unpacked ({error}); the file is damaged"
                ) from None
            # Cast makes 8 bytes of one at most
            size = int(np.prod(shape, dtype=object)) * max(
                8 if operator == "Cast" else part.itemsize for part in inputs
            )
        self.budget -= size
        if self.budget < 0 or size > self.largest:
            raise FormatError(
                f"the file must unpack within {MAX_EXPANSION} times its size, each step within {MAX_OUTPUT} times, "
                "got more; it is damaged"
            )


def _attribute(node: Any, name: str) -> int:
    """A whole number among a node's attributes, 0 if it is not there."""
    return next((int(entry.i) for entry in node.attribute if entry.name == name), 0)
