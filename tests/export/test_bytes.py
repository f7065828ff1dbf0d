"""Every byte of a file belongs to one share; the shares are what they say."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgepalette.cluster.model import cluster_weights
from edgepalette.cluster.plan import ClusterPlan
from edgepalette.errors import FormatError
from edgepalette.export.clustered import clustered_weights
from edgepalette.export.loader import HEADER_SIZE
from edgepalette.export.onnx_bytes import account_onnx, onnx_palettes
from edgepalette.export.onnx_palette import OnnxFiles, export_onnx
from edgepalette.export.share import Part, Share
from edgepalette.export.tflite import TfliteFiles
from edgepalette.export.tflite_bytes import account_tflite, decoded_tensors
from edgepalette.export.tflite_schema import read_model

KINDS = ["stock", "dense", "palette"]
damage = settings(
    deadline=None,
    max_examples=150,
    # the files are made once for all examples
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def sizes_of(shares: tuple[Share, ...]) -> Counter[Part]:
    sizes: Counter[Part] = Counter()
    for share in shares:
        sizes[share.part] += share.size
    return sizes


Files = Callable[[str], bytes]


@pytest.fixture(scope="module")
def files(exported: Callable[[str, int], TfliteFiles]) -> Files:
    """By kind; a function, because hypothesis prints arguments in full."""
    small = exported("small", 4)
    return lambda kind: bytes(getattr(small, kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_shares_of_a_tflite_add_up_to_it(files: Files, kind: str) -> None:
    data = files(kind)
    sizes = sizes_of(account_tflite(data))
    assert sum(sizes.values()) == len(data)
    assert all(size > 0 for size in sizes.values())
    assert (Part.INDICES in sizes) == (Part.UNPACKING in sizes) == (kind == "palette")
    assert (Part.NAMES in sizes) == (kind == "stock")


def test_palettes_take_what_their_tensors_hold(files: Files) -> None:
    decoded = decoded_tensors(read_model(files("palette")))
    shares = account_tflite(files("palette"))
    sizes = sizes_of(shares)
    assert decoded
    assert sizes[Part.INDICES] == sum(len(each.packed) for each in decoded.values())
    assert sizes[Part.TABLES] == sum(len(each.record.values) for each in decoded.values())
    # headers and the counts of both vectors; the DECODE operator and two tensor entries come on top
    least = len(decoded) * (HEADER_SIZE + 8)
    assert sizes[Part.UNPACKING] > least
    owners = {share.tensor for share in shares if share.part is Part.INDICES}
    assert owners == {f"tensor {output}" for _, output in decoded}


def test_dense_weights_and_biases_take_their_data(files: Files) -> None:
    model = read_model(files("dense"))
    graph = model.subgraphs[0]
    data = [(t, len(model.buffers[t.buffer].data or b"")) for t in graph.tensors]
    sizes = sizes_of(account_tflite(files("dense")))
    weights = [size for tensor, size in data if size and len(tensor.dims) >= 2]
    # with the count of each vector
    assert sizes[Part.DENSE] == sum(weights) + 4 * len(weights)
    assert sizes[Part.BIASES] > 0


def test_real_files_are_padded_and_little_else(shared: Path) -> None:
    for path in sorted((shared / "models").glob("*.tflite")):
        data = path.read_bytes()
        sizes = sizes_of(account_tflite(data))
        assert sum(sizes.values()) == len(data)
        assert sizes[Part.UNREAD] < 0.01 * len(data)


def test_what_stands_behind_a_file_is_unread(files: Files) -> None:
    data = files("palette")
    before, after = (sizes_of(account_tflite(d)) for d in (data, data + bytes(100)))
    assert after[Part.UNREAD] == before[Part.UNREAD] + 100
    assert after.total() == len(data) + 100


@given(st.sampled_from(KINDS), st.floats(0, 1, exclude_max=True), st.sampled_from([0, 1, 127, 255]))
@damage
def test_a_damaged_tflite_is_refused_or_adds_up(
    files: Files, kind: str, place: float, value: int
) -> None:
    data = bytearray(files(kind))
    data[int(place * len(data))] = value
    with contextlib.suppress(FormatError):
        assert sum(share.size for share in account_tflite(bytes(data))) == len(data)


@pytest.fixture(scope="module")
def onnx_files() -> OnnxFiles:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((9, 9, 3)),
            layers.Conv2D(16, 3, use_bias=False),
            layers.BatchNormalization(gamma_initializer="random_normal"),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(7),
        ]
    )
    cluster_weights(model, ClusterPlan.of(model, 5))
    return export_onnx(model, clustered_weights(model))


def test_the_shares_of_an_onnx_add_up_and_name_its_palettes(onnx_files: OnnxFiles) -> None:
    data = onnx_files.palette
    model = onnx.load_model_from_string(data)
    palettes = onnx_palettes(model, len(data))
    shares = account_onnx(model, len(data), palettes)
    sizes = sizes_of(shares)
    assert sizes.total() == len(data)
    stored = {report.name: report for report in onnx_files.initializers}
    assert set(palettes) == {name for name, r in stored.items() if r.encoding == "palette"}
    for name, palette in palettes.items():
        assert palette.entries == stored[name].values
        assert palette.codes.size == palette.values.size == np.prod(stored[name].shape)
        assert palette.codes.max() == palette.entries - 1
        own = sizes_of(tuple(share for share in shares if share.tensor == name))
        # three bits: a piece of two and one of one
        count = palette.codes.size
        assert own[Part.INDICES] == -(-count // 4) + -(-count // 8)
        assert own[Part.TABLES] == 4 * palette.entries
    assert sizes[Part.SCALES] == 16 * 4
    assert Part.DENSE not in sizes


def test_the_shares_of_a_dense_onnx_are_its_weights_and_nodes(onnx_files: OnnxFiles) -> None:
    model = onnx.load_model_from_string(onnx_files.dense)
    length = len(onnx_files.dense)
    assert onnx_palettes(model, length) == {}
    sizes = sizes_of(account_onnx(model, length, {}))
    assert sizes.total() == length
    assert sizes[Part.DENSE] == 4 * (16 * 3 * 9 + 7 * 7 * 16 * 7)
    assert Part.INDICES not in sizes
