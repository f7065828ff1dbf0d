"""`scripts/bench firmware --layers`: the table, and what it asks CMSIS-NN for, by a stand-in of it on this computer."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgepalette.errors import TargetError
from edgepalette.evaluate import host_c
from edgepalette.evaluate.cortex_m.emulator import CORES, Core, Emulated
from edgepalette.export.firmware.firmware import Firmware, generate_firmware
from edgepalette.export.firmware.graph import Node, Value
from edgepalette.export.tflite_schema import TensorType, read_model

SCRIPTS = Path(__file__).parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from peers import cmsis_nn, firmware_table  # noqa: E402 # programs, not a part of the package
from peers.firmware_layers import Layer, layer_lines, layer_markdown, layers_of, total  # noqa: E402

CORE = CORES["cortex-m4"]
# what the functions take as CMSIS-NN's headers have it, and the sums any kernel must give
HEADER = """
#ifndef STAND_IN_H
#define STAND_IN_H
#include <stdint.h>
typedef struct { int32_t w, h; } cmsis_nn_tile;
typedef struct { void *buf; int32_t size; } cmsis_nn_context;
typedef struct { int32_t n, h, w, c; } cmsis_nn_dims;
typedef struct { int32_t *multiplier, *shift; } cmsis_nn_per_channel_quant_params;
typedef struct { int32_t *multiplier, *shift, is_per_channel; } cmsis_nn_quant_params;
typedef struct { int32_t min, max; } cmsis_nn_activation;
typedef struct { int32_t input_offset, output_offset; cmsis_nn_tile stride, padding, dilation; cmsis_nn_activation activation; } cmsis_nn_conv_params;
typedef struct { int32_t input_offset, output_offset, ch_mult; cmsis_nn_tile stride, padding, dilation; cmsis_nn_activation activation; } cmsis_nn_dw_conv_params;
typedef struct { int32_t input_offset, filter_offset, output_offset; cmsis_nn_activation activation; } cmsis_nn_fc_params;
#define ASKED const cmsis_nn_dims *in, const cmsis_nn_dims *filter, const cmsis_nn_dims *out
#define TENSORS const cmsis_nn_dims *in, const int8_t *x, const cmsis_nn_dims *filter, const int8_t *w, \\
    const cmsis_nn_dims *channels, const int32_t *bias, const cmsis_nn_dims *out, int8_t *y
int arm_convolve_wrapper_s8(const cmsis_nn_context *, const cmsis_nn_conv_params *, const cmsis_nn_per_channel_quant_params *, TENSORS);
int arm_depthwise_conv_wrapper_s8(const cmsis_nn_context *, const cmsis_nn_dw_conv_params *, const cmsis_nn_per_channel_quant_params *, TENSORS);
int arm_fully_connected_wrapper_s8(const cmsis_nn_context *, const cmsis_nn_fc_params *, const cmsis_nn_quant_params *, TENSORS);
int32_t arm_convolve_wrapper_s8_get_buffer_size(const cmsis_nn_conv_params *, ASKED);
int32_t arm_depthwise_conv_wrapper_s8_get_buffer_size(const cmsis_nn_dw_conv_params *, ASKED);
static inline int8_t clamped(int32_t sum, int32_t fixed, int32_t shift, int32_t zero, cmsis_nn_activation range)
{
    const int left = shift > 0 ? shift : 0, right = left - shift;
    const int32_t high = (int32_t)(((int64_t)(sum * (1 << left)) * fixed + (1 << 30)) >> 31);
    const int32_t value = zero + (right ? (high + (1 << (right - 1)) - (high < 0)) >> right : high);
    return (int8_t)(value < range.min ? range.min : value > range.max ? range.max : value);
}
#endif
"""
# p: parameters; one group for each channel if DEEP, else one for all
WINDOWS = """
#include "arm_nnfunctions.h"
#define WINDOW(DEEP, MULTIPLE) \\
    for (int oy = 0; oy < out->h; ++oy) for (int ox = 0; ox < out->w; ++ox) for (int o = 0; o < channels->c; ++o) { \\
        int32_t sum = bias ? bias[o] : 0; \\
        for (int ky = 0; ky < filter->h; ++ky) for (int kx = 0; kx < filter->w; ++kx) for (int c = 0; c < (DEEP ? 1 : in->c); ++c) { \\
            const int iy = oy * p->stride.h - p->padding.h + ky * p->dilation.h, ix = ox * p->stride.w - p->padding.w + kx * p->dilation.w; \\
            if (iy < 0 || iy >= in->h || ix < 0 || ix >= in->w) continue; \\
            const int8_t weight = DEEP ? w[(ky * filter->w + kx) * filter->c + o] : w[((o * filter->h + ky) * filter->w + kx) * filter->c + c]; \\
            sum += weight * (x[(iy * in->w + ix) * in->c + (DEEP ? o / MULTIPLE : c)] + p->input_offset); \\
        } \\
        y[(oy * out->w + ox) * out->c + o] = clamped(sum, q->multiplier[o], q->shift[o], p->output_offset, p->activation); \\
    } \\
    for (int byte = 0; byte < context->size; ++byte) ((uint8_t *)context->buf)[byte] = 1; \\
    return 0;
int arm_convolve_wrapper_s8(const cmsis_nn_context *context, const cmsis_nn_conv_params *p, const cmsis_nn_per_channel_quant_params *q, TENSORS) { WINDOW(0, 1) }
int arm_depthwise_conv_wrapper_s8(const cmsis_nn_context *context, const cmsis_nn_dw_conv_params *p, const cmsis_nn_per_channel_quant_params *q, TENSORS) { WINDOW(1, p->ch_mult) }
int32_t arm_convolve_wrapper_s8_get_buffer_size(const cmsis_nn_conv_params *p, ASKED) { return p->stride.w + in->n + filter->n + out->n; }
int32_t arm_depthwise_conv_wrapper_s8_get_buffer_size(const cmsis_nn_dw_conv_params *p, ASKED) { return ASKED_FOR * (p->stride.w + in->n + filter->n + out->n); }
"""
# the sums a Cortex-M55 reads must be those it would make of the weights
DENSE = """
#include "arm_nnfunctions.h"
int arm_fully_connected_wrapper_s8(const cmsis_nn_context *context, const cmsis_nn_fc_params *p, const cmsis_nn_quant_params *q, TENSORS)
{
    for (int o = 0; o < filter->c; ++o) {
        const int8_t *row = w + o * filter->n;
        int32_t sum = ((const int32_t *)context->buf)[o], plain = bias ? bias[o] : 0;
        for (int i = 0; i < filter->n; ++i) {
            sum += row[i] * x[i];
            plain += row[i] * (x[i] + p->input_offset);
        }
        const int at = q->is_per_channel ? o : 0;
        y[o] = clamped(plain, q->multiplier[at], q->shift[at], p->output_offset, p->activation);
        if (sum != plain || in->n != 1 || out->c != channels->c || p->filter_offset != 0)
            y[o] ^= 1;
    }
    return 0;
}
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder of CMSIS-NN's shape."""
    folder = tmp_path / "CMSIS-NN"
    source = folder / "Source"
    for file, text in {
        folder / cmsis_nn.HEADER: HEADER,
        source / "ConvolutionFunctions" / "windows_s8.c": WINDOWS.replace("ASKED_FOR", "1"),
        source / "ConvolutionFunctions" / "windows_f16.c": "#error of another type",
        folder / cmsis_nn.NEWEST: DENSE,
    }.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder


@pytest.fixture(scope="module")
def model() -> bytes:
    """Layers of every kind, with strides, dilation, two paddings and palettes, a residual between them."""
    import keras
    from keras import layers

    from edgepalette.export.cluster_tflite import cluster_tflite
    from edgepalette.export.lean import lean
    from edgepalette.export.palette_tflite import palettize
    from edgepalette.export.tflite import export_tflite

    keras.utils.set_random_seed(0)
    inputs = keras.Input((9, 8, 3))
    y = layers.Conv2D(8, 3, strides=(2, 1), padding="same", activation="relu")(inputs)
    y = layers.DepthwiseConv2D(3, strides=2, padding="same", depth_multiplier=2)(y)
    y = layers.add([y, layers.Conv2D(16, 1, activation="relu6")(y)])
    y = layers.Conv2D(5, (1, 2), dilation_rate=(1, 2), use_bias=False)(y)
    y = layers.Dense(7)(layers.Flatten()(y))
    samples = np.random.default_rng(0).normal(size=(20, 9, 8, 3)).astype(np.float32)
    with warnings.catch_warnings():
        # TensorFlow's converter says so of every int8 conversion
        warnings.filterwarnings("ignore", "Statistics for quantized inputs were expected")
        dense = export_tflite(keras.Model(inputs, y), [], samples).dense
    return palettize(lean(cluster_tflite(read_model(dense), 16)[0])).data


def layers_in(data: bytes) -> list[Node]:
    return [node for node in generate_firmware(data).graph.nodes if node.op in cmsis_nn.PEERS]


def on_this_computer(
    made: Firmware, core: Core, inputs: Sequence[Any], folder: Path, options: Sequence[str]
) -> Emulated:
    """As the emulator, each part counting its place."""
    assert core is CORE
    if host_c.HERE.missing() is not None:
        pytest.skip(str(host_c.HERE.missing()))
    program = host_c.build(made, folder, (*options, *host_c.SANITIZERS))
    outputs = host_c.run(program, made, inputs)
    parts = tuple(range(1, len(made.operators) + 1))
    return Emulated(outputs, sum(parts), parts, 0, 0, 0)


@pytest.mark.slow
def test_each_layer_gets_its_shape_numbers_and_input(
    model: bytes, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cmsis_nn, "emulate", on_this_computer)
    nodes = layers_in(model)
    assert [node.op for node in nodes] == [
        "CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D", "CONV_2D", "FULLY_CONNECTED"
    ]  # fmt: skip
    inputs = np.random.default_rng(1).integers(-128, 128, (1, 1, 9, 8, 3)).astype(np.int8)
    values = cmsis_nn.layer_values(model, nodes, inputs)
    # constants would agree by themselves
    assert all(len(np.unique(values[node.output.number])) > 4 for node in nodes)
    found = cmsis_nn.count_layers(checkout, nodes, values, CORE, tmp_path / "built")
    assert list(found) == [node.place for node in nodes]
    for place, one in enumerate(nodes):
        same = cmsis_nn.Counted(place + 1, 0, one.output.size)
        assert found[one.place] == dict.fromkeys(cmsis_nn.OPTIMIZATIONS, same), one.op
    # other bytes of ours are told, of the layer that gives them and of the one that reads them
    first = nodes[0].output
    values[first.number] = values[first.number] ^ np.int8(64)
    again = cmsis_nn.count_layers(checkout, nodes, values, CORE, tmp_path / "again")
    differing = [layer["-O2"].differing for layer in again.values()]
    assert differing[0] == first.size
    assert differing[1] > 0
    assert differing[2:] == [0, 0, 0]


@pytest.mark.slow
def test_too_little_scratch_stops_the_program(
    model: bytes, checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cmsis_nn, "emulate", on_this_computer)
    file = checkout / "Source" / "ConvolutionFunctions" / "windows_s8.c"
    file.write_text(WINDOWS.replace("ASKED_FOR", "5000"))
    nodes = layers_in(model)
    values = cmsis_nn.layer_values(model, nodes, np.zeros((1, 1, 9, 8, 3), np.int8))
    with pytest.raises(TargetError, match="failed with exit code -6"):
        cmsis_nn.count_layers(checkout, nodes, values, CORE, tmp_path / "built")


def counted(instructions: int, differing: int = 0) -> dict[str, cmsis_nn.Counted]:
    return {option: cmsis_nn.Counted(instructions, differing, 80) for option in ("-O2", "-Ofast")}


def value(*shape: int, constant: bool = False) -> Value:
    data = np.zeros(shape, np.int8) if constant else None
    return Value(0, "", shape, TensorType.INT8, np.ones(1, np.float32), 0, 0, data, None)


def node(place: int, op: str, data: Value, output: Value, *weights: int) -> Node:
    return Node(place, op, (data, value(*weights, constant=True)), output, None)


def test_the_table_of_layers() -> None:
    nodes = (
        node(1, "CONV_2D", value(1, 9, 8, 3), value(1, 5, 8, 8), 8, 3, 3, 3),
        Node(2, "RELU", (value(1, 5, 8, 8),), value(1, 5, 8, 8), None),
        node(4, "DEPTHWISE_CONV_2D", value(1, 5, 8, 8), value(1, 3, 4, 16), 1, 3, 3, 16),
        node(6, "CONV_2D", value(1, 3, 4, 16), value(1, 3, 2, 5), 5, 1, 2, 16),
        node(7, "FULLY_CONNECTED", value(1, 30), value(1, 7), 7, 30),
    )
    parts = [3 * node.macs + 5 for node in nodes]
    peers = {one.place: counted(2 * one.macs, one.place) for one in nodes if one.macs}
    layers = layers_of(nodes, parts, "cortex-m4", peers)
    assert [(layer.name, layer.shape, layer.macs) for layer in layers] == [
        ("0 conv 3×3 of 3", "9×8×3 → 5×8×8", 8640),
        ("2 depthwise 3×3", "5×8×8 → 3×4×16", 1728),
        ("3 conv 1×2", "3×4×16 → 3×2×5", 960),
        ("4 dense", "30 → 7", 210),
    ]
    first, _, third, last = layers
    assert (first.single, third.of_single) == (4.84, None)
    assert first.ratio("-O2") == pytest.approx((3 * 8640 + 5) / (2 * 8640))
    title, heading, *lines = layer_lines("small:16 on cortex-m4", layers)
    assert title == "small:16 on cortex-m4"
    assert heading.split()[:4] == ["layer", "shape", "MACs", "per"]
    assert [line.split()[-8:] for line in (lines[0], lines[3])] == [
        ["(0.62×)", "2.00", "(1.50×)", "2.00", "(1.50×)", "1", "of", "80"],
        ["(1.55×)", "2.00", "(1.51×)", "2.00", "(1.51×)", "7", "of", "80"],
    ]
    assert lines[4].split() == ["all", "11,538", "3.00", "2.00", "(1.50×)", "2.00", "(1.50×)", "18", "of", "320"]  # fmt: skip
    markdown = list(layer_markdown("small:16 on cortex-m4", layers))
    assert len({line.count("|") for line in markdown}) == 1
    assert markdown[2].startswith("| 0 conv 3×3 of 3 | 9×8×3 → 5×8×8 | 8,640 | 3.00 | 4.84 (0.62×) |")  # fmt: skip
    written = json.loads(json.dumps(last.written()))
    assert written["cmsis_nn"]["-Ofast"] == {"instructions": 420, "differing": 7, "compared": 80}
    assert written["of_cmsis_nn"]["-O2"] == last.ratio("-O2")


def test_a_table_without_cmsis_nn_has_empty_cells() -> None:
    layers = (
        Layer("0 conv 1×1", "4 → 4", 100, 205, 2.05, {}),
        Layer("1 dense", "4 → 4", 10, 50, None, counted(20)),
    )
    _, _, first, second, last = layer_lines("small:16 on cortex-m4", layers)
    assert first.endswith("2.05    2.05 (1.00×)")
    assert second.endswith("0 of 80")
    # sums of some layers would be taken for sums of all
    assert last.split() == ["all", "110", "2.32"]
    assert total(layers).cmsis_nn == {}
    # nor has a table empty columns
    alone = [replace(layer, cmsis_nn={}) for layer in layers]
    assert alone[1].ratio("-O2") is None
    assert next(layer_markdown("small:16 on cortex-m4", alone)) == "| small:16 on cortex-m4: layer | shape | MACs | per MAC | single |"  # fmt: skip
    _, heading, *_ = layer_lines("small:16 on cortex-m4", alone)
    assert heading.split() == ["layer", "shape", "MACs", "per", "MAC", "single"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--layers", "--cmsis-nn", "no/folder"], "got no/folder, which has no Include/arm_nnfunctions.h"),
        (["--layers", "--cmsis-nn", str(SCRIPTS)], "--cmsis-nn must be a checkout of github.com/ARM-software/CMSIS-NN, 7.0.0 or newer"),
        (["--cmsis-nn", str(SCRIPTS)], "--cmsis-nn must come with --layers"),
    ],
)  # fmt: skip
def test_a_folder_that_is_no_checkout_is_one_message(options: list[str], said: str) -> None:
    result = CliRunner().invoke(firmware_table.firmware, options, terminal_width=200)
    assert result.exit_code == 2
    assert said in result.output
    assert "Traceback" not in result.output


def test_an_older_checkout_is_told(checkout: Path) -> None:
    (checkout / cmsis_nn.NEWEST).unlink()
    with pytest.raises(TargetError, match=r"7\.0\.0 or newer, got .*/arm_fully_connected_wrapper_s8\.c$"):  # fmt: skip
        cmsis_nn.sources(checkout)
