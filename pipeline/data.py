"""Data sets: arrays to train, calibrate and measure on."""

from __future__ import annotations

import importlib.util
import io
import os
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError, RecipeError
from ..evaluate.metric import load_function
from .files import sha256

DATA_VARIABLE = "EDGEPALETTE_DATA"
ARRAYS = ("x_train", "y_train", "x_test", "y_test")
DIGITS_TEST = 360
FSDD_SECONDS = 1.0
FSDD_TEST_TAKES = 15
MEL_BANDS, MEL_LOWEST, MEL_FLOOR, MFCCS = 40, 20.0, 1e-6, 10


@dataclass(frozen=True, eq=False)
class Dataset:
    """Inputs (N, …) and labels (N,) or (N, outputs), for training and for testing."""

    name: str
    x_train: NDArray[Any]
    y_train: NDArray[Any]
    x_test: NDArray[Any]
    y_test: NDArray[Any]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return tuple(self.x_train.shape[1:])

    def examples(self, count: int, seed: int) -> NDArray[np.float32]:
        """`count` different training inputs, drawn by `seed`."""
        rng = np.random.default_rng([seed, count])
        chosen = rng.choice(len(self.x_train), min(count, len(self.x_train)), replace=False)
        return np.asarray(self.x_train[np.sort(chosen)], np.float32)


def load_dataset(source: str) -> Dataset:
    """The arrays of a data source, checked. Raises DataError or RecipeError."""
    if source in BUILT_IN:
        data = BUILT_IN[source]()
    elif source.endswith(".npz"):
        data = _npz(Path(source))
    elif ":" in source:
        data = _from_function(source)
    else:
        raise RecipeError(
            f"data must be one of {', '.join(BUILT_IN)}, an .npz file or package.module:function, got {source!r}"
        )
    _check(data)
    return data


def load_inputs(source: str) -> NDArray[np.float32]:
    """Test inputs (N, …) of a data source, or those of a .npy file. Raises DataError or RecipeError."""
    if not source.endswith(".npy"):
        return np.asarray(load_dataset(source).x_test, np.float32)
    try:
        inputs = np.load(_existing(Path(source)), mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{source} must be a .npy file of numbers: {error}") from None
    if inputs.ndim < 2 or not len(inputs) or inputs.dtype.kind not in "biuf":
        raise DataError(
            f"{source} must hold numbers of shape (N, …), got {inputs.dtype} of shape {inputs.shape}"
        )
    return np.asarray(inputs, np.float32)


def fingerprint(source: str) -> str:
    """What tells this data from other data, without loading it."""
    if source.endswith(".npz"):
        return f"sha256:{sha256(_existing(Path(source)))}"
    if source in ("cifar10", "fsdd", "fsdd-mfcc"):
        path = _shared_file(source.removesuffix("-mfcc"))
        return f"sha256:{sha256(path)}" if path else source
    if ":" in source:
        return f"{source} {module_hash(source)}"
    return source


def module_hash(source: str) -> str:
    """Hash of the module file of `package.module:function`; empty if it has none."""
    module = source.partition(":")[0]
    # the current directory first, as load_attribute searches
    local = Path(*module.split("."))
    for path in (local.with_suffix(".py"), local / "__init__.py"):
        if path.is_file():
            return sha256(path)
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return ""
    return sha256(Path(spec.origin)) if spec and spec.origin and Path(spec.origin).is_file() else ""


def _digits() -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = digits.images[..., None].astype(np.float32)
    labels = digits.target.astype(np.int64)
    # writers follow each other in the file: a shuffled split has all of them in both parts
    order = np.random.default_rng(0).permutation(len(labels))
    train, test = order[:-DIGITS_TEST], order[-DIGITS_TEST:]
    return Dataset("digits", images[train], labels[train], images[test], labels[test])


def _cifar10() -> Dataset:
    path = _shared_file("cifar10")
    if path is None:
        import keras

        try:
            (x_train, y_train), (x_test, y_test) = keras.datasets.cifar10.load_data()
        except Exception as error:  # whatever the download raises
            raise DataError(
                f"cifar10 is read from ${DATA_VARIABLE}/data or downloaded by Keras, and neither worked "
                f"({error}); set {DATA_VARIABLE} or give your own .npz"
            ) from error
        return Dataset("cifar10", x_train, y_train.reshape(-1), x_test, y_test.reshape(-1))
    with np.load(path, allow_pickle=False) as arrays:
        parts = [
            part
            for name in ("train", "test")
            for part in (
                _jpegs(arrays[f"{name}_jpeg"], arrays[f"{name}_offsets"]),
                arrays[f"{name}_labels"].astype(np.int64),
            )
        ]
    return Dataset("cifar10", *parts)


def _jpegs(data: NDArray[np.uint8], offsets: NDArray[np.int64]) -> NDArray[np.uint8]:
    from PIL import Image

    files = (data[a:b].tobytes() for a, b in pairwise(offsets))
    return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB")) for file in files])


def _fsdd() -> Dataset:
    """Spoken digits as log-mel spectrograms, (frames, 40 bands, 1)."""
    return _spoken_digits("fsdd", _log_mel)


def _fsdd_mfcc() -> Dataset:
    """Spoken digits as 10 mel-frequency cepstral coefficients a frame, (49, 10, 1): keyword spotting's usual inputs."""
    return _spoken_digits("fsdd-mfcc", _mfcc)


def _spoken_digits(
    name: str, features_of: Callable[[NDArray[np.float32], int], NDArray[np.float32]]
) -> Dataset:
    """Features of waves and their rate; takes 0–14 are the test set."""
    path = _shared_file("fsdd")
    if path is None:
        raise DataError(
            f"fsdd must lie at ${DATA_VARIABLE}/data/fsdd.npz, and {DATA_VARIABLE} names no folder that has it"
        )
    with np.load(path, allow_pickle=False) as arrays:
        rate = int(arrays["sample_rate"])
        pcm, offsets = arrays["pcm"], arrays["offsets"]
        labels, takes = arrays["labels"].astype(np.int64), arrays["takes"]
    length = int(FSDD_SECONDS * rate)
    waves = np.zeros((len(labels), length), np.float32)
    for row, (start, end) in enumerate(pairwise(offsets)):
        wave = pcm[start:end][:length]
        waves[row, : len(wave)] = wave / 2**15
    features = features_of(waves, rate)
    test = takes < FSDD_TEST_TAKES
    return Dataset(name, features[~test], labels[~test], features[test], labels[test])


def _log_mel(waves: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    import keras

    mel = keras.layers.MelSpectrogram(
        num_mel_bins=40,
        sampling_rate=rate,
        sequence_length=rate // 25,
        sequence_stride=rate // 50,
        fft_length=512,
        max_freq=rate / 2,
    )
    spectra = np.concatenate([np.asarray(mel(part)) for part in np.array_split(waves, 16)])
    return np.ascontiguousarray(np.swapaxes(spectra, 1, 2)[..., None])


def _mfcc(waves: NDArray[np.float32], rate: int) -> NDArray[np.float32]:
    """Frames of 40 ms every 20 ms, 40 mel bands from 20 Hz to half the rate, the first 10 coefficients."""
    import tensorflow as tf

    spectra = tf.abs(tf.signal.stft(waves, rate // 25, rate // 50, fft_length=512))
    bands = tf.signal.linear_to_mel_weight_matrix(
        MEL_BANDS, spectra.shape[-1], rate, MEL_LOWEST, rate / 2
    )
    log_mel = tf.math.log(spectra @ bands + MEL_FLOOR)
    coefficients = tf.signal.mfccs_from_log_mel_spectrograms(log_mel)[..., :MFCCS]
    return np.asarray(coefficients)[..., None]


BUILT_IN: dict[str, Callable[[], Dataset]] = {
    "digits": _digits,
    "cifar10": _cifar10,
    "fsdd": _fsdd,
    "fsdd-mfcc": _fsdd_mfcc,
}


def _shared_file(name: str) -> Path | None:
    folder = os.environ.get(DATA_VARIABLE)
    file = {"cifar10": "cifar10_jpeg.npz"}.get(name, f"{name}.npz")
    path = Path(folder or ".", "data", file)
    return path if folder and path.is_file() else None


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise DataError(
            f"data must be an .npz file with the arrays {', '.join(ARRAYS)}, got {path}, which is no file"
        )
    return path


def _npz(path: Path) -> Dataset:
    try:
        # opened here: numpy leaves a file open that is no archive
        with _existing(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            missing = [name for name in ARRAYS if name not in arrays.files]
            if missing:
                raise DataError(
                    f"{path} must hold the arrays {', '.join(ARRAYS)}, got {', '.join(arrays.files) or 'none'}"
                )
            return Dataset(path.stem, *(arrays[name] for name in ARRAYS))
    # TypeError: a single array, as numpy.save writes it; zlib: damaged within
    except (ValueError, TypeError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(
            f"{path} must be an .npz file written by numpy.savez, without pickled objects; reading it failed: {error}"
        ) from None


def _from_function(source: str) -> Dataset:
    result = load_function(source, "data")()
    if isinstance(result, dict):
        arrays, got = [result[name] for name in ARRAYS if name in result], ", ".join(result)
    elif isinstance(result, list | tuple):
        arrays, got = list(result), f"{len(result)} values"
    else:
        arrays, got = [], type(result).__name__
    if len(arrays) != len(ARRAYS):
        raise DataError(f"data function {source} must return {', '.join(ARRAYS)}, got {got}")
    return Dataset(source.rpartition(":")[2], *(np.asarray(array) for array in arrays))


def _check(data: Dataset) -> None:
    for part, x, y in [
        ("train", data.x_train, data.y_train),
        ("test", data.x_test, data.y_test),
    ]:
        for name, array in [(f"x_{part}", x), (f"y_{part}", y)]:
            if array.dtype.kind not in "fiub":
                raise DataError(f"{data.name}: {name} must hold numbers, got {array.dtype}")
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise DataError(f"{data.name}: {name} must be finite, got NaN or infinity in it")
        if x.ndim < 2 or len(x) == 0:
            raise DataError(
                f"{data.name}: x_{part} must have shape (N, …) with N ≥ 1, got {x.shape}"
            )
        if y.ndim == 0 or len(x) != len(y):
            raise DataError(
                f"{data.name}: x_{part} and y_{part} must have as many rows, got {x.shape} and {y.shape}"
            )
    if data.x_train.shape[1:] != data.x_test.shape[1:]:
        raise DataError(
            f"{data.name}: training and test inputs must have one shape, "
            f"got {data.x_train.shape[1:]} and {data.x_test.shape[1:]}"
        )
