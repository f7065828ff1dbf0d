"""Models that figures are measured on: MLPerf Tiny's four, int8, as .tflite files with the inputs they are run on.

Where EDGEPALETTE_DATA has no file of one, the built-in network with random weights stands for it: what it costs is the same.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgepalette.errors import DataError
from edgepalette.pipeline.data import DATA_VARIABLE, load_dataset

CALIBRATION = 50


@dataclass(frozen=True)
class Builtin:
    """A network of the zoo with random weights. examples: (count, …) real numbers it is run on."""

    network: str
    shape: tuple[int, ...]
    outputs: int
    examples: Callable[[int], NDArray[np.float32]]


@dataclass(frozen=True)
class Reference:
    """file: of EDGEPALETTE_DATA/models, run on `data`; where it is not, `builtin` is taken. title: as tables name it."""

    title: str
    file: str | None
    data: str | None
    builtin: Builtin | None

    @property
    def path(self) -> Path | None:
        """Where the file lies, if it does."""
        folder = os.environ.get(DATA_VARIABLE)
        path = Path(folder or ".", "models", self.file or "")
        return path if folder and self.file and path.is_file() else None


def pictures(count: int, size: int) -> NDArray[np.float32]:
    """(count, size, size, 3) from 0 to 255: coloured squares with noise, so that means differ from picture to picture."""
    random, side = np.random.default_rng(0), size // 6 + 1
    squares = random.random((count, 6, 6, 3)) * random.random((count, 1, 1, 3))
    large = squares.repeat(side, axis=1).repeat(side, axis=2)[:, :size, :size]
    noisy = 255 * (large + random.normal(0, 0.05, large.shape)).clip(0, 1)
    return np.asarray(noisy, np.float32)


def frames(count: int) -> NDArray[np.float32]:
    """(count, 640) around 0, as features are after standardizing."""
    return np.random.default_rng(0).normal(size=(count, 640)).astype(np.float32)


REFERENCES = {
    "resnet8": Reference(
        "ResNet8",
        "mlperf_tiny_ic_int8.tflite",
        "cifar10",
        Builtin("resnet8", (32, 32, 3), 10, lambda count: pictures(count, 32)),
    ),
    "ds-cnn": Reference("DS-CNN", "mlperf_tiny_kws_int8.tflite", "fsdd-mfcc", None),
    "mobilenet": Reference(
        "MobileNetV1 0.25 96×96",
        None,
        None,
        Builtin("mobilenet-v1-0.25", (96, 96, 3), 2, lambda count: pictures(count, 96)),
    ),
    "autoencoder": Reference(
        "AD autoencoder", None, None, Builtin("autoencoder", (640,), 640, frames)
    ),
}


def make_file(reference: Reference, clusters: int) -> bytes:
    """An int8 .tflite with palettes of so many values; 0: dense."""
    from edgepalette.export.cluster_tflite import cluster_tflite
    from edgepalette.export.lean import lean
    from edgepalette.export.palette_tflite import palettize
    from edgepalette.export.tflite_schema import read_model, write_model

    if reference.path is None:
        return _made(reference, clusters)
    model = read_model(reference.path.read_bytes())
    if not clusters:
        return write_model(lean(model))
    return palettize(lean(cluster_tflite(model, clusters)[0])).data


def make_inputs(reference: Reference, count: int) -> NDArray[np.float32]:
    """(count, …) real numbers the file takes: of the data set, else random by a seed."""
    if reference.path is not None and reference.data is not None:
        return np.asarray(load_dataset(reference.data).x_test[:count], np.float32)
    return _builtin(reference).examples(count)


def as_trained(model: Any) -> None:
    """BatchNorm as after training: a gain of its own for every channel."""
    import keras

    random = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            for variable in (layer.gamma, layer.moving_variance):
                variable.assign(random.uniform(0.5, 1.5, variable.shape))
            for variable in (layer.beta, layer.moving_mean):
                variable.assign(random.normal(0, 0.1, variable.shape))


def cluster_everywhere(model: Any, clusters: int) -> int:
    """Clusters every kernel, depthwise ones as well, without training; how many weights."""
    from edgepalette import ClusterPlan
    from edgepalette.cluster.plan import Override

    plan = ClusterPlan.of(model, clusters, [Override("*", clusters)])
    for planned in plan.clustered:
        planned.weight.variable.assign(planned.cluster())
    return sum(planned.size for planned in plan.clustered)


def _builtin(reference: Reference) -> Builtin:
    if reference.builtin is None:
        raise DataError(
            f"{reference.title} is read from ${DATA_VARIABLE}/models/{reference.file}, and {DATA_VARIABLE} names no folder that has it; "
            "leave it out with --models"
        )
    return reference.builtin


def _made(reference: Reference, clusters: int) -> bytes:
    import keras

    from edgepalette import recalibrate_batchnorm
    from edgepalette.export.clustered import clustered_weights
    from edgepalette.export.tflite import export_tflite
    from edgepalette.pipeline.zoo import find_network

    made = _builtin(reference)
    network = find_network(made.network)
    assert network is not None  # noqa: S101 # named above
    keras.utils.set_random_seed(0)
    model = network.build(made.shape, made.outputs)
    samples = made.examples(CALIBRATION)
    as_trained(model)
    if clusters:
        cluster_everywhere(model, clusters)
    # else deep layers would give the same whatever comes in
    recalibrate_batchnorm(model, [samples])
    weights = clustered_weights(model) if clusters else []
    files = export_tflite(model, weights, samples)
    return files.palette if clusters else files.dense
