"""The issue's real model: ResNet8, clustered without training, as palette files; structure and bits, not accuracy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from edgepalette import ClusterPlan, cluster_weights
from edgepalette.evaluate.child import Request, run_file
from edgepalette.evaluate.ethos_u import estimate
from edgepalette.export.clustered import clustered_weights
from edgepalette.export.loader import expand, runnable
from edgepalette.export.model_gains import model_gains
from edgepalette.export.onnx_palette import export_onnx
from edgepalette.export.tflite import TfliteFiles, export_tflite
from edgepalette.export.tflite_schema import read_model

CLUSTERS = 16
IMAGES = 60
INT8 = 9
# the bounds, in bytes and shares
MOST_BYTES = 50_000
MOST_ONNX = 0.20
LEAST_IN_USE = 0.9
MOST_ENCODED = 39_500
MEAN_ENCODED = 1_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def images(shared: Path) -> NDArray[np.float32]:
    """The first test images of CIFAR-10."""
    import io

    from PIL import Image

    with np.load(shared / "data" / "cifar10_jpeg.npz") as arrays:
        data, ends = arrays["test_jpeg"], arrays["test_offsets"][: 2 * IMAGES + 1]
        files = [data[a:b].tobytes() for a, b in pairwise(ends)]
    decoded = [np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
    return np.stack(decoded).astype(np.float32)


@pytest.fixture(scope="module")
def model(shared: Path) -> Any:
    model = keras.models.load_model(shared / "models" / "resnet8_cifar10_jpeg.keras", compile=False)
    return cluster_weights(model, ClusterPlan.of(model, CLUSTERS, gains=model_gains(model)))


@pytest.fixture(scope="module")
def files(model: Any, images: NDArray[np.float32]) -> TfliteFiles:
    return export_tflite(model, clustered_weights(model, model_gains(model)), images[IMAGES:])


@pytest.fixture(scope="module")
def pooled(model: Any, images: NDArray[np.float32]) -> TfliteFiles:
    """With its average as the converter writes it."""
    weights = clustered_weights(model, model_gains(model))
    return export_tflite(model, weights, images[IMAGES:], means=False)


def int8_weights(file: bytes) -> list[NDArray[np.int8]]:
    """Constant int8 tensors of several dimensions, by LiteRT's own generated reader."""
    from ai_edge_litert import schema_py_generated as schema

    found = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(file, 0))
    return [
        np.frombuffer(bytes(found.buffers[tensor.buffer].data), np.int8)
        for tensor in found.subgraphs[0].tensors
        if tensor.type == INT8
        and len(tensor.shape) > 1
        and found.buffers[tensor.buffer].data is not None
    ]


def outputs(
    file: bytes, images: NDArray[np.float32], folder: Path, runtime: str, **options: str
) -> NDArray[Any]:
    path, inputs = folder / "model", folder / "x.npy"
    path.write_bytes(file)
    np.save(inputs, images)
    return run_file(Request(runtime, str(path), str(inputs), IMAGES, options=options)).raw


def test_every_clustered_tensor_keeps_its_palette_and_nothing_falls_back(
    files: TfliteFiles,
) -> None:
    tensors = int8_weights(expand(files.palette))
    assert len(tensors) == 10
    for tensor in tensors:
        assert LEAST_IN_USE * CLUSTERS <= len(np.unique(tensor)) <= CLUSTERS
    assert files.fallbacks == ()
    assert all(tensor.encoding == "shared" for tensor in files.tensors)


def test_the_palette_file_is_small(files: TfliteFiles, most: Callable[..., int]) -> None:
    assert len(files.palette) <= MOST_BYTES
    assert len(files.palette) <= most(files.dense, files.tensors)
    assert len(files.palette) < len(files.dense) < len(files.stock)


def test_the_batch_is_one_and_no_operator_asks_for_it(files: TfliteFiles) -> None:
    stock = read_model(files.stock)
    assert all(tensor.shape_signature is None for tensor in stock.subgraphs[0].tensors)
    # 9 convolutions, 3 additions, pooling, dense, softmax; a free batch adds SHAPE, STRIDED_SLICE, PACK, RESHAPE
    assert len(stock.subgraphs[0].operators) == 15


def test_the_expanded_file_holds_the_dense_files_tensors(files: TfliteFiles) -> None:
    expanded, dense = int8_weights(expand(files.palette)), int8_weights(files.dense)
    assert len(expanded) == len(dense)
    for ours, theirs in zip(expanded, dense, strict=True):
        assert np.array_equal(ours, theirs)


def test_tflm_runs_the_palette_file_to_the_dense_files_bits(
    files: TfliteFiles, images: NDArray[np.float32], tmp_path: Path
) -> None:
    found = [outputs(file, images, tmp_path, "tflm") for file in (files.palette, files.dense)]
    assert np.array_equal(*found)


@pytest.mark.parametrize("package", ["tflite-runtime", "ai-edge-litert"])
@pytest.mark.parametrize("resolver", ["AUTO", "BUILTIN_REF", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"])
def test_the_expanded_file_gives_the_dense_files_bits(
    files: TfliteFiles,
    images: NDArray[np.float32],
    tmp_path: Path,
    package: str,
    resolver: str,
) -> None:
    # the runtime seam loads through `runnable`; what it makes of the expanded file is what it makes of the palette's
    assert runnable(expand(files.palette)) != expand(files.palette)
    found = [
        outputs(file, images, tmp_path, "tflite", package=package, resolver=resolver)
        for file in (files.palette, files.dense)
    ]
    assert np.array_equal(*found)


def test_the_npu_reads_half_the_bytes_with_a_palette_and_more_of_the_stock_converters_file(
    files: TfliteFiles, pooled: TfliteFiles, tmp_path: Path, shared: Path
) -> None:
    unclustered = (shared / "models" / "mlperf_tiny_ic_int8.tflite").read_bytes()
    encoded = []
    for file in (pooled.palette, pooled.stock, unclustered, files.palette):
        path = tmp_path / "model.tflite"
        path.write_bytes(file)
        found = estimate(path, "ethos-u55-128")
        assert found.cpu_operators == ()
        encoded.append(found.encoded_weights or 0)
    palette, stock, dense, with_mean = encoded
    assert 0 < palette <= MOST_ENCODED
    assert palette < 0.85 * stock
    assert palette < 0.55 * dense
    assert (files.means, pooled.means) == (("average_pooling2d",), ())
    # Vela makes a depthwise convolution of a MEAN
    assert with_mean < palette + MEAN_ENCODED


def test_the_palette_onnx_is_a_fifth_of_the_dense_one_and_computes_what_keras_does(
    model: Any, images: NDArray[np.float32], tmp_path: Path
) -> None:
    onnx = export_onnx(model, clustered_weights(model, model_gains(model)))
    assert len(onnx.palette) <= MOST_ONNX * len(onnx.dense)
    expected = np.asarray(model([images[:IMAGES]], training=False))
    found = outputs(onnx.palette, images, tmp_path, "onnx")
    # float32 sums in another order: a few units in the last place of values near 1
    assert np.abs(found - expected).max() <= 2**-16
