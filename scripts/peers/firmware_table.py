"""`scripts/bench firmware`: reference models as firmware on emulated cores, beside TensorFlow Lite Micro."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from peers.cmsis_nn import PEERS, Counted, count_layers, layer_values, revision, sources
from peers.firmware_layers import (
    LAYER_NOTES,
    PEER_NOTES,
    PEER_PER_MAC,
    Layer,
    cells,
    heading,
    kind_of,
    layer_lines,
    layer_markdown,
    layers_of,
)
from peers.reference_models import REFERENCES, make_file, make_inputs

from edgepalette.errors import EdgepaletteError, TargetError
from edgepalette.evaluate.cortex_m.emulator import CORES, Emulated, emulate, missing
from edgepalette.evaluate.process import ask
from edgepalette.evaluate.signature import signature
from edgepalette.export.firmware.firmware import Firmware, generate_firmware
from edgepalette.export.firmware.graph import Node

MODELS = "resnet8:0,resnet8:16,resnet8:4,ds-cnn:16,mobilenet:16,autoencoder:16"
ORIGIN = "counted in QEMU"
# by network and whether it has palettes: TFLM with CMSIS-NN, -O2, on a Cortex-M4 in the same emulator
PEER_INSTRUCTIONS = {("resnet8", False): 29_779_967, ("resnet8", True): 30_056_307}
# TFLM's arena: resnet8's on the M4, others' of the x86-64 build, MLPerf Tiny's files with 16 values
PEER_ARENA = {
    ("resnet8", False): 57_124,
    ("resnet8", True): 64_148,
    ("mobilenet", False): 103_680,
    ("mobilenet", True): 106_480,
    ("autoencoder", False): 3_984,
    ("autoencoder", True): 87_952,
}
# the image classifier's file, which TFLM has in flash beside its code, by whether it has palettes; DECODE's own code
PEER_FILE = {False: 98_496, True: 67_184}
DECODE_CODE = 21_500
# of a model's multiplications: kinds with less are left out of FIRMWARE.md
LEAST_PART = 0.01
# what is promised at most, by model and core
PROMISED = {
    ("resnet8:16", "cortex-m4"): {"instructions": 20_800_000, "flash": 58_000, "ram": 42_000},
    ("resnet8:4", "cortex-m4"): {"instructions": 20_800_000, "flash": 38_000, "ram": 42_000},
    **{("autoencoder:16", core): {"ram": 6_000} for core in CORES},
}


@dataclass(frozen=True)
class Kind:
    """Operators of one kind in a model: how many, multiplications, instructions. per_mac: of CMSIS-NN, or None."""

    operators: int
    macs: int
    instructions: int
    peer_per_mac: float | None

    @property
    def per_mac(self) -> float | None:
        """Instructions per multiplication; None where there are none."""
        return self.instructions / self.macs if self.macs else None


@dataclass(frozen=True)
class Row:
    """A model on a core. differing: of `compared` bytes of outputs, those TFLM gives otherwise. Sizes in bytes.

    arena: scratch included; scratch: the most of it one operator takes. peer_…: TFLM's, None where not known.
    """

    model: str
    clusters: int
    core: str
    origin: str
    samples: int
    data: str
    differing: int
    compared: int
    instructions: int
    code: int
    constants: int
    arena: int
    scratch: int
    stack: int
    kinds: dict[str, Kind]
    peer_instructions: int | None
    peer_arena: int | None
    promised: dict[str, int]
    layers: tuple[Layer, ...]

    @property
    def flash(self) -> int:
        """Code and constants."""
        return self.code + self.constants

    @property
    def ram(self) -> int:
        """Arena and stack."""
        return self.arena + self.stack

    @property
    def missed(self) -> list[str]:
        """Promises that are not held, 0 differing bytes first."""
        found = {"instructions": self.instructions, "flash": self.flash, "ram": self.ram}
        over = [name for name, most in self.promised.items() if found[name] > most]
        return (["bytes"] if self.differing else []) + over

    def line(self) -> str:
        """For people."""
        peer, arena = "", ""
        if self.peer_instructions is not None:
            peer = f"{self.peer_instructions / 1e6:.2f} ({self.instructions / self.peer_instructions:.2f}×)"
        if self.peer_arena is not None:
            arena = f"{self.peer_arena / 1e3:.1f} ({self.ram / self.peer_arena:.2f}×)"
        held = ("MISSED " + ", ".join(self.missed)) if self.missed else "held" if self.promised else ""  # fmt: skip
        return (
            f"{self.model:14} {self.core:13} {self.differing:>5} of {self.compared:<7} {self.instructions / 1e6:9.3f} {peer:>14} "
            f"{self.code / 1e3:6.1f} {self.constants / 1e3:9.1f} {self.flash / 1e3:6.1f} {self.arena / 1e3:6.1f} {self.scratch / 1e3:7.1f} "
            f"{self.stack / 1e3:6.2f} {self.ram / 1e3:6.1f} {arena:>14}  {held}"
        )


HEADING = (
    f"{'model':14} {'core':13} {'differing bytes':>16} {'instr. M':>9} {'TFLM':>14} {'code':>6} {'constants':>9} {'flash':>6} "
    f"{'arena':>6} {'scratch':>7} {'stack':>6} {'RAM':>6} {'TFLM arena':>14}"
)
NOTES = """\
Sizes in KB of 1000 B; arena with scratch in it; flash: code and constants, without the C library. instr.: of one inference, counted in QEMU,
-O2; QEMU counts instructions, it does not model cycles. TFLM: with CMSIS-NN, dense or with DECODE, counted on an M4 in the same emulator;
the arena is the M4's for ResNet8, else that of an x86-64 build with MLPerf Tiny's file. differing bytes: of outputs, from TFLM's on the same file."""
PER_MAC_NOTES = """\
Instructions per multiplication, whole operators, decoding, padding and requantization in them; (…×): of CMSIS-NN's on dense int8
weights, 3×3 of 32 to 32 channels, "of 3": 3 to 16."""


@click.command()
@click.option("--models", default=MODELS, show_default=True, help="NETWORK:CLUSTERS, 0 for dense.")
@click.option("--cores", default=",".join(CORES), show_default=True)
@click.option("--samples", default=200, show_default=True)
@click.option("--jobs", default=1, help="Emulators at a time.")
@click.option("--layers", is_flag=True, help="Also a table of each operator with weights.")
@click.option(
    "--cmsis-nn",
    type=click.Path(path_type=Path),
    help="Checkout of github.com/ARM-software/CMSIS-NN to count on the same layers; with --layers.",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--markdown", is_flag=True, help="As the tables of FIRMWARE.md.")
def firmware(models: str, cores: str, samples: int, jobs: int, layers: bool, cmsis_nn: Path | None, as_json: bool, markdown: bool) -> None:  # fmt: skip
    """Firmware of MLPerf Tiny's models in QEMU: bytes beside TFLM's, instructions, flash, RAM.

    Real inputs where EDGEPALETTE_DATA has them. With 200 samples on all cores 6 to 10 minutes. Exit code 1 if bytes differ
    from TFLM's or a promised size or count is passed.
    """
    chosen = [_parsed(model) for model in models.split(",")]
    unknown = sorted(set(cores.split(",")) - set(CORES))
    if unknown or samples < 2:
        raise click.UsageError(
            f"--cores must be of {', '.join(CORES)} and --samples at least 2, got {cores} and {samples}"
        )
    if cmsis_nn is not None:
        if not layers:
            raise click.UsageError("--cmsis-nn must come with --layers, the table it fills")
        _check_folder(cmsis_nn)
    absent = missing()
    if absent is not None:
        raise click.ClickException(absent)
    rows: list[Row] = []
    try:
        for network, clusters in chosen:
            rows += _measured(network, clusters, cores.split(","), samples, jobs, cmsis_nn)
    except EdgepaletteError as error:
        raise click.ClickException(str(error)) from None
    if as_json:
        peer = None if cmsis_nn is None else revision(cmsis_nn)
        told = [_written(row) | (_written_layers(row, peer) if layers else {}) for row in rows]
        click.echo(json.dumps(told, indent=2))
    elif markdown:
        for line in (*_peer_markdown(rows), "", *_markdown(rows), "", *_kind_markdown(rows)):
            click.echo(line)
    else:
        for line in (HEADING, *(row.line() for row in rows), NOTES, "", *_kind_lines(rows), PER_MAC_NOTES):  # fmt: skip
            click.echo(line)
    if layers and not as_json:
        for line in _layer_tables(rows, cmsis_nn, markdown):
            click.echo(line)
    missed = [f"{row.model} on {row.core}: {', '.join(row.missed)}" for row in rows if row.missed]
    if missed:
        raise click.ClickException("not held: " + "; ".join(missed))


def _parsed(model: str) -> tuple[str, int]:
    network, _, clusters = model.partition(":")
    if network not in REFERENCES or not clusters.isdigit() or not (clusters == "0" or 2 <= int(clusters) <= 128):  # fmt: skip
        raise click.UsageError(
            f"--models must be NETWORK:CLUSTERS, networks of {', '.join(REFERENCES)} and 0 or 2-128 clusters, got {model!r}"
        )
    return network, int(clusters)


def _check_folder(folder: Path) -> None:
    try:
        sources(folder)
    except TargetError as error:
        raise click.UsageError(str(error)) from None


def _measured(network: str, clusters: int, cores: Sequence[str], samples: int, jobs: int, cmsis_nn: Path | None) -> list[Row]:  # fmt: skip
    """The model on every core."""
    reference, name = REFERENCES[network], f"{network}:{clusters}"
    with tempfile.TemporaryDirectory(prefix="edgepalette-bench-") as folder:
        click.echo(f"{name} …", err=True)
        file, given = Path(folder, "model.tflite"), Path(folder, "inputs.npz")
        file.write_bytes(make_file(reference, clusters))
        (port,) = signature(file).inputs
        inputs = port.raw(make_inputs(reference, samples).reshape(-1, *port.shape))
        np.savez(given, x0=inputs)
        click.echo(f"{name} on TFLM …", err=True)
        question = {"runtime": "tflm", "options": {}, "files": [[str(file), str(given)]], "outputs": 1}  # fmt: skip
        theirs = ask("pair_child", question, "tflm", str(file))["f0y0"]
        made = generate_firmware(file.read_bytes())
        peers = [node for node in made.graph.nodes if node.op in PEERS]
        values = layer_values(file.read_bytes(), peers, inputs[:1]) if cmsis_nn else {}

        def run(core: str) -> Row:
            click.echo(f"{name} on {core} …", err=True)
            done = emulate(made, CORES[core], [inputs], Path(folder, core))
            counted: dict[int, dict[str, Counted]] = {}
            if cmsis_nn is not None:
                click.echo(f"{name} on {core} by CMSIS-NN …", err=True)
                counted = count_layers(cmsis_nn, peers, values, CORES[core], Path(folder, f"{core}-peer"))  # fmt: skip
            layers = layers_of(made.graph.nodes, done.parts, core, counted)
            return _row(network, clusters, core, made, done, theirs, layers)

        with ThreadPoolExecutor(jobs) as pool:
            return list(pool.map(run, cores))


def _row(network: str, clusters: int, core: str, made: Firmware, done: Emulated, theirs: NDArray[Any], layers: tuple[Layer, ...]) -> Row:  # fmt: skip
    reference, name = REFERENCES[network], f"{network}:{clusters}"
    ours = done.outputs[0].reshape(theirs.shape)
    real = reference.path is not None and reference.data is not None
    peer = (network, clusters > 0)
    return Row(
        name,
        clusters,
        core,
        ORIGIN,
        len(theirs),
        f"{reference.data}, test" if real else "random, seed 0",
        int((ours != theirs).sum()),
        theirs.size,
        done.instructions,
        done.code,
        done.constants,
        made.arena,
        made.scratch,
        done.stack,
        dict(_kinds(made.graph.nodes, done.parts, PEER_PER_MAC.get(core, {}))),
        PEER_INSTRUCTIONS.get(peer) if core == "cortex-m4" else None,
        PEER_ARENA.get(peer),
        PROMISED.get((name, core), {}),
        layers,
    )


def _kinds(nodes: Sequence[Node], parts: Sequence[int], peer: dict[str, float]) -> Iterator[tuple[str, Kind]]:  # fmt: skip
    """Operators by kind."""
    of: dict[str, list[tuple[int, int]]] = {}
    for node, instructions in zip(nodes, parts, strict=True):
        of.setdefault(kind_of(node), []).append((node.macs, instructions))
    for kind, pairs in of.items():
        macs, instructions = (sum(column) for column in zip(*pairs, strict=True))
        yield kind, Kind(len(pairs), macs, instructions, peer.get(kind))


def _kind_lines(rows: Sequence[Row]) -> Iterator[str]:
    """A line per model and kind, a column per core."""
    cores = list(dict.fromkeys(row.core for row in rows))
    yield f"{'model':14} {'operators':20} {'M MACs':>8} " + " ".join(
        f"{core:>15}" for core in cores
    )
    for model in dict.fromkeys(row.model for row in rows):
        of = {row.core: row.kinds for row in rows if row.model == model}
        for kind, first in next(iter(of.values())).items():
            if first.macs:
                cells = " ".join(f"{_cell(of[core][kind]):>15}" for core in cores)
                yield f"{model:14} {f'{first.operators} {kind}':20} {first.macs / 1e6:8.3f} {cells}"


def _cell(kind: Kind) -> str:
    if kind.per_mac is None:
        return ""
    ratio = "" if kind.peer_per_mac is None else f" ({kind.per_mac / kind.peer_per_mac:.2f}×)"
    return f"{kind.per_mac:.2f}{ratio}"


def _peer_markdown(rows: Sequence[Row]) -> Iterator[str]:
    """ResNet8 on the M4 beside TFLM."""
    yield from heading("ResNet8, Cortex-M4", "instructions", "flash, KB", "RAM, KB")
    for palettes, name in ((False, "dense"), (True, "16 clusters, DECODE")):
        size = f"{PEER_FILE[palettes] / 1e3:.1f} + code"
        size += f" ({DECODE_CODE / 1e3:.1f} of it DECODE's)" if palettes else ""
        counted, arena = (of["resnet8", palettes] for of in (PEER_INSTRUCTIONS, PEER_ARENA))
        yield cells(f"TFLM, {name}", f"{counted / 1e6:.2f} M", size, f"{arena / 1e3:.1f} + stack")
    for row in rows:
        if row.model.startswith("resnet8:") and row.core == "cortex-m4":
            yield cells(
                f"firmware, {_clusters(row)}",
                f"{row.instructions / 1e6:.2f} M",
                f"{row.flash / 1e3:.1f}",
                f"{row.ram / 1e3:.1f}",
            )


def _markdown(rows: Sequence[Row]) -> Iterator[str]:
    """A line per model: instructions by core, flash and RAM where they are largest."""
    cores = list(dict.fromkeys(row.core for row in rows))
    titles = [core.removeprefix("cortex-").upper().replace("PLUS", "+") for core in cores]
    yield from heading("millions of instructions", *titles, "constants + code, KB", "arena + stack, KB")  # fmt: skip
    for model in dict.fromkeys(row.model for row in rows):
        of = [row for row in rows if row.model == model]
        flash, ram = max(of, key=lambda row: row.flash), max(of, key=lambda row: row.ram)
        yield cells(
            f"{REFERENCES[model.partition(':')[0]].title}, {_clusters(of[0])}",
            *(f"{row.instructions / 1e6:.2f}" for row in of),
            f"{flash.constants / 1e3:.1f} + {flash.code / 1e3:.1f}",
            f"{ram.arena / 1e3:.1f} + {ram.stack / 1e3:.1f}",
        )


def _kind_markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Instructions per multiplication where CMSIS-NN's are known, of what is not next to nothing of its model."""
    cores = [core for core in dict.fromkeys(row.core for row in rows) if core in PEER_PER_MAC]
    titles = [core.removeprefix("cortex-").upper().replace("PLUS", "+") for core in cores]
    yield from heading("instructions per multiplication (of CMSIS-NN's, dense)", *titles)
    for model in dict.fromkeys(row.model for row in rows if row.clusters):
        of = {row.core: row for row in rows if row.model == model}
        total = sum(kind.macs for kind in next(iter(of.values())).kinds.values())
        for kind, first in next(iter(of.values())).kinds.items():
            known = any(kind in PEER_PER_MAC[core] for core in cores)
            if known and first.macs >= LEAST_PART * total:
                title = REFERENCES[model.partition(":")[0]].title
                operators = f"{title}, {_clusters(next(iter(of.values())))}: {first.operators} {kind}"  # fmt: skip
                yield cells(operators, *(_cell(of[core].kinds[kind]) for core in cores))


def _clusters(row: Row) -> str:
    return f"{row.clusters} clusters" if row.clusters else "dense"


def _layer_tables(rows: Sequence[Row], cmsis_nn: Path | None, markdown: bool) -> Iterator[str]:
    """A table for each model and core."""
    for row in rows:
        yield ""
        table = layer_markdown if markdown else layer_lines
        yield from table(f"{row.model} on {row.core}", row.layers)
    yield from ("", LAYER_NOTES)
    if cmsis_nn is not None:
        yield from (PEER_NOTES, f"Its version: {revision(cmsis_nn)}.")


def _written(row: Row) -> dict[str, Any]:
    kinds = {name: {**asdict(kind), "per_mac": kind.per_mac} for name, kind in row.kinds.items()}
    fields = {key: value for key, value in asdict(row).items() if key != "layers"}
    return {**fields, "kinds": kinds, "flash": row.flash, "ram": row.ram, "missed": row.missed}


def _written_layers(row: Row, peer: str | None) -> dict[str, Any]:
    return {"layers": [layer.written() for layer in row.layers], "cmsis_nn": peer}
