"""`scripts/bench firmware --layers`: each operator with weights beside CMSIS-NN, whose kernels TFLM calls on a Cortex-M."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, astuple, dataclass
from itertools import compress
from typing import Any

from peers.cmsis_nn import OPTIMIZATIONS, Counted

from edgepalette.export.firmware.graph import Node, Value

# CMSIS-NN's int8 kernels, dense, instructions per multiplication: 3×3 of 32 to 32 and 3 to 16 channels, others alone
PEER_PER_MAC = {
    "cortex-m0plus": {"conv 3×3": 6.7, "conv 3×3 of 3": 11.7, "conv 1×1": 7.6, "depthwise 3×3": 30.0, "dense": 6.2},
    "cortex-m4": {"conv 3×3": 1.98, "conv 3×3 of 3": 4.84, "conv 1×1": 2.05, "depthwise 3×3": 7.68, "dense": 1.95},
    "cortex-m55": {"conv 3×3": 0.26, "conv 3×3 of 3": 1.42, "conv 1×1": 0.40, "depthwise 3×3": 2.34, "dense": 0.49},
}  # fmt: skip
LAYER_NOTES = """\
Instructions per multiplication of whole operators, padding and requantization in them; single: of CMSIS-NN's kernel of that kind on one
shape; (…×): ours of it."""
PEER_NOTES = """\
CMSIS-NN: its function for this very layer, dense weights, the model's own input, counted in the same emulator, compiled with -O2 as ours
and with -Ofast as its CMakeLists.txt says; sums of fully-connected weights, made once, are not counted. differing bytes: of the
layer's output, CMSIS-NN's from ours."""


@dataclass(frozen=True)
class Layer:
    """An operator with weights on a core. single: instructions per multiplication of CMSIS-NN on one shape of its kind.

    cmsis_nn: by compiler option, empty where it was not measured or has no such kernel.
    """

    name: str
    shape: str
    macs: int
    instructions: int
    single: float | None
    cmsis_nn: dict[str, Counted]

    @property
    def per_mac(self) -> float:
        """Instructions per multiplication."""
        return self.instructions / self.macs

    @property
    def of_single(self) -> float | None:
        """Of CMSIS-NN's figure of one shape."""
        return None if self.single is None else self.per_mac / self.single

    def ratio(self, option: str) -> float | None:
        """Of CMSIS-NN's instructions on this layer."""
        peer = self.cmsis_nn.get(option)
        return None if peer is None else self.instructions / peer.instructions

    def cells(self) -> list[str]:
        """For people, as TITLES."""
        peers = list(self.cmsis_nn.values())
        differing = max((peer.differing for peer in peers), default=0)
        return [
            self.name,
            self.shape,
            f"{self.macs:,}",
            f"{self.per_mac:.2f}",
            _times(self.single, self.of_single),
            *(_times(self._peer_per_mac(option), self.ratio(option)) for option in OPTIMIZATIONS),
            f"{differing} of {peers[0].compared}" if peers else "",
        ]

    def written(self) -> dict[str, Any]:
        """As JSON."""
        ratios = {option: self.ratio(option) for option in self.cmsis_nn}
        return {**asdict(self), "per_mac": self.per_mac, "of_single": self.of_single, "of_cmsis_nn": ratios}  # fmt: skip

    def _peer_per_mac(self, option: str) -> float | None:
        peer = self.cmsis_nn.get(option)
        return None if peer is None else peer.instructions / self.macs


TITLES = ("layer", "shape", "MACs", "per MAC", "single", *(f"CMSIS-NN {o}" for o in OPTIMIZATIONS), "differing bytes")  # fmt: skip
WIDTHS = ("<20", "<24", ">10", ">8", ">14", ">14", ">16", ">16")


def layers_of(
    nodes: Sequence[Node],
    parts: Sequence[int],
    core: str,
    cmsis_nn: Mapping[int, dict[str, Counted]],
) -> tuple[Layer, ...]:
    """The operators with multiplications. parts: instructions of each; cmsis_nn: by the operator's place in the file."""
    single = PEER_PER_MAC.get(core, {})
    return tuple(
        Layer(
            f"{number} {kind_of(node)}",
            shape_of(node),
            node.macs,
            instructions,
            single.get(kind_of(node)),
            cmsis_nn.get(node.place, {}),
        )
        for number, (node, instructions) in enumerate(zip(nodes, parts, strict=True))
        if node.macs
    )


def total(layers: Sequence[Layer]) -> Layer:
    """All of them as one; CMSIS-NN's sums where it has every layer."""
    sums = {}
    for option in OPTIMIZATIONS:
        peers = [layer.cmsis_nn[option] for layer in layers if option in layer.cmsis_nn]
        if len(peers) == len(layers):
            sums[option] = Counted(*(sum(column) for column in zip(*map(astuple, peers), strict=True)))  # fmt: skip
    instructions = sum(layer.instructions for layer in layers)
    return Layer("all", "", sum(layer.macs for layer in layers), instructions, None, sums)


def layer_lines(title: str, layers: Sequence[Layer]) -> Iterator[str]:
    """The table of a model on a core."""
    yield title
    filled, rows = _filled(layers)
    widths = list(compress(WIDTHS, filled))
    for row in rows:
        padded = (f"{text:{width}}" for text, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()


def layer_markdown(title: str, layers: Sequence[Layer]) -> Iterator[str]:
    """The same in Markdown."""
    _, (titles, *rows) = _filled(layers)
    yield from heading(f"{title}: {titles[0]}", *titles[1:])
    for row in rows:
        yield cells(*row)


def _filled(layers: Sequence[Layer]) -> tuple[list[bool], list[list[str]]]:
    """Which columns have anything in them, and the rows, titles first, of those alone."""
    rows = [layer.cells() for layer in (*layers, total(layers))]
    filled = [any(column) for column in zip(*rows, strict=True)]
    return filled, [list(compress(row, filled)) for row in ([*TITLES], *rows)]


def shape_of(node: Node) -> str:
    """Input → output without batches."""
    data = next(value for value in node.inputs if value is not None and value.data is None)
    return f"{_dimensions(data)} → {_dimensions(node.output)}"


def _dimensions(value: Value) -> str:
    return "×".join(map(str, value.shape[1:]))


def kind_of(node: Node) -> str:
    """Operators whose instructions per multiplication are alike; the operator's name for those without."""
    if node.op == "FULLY_CONNECTED":
        return "dense"
    if node.op not in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        return node.op
    _, height, width, channels = node.operand(1).shape
    if node.op == "DEPTHWISE_CONV_2D":
        return f"depthwise {height}×{width}"
    # few channels fill no vector, and few rows no register
    return f"conv {height}×{width}" + (f" of {channels}" if channels < 4 else "")


def heading(*titles: str) -> Iterator[str]:
    """A Markdown table's first two lines."""
    yield cells(*titles)
    yield "|---" * len(titles) + "|"


def cells(*texts: str) -> str:
    """A line of a Markdown table."""
    return f"| {' | '.join(texts)} |"


def _times(per_mac: float | None, ratio: float | None) -> str:
    return "" if per_mac is None or ratio is None else f"{per_mac:.2f} ({ratio:.2f}×)"
