"""CMSIS-NN on the layers of a model: the same int8 numbers, dense, through the functions TFLM's kernels call.

The layers become calls of a firmware of their own, so that the emulator builds, runs and counts them as it does ours. Each
reads the input the model gives it, not what CMSIS-NN made of the layers before. Sums of fully-connected weights, which a
Cortex-M55 reads, are constants: TFLM makes them once, before the first inference.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgepalette.errors import TargetError
from edgepalette.evaluate import host_c
from edgepalette.evaluate.activations import telling
from edgepalette.evaluate.cortex_m.emulator import Core, emulate
from edgepalette.evaluate.metric import differing_bytes
from edgepalette.export.firmware.call import (
    Array,
    Call,
    Share,
    Struct,
    fused_range,
    name_of,
    pointer,
    scratch_of,
)
from edgepalette.export.firmware.emit import emit, flash_bytes
from edgepalette.export.firmware.firmware import Firmware, generate_firmware
from edgepalette.export.firmware.graph import Graph, Node
from edgepalette.export.firmware.plan import plan_arena
from edgepalette.export.firmware.weights import per_channel
from edgepalette.export.firmware.window import window
from edgepalette.export.tflite_schema import read_model, write_model

ADDRESS = "github.com/ARM-software/CMSIS-NN"
HEADER = Path("Include", "arm_nnfunctions.h")
# the newest of the functions called
NEWEST = Path("Source", "FullyConnectedFunctions", "arm_fully_connected_wrapper_s8.c")
FOLDERS = ("ConvolutionFunctions", "FullyConnectedFunctions", "NNSupportFunctions", "TransposeFunctions")  # fmt: skip
# of other types, or of other operators
LEFT_OUT = ("_f16", "_f32", "_s4", "_lstm_")
# ours are compiled with the first; the other is the default of CMSIS-NN's own CMakeLists.txt
OPTIMIZATIONS = ("-O2", "-Ofast")
# room for as many channels, at least: those a Cortex-M55 takes at a time in a depthwise convolution are fewer
CHANNELS = 128


@dataclass(frozen=True)
class Peer:
    """What takes an operator's place: function, its parameters' type, the axis of the weights' channels.

    stride, dilation: slots of (height, width) in the options table, None without a window; activation: its slot.
    """

    function: str
    params: str
    axis: int
    activation: int
    stride: tuple[int, int] | None = None
    dilation: tuple[int, int] | None = None


PEERS = {
    "CONV_2D": Peer("arm_convolve_wrapper_s8", "cmsis_nn_conv_params", 0, 3, (2, 1), (5, 4)),
    "DEPTHWISE_CONV_2D": Peer("arm_depthwise_conv_wrapper_s8", "cmsis_nn_dw_conv_params", 3, 4, (2, 1), (6, 5)),
    "FULLY_CONNECTED": Peer("arm_fully_connected_wrapper_s8", "cmsis_nn_fc_params", 0, 0),
}  # fmt: skip


@dataclass(frozen=True)
class Counted:
    """A layer by CMSIS-NN. differing: of `compared` bytes of its output, those that ours has otherwise."""

    instructions: int
    differing: int
    compared: int


def sources(folder: Path) -> dict[str, str]:
    """Text by name of what int8 layers need of a checkout. Raises TargetError for any other folder."""
    for file in (HEADER, NEWEST):
        if not (folder / file).is_file():
            raise TargetError(
                f"--cmsis-nn must be a checkout of {ADDRESS}, 7.0.0 or newer, got {folder}, which has no {file}"
            )
    files = (file for part in FOLDERS for file in sorted((folder / "Source" / part).glob("*.c")))
    return {f.name: f.read_text() for f in files if not any(part in f.stem for part in LEFT_OUT)}


def revision(folder: Path) -> str:
    """As its header says it."""
    found = dict(re.findall(r"\$(Date|Revision):\s*(.*\S)", (folder / HEADER).read_text()))
    return f"arm_nnfunctions.h {found.get('Revision', 'of no version')}, {found.get('Date', 'no date')}"


def layer_values(
    data: bytes, nodes: Sequence[Node], inputs: NDArray[np.int8]
) -> dict[int, NDArray[np.int8]]:
    """What inputs and outputs of the layers hold in our firmware of a .tflite, by tensor. inputs: (1, …) raw, of the model.

    The firmware runs on this computer: no board would hold all values at a time.
    """
    model = read_model(data)
    wanted = {value.number for node in nodes for value in (node.operand(0), node.output)}
    given = model.subgraphs[0].inputs
    assert given is not None  # noqa: S101 # models of one input
    numbers = sorted(wanted - {int(given[0])})
    told = generate_firmware(write_model(telling(model, numbers)))
    with tempfile.TemporaryDirectory(prefix="edgepalette-bench-") as folder:
        found = host_c.run(host_c.build(told, Path(folder)), told, [inputs])
    return {int(given[0]): inputs, **dict(zip(numbers, found, strict=True))}


def count_layers(
    folder: Path,
    nodes: Sequence[Node],
    values: Mapping[int, NDArray[np.int8]],
    core: Core,
    built: Path,
) -> dict[int, dict[str, Counted]]:
    """Figures by the layer's place in the file and compiler option. folder: the checkout; built: where to build.

    Raises TargetError if a tool is missing or refuses.
    """
    made = layers_firmware(nodes, sources(folder))
    inputs = [values[node.operand(0).number] for node in nodes]
    layers: dict[int, dict[str, Counted]] = {node.place: {} for node in nodes}
    headers = (f"-I{(folder / HEADER.parent).resolve()}", "-include", HEADER.name, "-include", "stdlib.h")  # fmt: skip
    for option in OPTIMIZATIONS:
        done = emulate(made, core, inputs, built / option.strip("-"), (option, *headers))
        # the last part, which stops or does nothing, is no layer
        for node, output, count in zip(nodes, done.outputs, done.parts[:-1], strict=True):
            ours = values[node.output.number]
            layers[node.place][option] = Counted(
                count, differing_bytes(output.reshape(ours.shape), ours), ours.nbytes
            )
    return layers


def layers_firmware(nodes: Sequence[Node], files: Mapping[str, str]) -> Firmware:
    """A part per layer, from input n to output n, and a last one that stops the program if any had too little scratch."""
    own = [_alone(node, place) for place, node in enumerate(nodes)]
    graph = Graph(
        tuple(node.operand(0) for node in own), tuple(node.output for node in own), tuple(own)
    )
    calls = [_call(node) for node in own]
    calls.append(_check(calls))
    arena = plan_arena(graph, calls)
    text = emit(graph, calls, arena, "layers", f"Layers of a model by CMSIS-NN, {ADDRESS}.")
    ours = {name: text[name] for name in ("layers.c", "layers.h")}
    scratch = max(call.scratch for call in calls)
    operators = tuple(call.node.op for call in calls)
    return Firmware("layers", graph, {**files, **ours}, flash_bytes(calls), arena.size, scratch, operators, arena.size)  # fmt: skip


def _alone(node: Node, place: int) -> Node:
    """The layer with tensors of its own, whichever others read or give them in the model."""
    data = replace(node.operand(0), number=2 * place)
    output = replace(node.output, number=2 * place + 1)
    return replace(node, place=place, inputs=(data, *node.inputs[1:]), output=output)


def _call(node: Node) -> Call:
    peer, name = PEERS[node.op], name_of(node)
    data, weights = node.operand(0), node.operand(1)
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    values = np.asarray(weights.data, np.int8)
    numbers = per_channel(node, data, weights, values, peer.axis, bias, zero_taken=False)
    given = "NULL" if bias is None else f"{name}_bias"
    # biases that were not given are zeros, which TFLM does not hand on
    arrays = [_int32(a) for a in numbers.arrays if bias is not None or a.name != f"{name}_bias"]
    arrays.append(Array(f"{name}_weights", values.reshape(-1), weights.dimensions, Share.WEIGHTS))
    if node.op == "FULLY_CONNECTED":
        sums, *_ = per_channel(node, data, weights, values, peer.axis, bias).arrays
        arrays.append(replace(sums, name=f"{name}_sums"))
        scratch, context = 0, f"(void *){name}_sums, {sums.values.nbytes}"
    else:
        scratch = 4 * int(np.prod(weights.shape[1:3])) * max(data.shape[3], CHANNELS) + 64
        context = f"{scratch_of(node)}, {scratch}"
    structs = (*_dims(node), _params(node, peer), _quantization(node))
    text = (
        f"{peer.function}(&(cmsis_nn_context){{{context}}}, &{name}_params, &{name}_quantization, &{name}_input, {pointer(data)}, "
        f"&{name}_filter, {name}_weights, &{name}_channels, {given}, &{name}_output, {pointer(node.output)});"
    )
    return Call(node, None, (text,), (*arrays, *structs), scratch)


def _check(calls: Sequence[Call]) -> Call:
    """Compares the scratch of each layer with what CMSIS-NN asks for."""
    lines = []
    for call in calls:
        if call.scratch:
            name = name_of(call.node)
            asked = ", ".join(f"&{name}_{part}" for part in ("params", "input", "filter", "output"))
            function = PEERS[call.node.op].function
            lines += [f"if ({function}_get_buffer_size({asked}) > {call.scratch})", "    abort();"]
    value = replace(calls[0].node.output, number=2 * len(calls), shape=(1,))
    return Call(Node(len(calls), "CHECK", (), value, None), None, tuple(lines))


def _dims(node: Node) -> tuple[Struct, ...]:
    """Shapes: batches or output channels, height, width, channels."""
    shapes: dict[str, tuple[int, ...]]
    weights = node.operand(1).shape
    if node.op == "FULLY_CONNECTED":
        outputs, inputs = weights
        batches = node.output.size // outputs
        shapes = {
            "input": (batches, 1, 1, inputs),
            "filter": (inputs, 1, 1, outputs),
            "output": (batches, 1, 1, outputs),
        }
    else:
        outputs = node.output.shape[3]
        shapes = {"input": node.operand(0).shape, "filter": weights, "output": node.output.shape}
    shapes["channels"] = (1, 1, 1, outputs)
    return tuple(
        Struct("cmsis_nn_dims", f"{name_of(node)}_{part}", tuple(zip("nhwc", map(str, shape), strict=True)))
        for part, shape in shapes.items()
    )  # fmt: skip


def _params(node: Node, peer: Peer) -> Struct:
    data, output = node.operand(0), node.output
    least, most = fused_range(node, node.byte(peer.activation))
    fields = {"input_offset": str(-data.zero_point), "output_offset": str(output.zero_point)}
    fields["activation"] = f"{{.min = {least}, .max = {most}}}"
    if peer.stride is not None and peer.dilation is not None:
        stride, dilation = (
            (node.integer(high, 1), node.integer(wide, 1))
            for high, wide in (peer.stride, peer.dilation)
        )
        place = window(node, data.shape[1:3], node.operand(1).shape[1:3], stride, dilation, node.byte(0))  # fmt: skip
        for part, (high, wide) in {"stride": stride, "dilation": dilation, "padding": place.before}.items():  # fmt: skip
            fields[part] = f"{{.w = {wide}, .h = {high}}}"
    if node.op == "DEPTHWISE_CONV_2D":
        fields["ch_mult"] = str(output.shape[3] // data.shape[3])
    return Struct(peer.params, f"{name_of(node)}_params", tuple(fields.items()))


def _quantization(node: Node) -> Struct:
    name = name_of(node)
    fields = {part: f"(int32_t *){name}_{part}" for part in ("multiplier", "shift")}
    if node.op != "FULLY_CONNECTED":
        return Struct(
            "cmsis_nn_per_channel_quant_params", f"{name}_quantization", tuple(fields.items())
        )
    fields["is_per_channel"] = str(int(node.operand(1).scales.size > 1))
    return Struct("cmsis_nn_quant_params", f"{name}_quantization", tuple(fields.items()))


def _int32(array: Array) -> Array:
    return replace(array, values=array.values.astype(np.int32))
