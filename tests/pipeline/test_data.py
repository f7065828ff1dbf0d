"""Data sets: what is accepted, and one clear message for what is not."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.fft

from edgepalette.errors import DataError, RecipeError
from edgepalette.pipeline.data import DATA_VARIABLE, Dataset, fingerprint, load_dataset, module_hash


def arrays(**changed: Any) -> dict[str, Any]:
    """Four arrays that fit each other, some of them changed."""
    return {
        "x_train": np.zeros((6, 4), np.float32),
        "y_train": np.arange(6) % 3,
        "x_test": np.zeros((3, 4), np.float32),
        "y_test": np.arange(3),
        **changed,
    }


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., str]:
    """An .npz file of `arrays(…)`."""

    def save(**changed: Any) -> str:
        path = tmp_path / "mine.npz"
        np.savez(path, **arrays(**changed))
        return str(path)

    return save


def test_an_npz_is_read_as_it_is(saved: Callable[..., str]) -> None:
    x = np.random.default_rng(0).integers(0, 255, (6, 5, 5, 3)).astype(np.uint8)
    data = load_dataset(saved(x_train=x, x_test=x[:3]))
    assert data.name == "mine"
    assert data.input_shape == (5, 5, 3)
    assert data.x_train.dtype == np.uint8
    assert np.array_equal(data.x_train, x)
    assert data.y_test.tolist() == [0, 1, 2]


def test_examples_are_drawn_once_each_and_by_the_seed() -> None:
    x = np.arange(50).reshape(50, 1)
    data = Dataset("d", x, x[:, 0], x, x[:, 0])
    drawn = data.examples(20, seed=1)
    assert len(np.unique(drawn)) == 20
    assert drawn.dtype == np.float32
    assert np.array_equal(drawn, data.examples(20, seed=1))
    assert not np.array_equal(drawn, data.examples(20, seed=2))
    assert len(data.examples(1000, seed=0)) == 50


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"y_test": np.arange(4)},
            r"x_test and y_test must have as many rows, got \(3, 4\) and \(4,\)",
        ),
        ({"y_train": np.arange(5)}, "x_train and y_train must have as many rows"),
        ({"x_test": np.zeros((3, 5))}, r"must have one shape, got \(4,\) and \(5,\)"),
        ({"x_test": np.zeros((3, 2, 2))}, r"must have one shape, got \(4,\) and \(2, 2\)"),
        ({"x_train": np.zeros(6)}, r"x_train must have shape \(N, …\) with N ≥ 1, got \(6,\)"),
        ({"x_test": np.zeros((0, 4)), "y_test": np.zeros(0, int)}, r"N ≥ 1, got \(0, 4\)"),
        ({"x_train": np.full((6, 4), np.nan)}, "x_train must be finite, got NaN or infinity"),
        ({"x_test": np.full((3, 4), np.inf)}, "x_test must be finite, got NaN or infinity"),
        ({"y_train": np.full(6, np.nan)}, "y_train must be finite"),
        ({"y_train": np.array(list("abcdef"))}, "y_train must hold numbers, got <U1"),
        ({"x_train": np.zeros((6, 4), complex)}, "x_train must hold numbers, got complex128"),
        ({"y_test": np.array(3)}, "x_test and y_test must have as many rows"),
    ],
)
def test_arrays_that_cannot_be_used_say_what_they_must_be(
    saved: Callable[..., str], changed: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(saved(**changed))
    assert str(caught.value).startswith("mine: ")


def test_an_npz_without_an_array_names_the_four_and_those_there_are(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.savez(path, x=np.zeros(3), y_train=np.zeros(3))
    with pytest.raises(DataError, match="x_train, y_train, x_test, y_test, got x, y_train"):
        load_dataset(str(path))
    np.savez(path)
    with pytest.raises(DataError, match="got none"):
        load_dataset(str(path))


def test_pickled_objects_are_refused_and_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return (Path.touch, (tmp_path / "sprung",))

    objects = np.empty(6, object)
    objects[:] = [Trap() for _ in range(6)]
    path = tmp_path / "d.npz"
    np.savez(path, **arrays(y_train=objects))
    with pytest.raises(DataError, match=r"without pickled objects; reading it failed: "):
        load_dataset(str(path))
    assert not (tmp_path / "sprung").exists()


def damaged(good: bytes) -> dict[str, bytes]:
    middle = bytearray(good)
    middle[len(good) // 3 : len(good) // 3 + 60] = b"\xa5" * 60
    return {
        "empty": b"",
        "text": b"these are not the arrays you are looking for",
        "cut": good[: len(good) // 2],
        "overwritten": bytes(middle),
    }


@pytest.mark.parametrize("kind", ["empty", "text", "cut", "overwritten"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_a_damaged_npz_is_told(tmp_path: Path, kind: str, save: Callable[..., None]) -> None:
    path = tmp_path / "d.npz"
    noise = np.random.default_rng(0).random((300, 4)).astype(np.float32)
    save(path, **arrays(x_train=noise, y_train=np.arange(300)))
    path.write_bytes(damaged(path.read_bytes())[kind])
    with pytest.raises(DataError, match=r"d\.npz must be an \.npz file written by numpy\.savez"):
        load_dataset(str(path))


def test_a_single_array_under_the_name_of_an_npz_is_told(tmp_path: Path) -> None:
    with (tmp_path / "d.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=r"d\.npz must be an \.npz file"):
        load_dataset(str(tmp_path / "d.npz"))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    for ask in (load_dataset, fingerprint):
        with pytest.raises(DataError, match=r"none\.npz, which is no file"):
            ask(str(tmp_path / "none.npz"))


def test_an_unknown_source_names_what_there_is() -> None:
    with pytest.raises(
        RecipeError, match=r"digits, cifar10, fsdd, fsdd-mfcc, an \.npz file or .*got 'mnist'"
    ):
        load_dataset("mnist")


def test_the_digits_are_the_same_each_time_and_split_without_overlap() -> None:
    data, again = load_dataset("digits"), load_dataset("digits")
    assert data.x_train.shape == (1437, 8, 8, 1)
    assert data.x_test.shape == (360, 8, 8, 1)
    assert data.x_train.max() == 16
    assert set(np.unique(data.y_test)) == set(range(10))
    for name in ("x_train", "y_train", "x_test", "y_test"):
        assert np.array_equal(getattr(data, name), getattr(again, name))


@pytest.mark.parametrize(
    "body",
    [
        "return a, b, c, d",
        "return [a, b, c, d]",
        "return {'x_train': a, 'y_train': b, 'x_test': c, 'y_test': d}",
        "return a.tolist(), b.tolist(), c.tolist(), d.tolist()",
    ],
)
def test_a_function_gives_four_arrays_or_a_dict_of_them(own_folder: Path, body: str) -> None:
    (own_folder / "own_data.py").write_text(
        "import numpy as np\n"
        "a, b, c, d = np.zeros((6, 4)), np.arange(6), np.ones((3, 4)), np.arange(3)\n"
        f"def load():\n    {body}\n"
    )
    data = load_dataset("own_data:load")
    assert data.name == "load"
    assert data.x_test.tolist() == np.ones((3, 4)).tolist()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def load():\n    return 1, 2\n", "must return x_train, y_train, x_test, y_test, got 2"),
        (
            "def load():\n    return {'x_train': 1}\n",
            "must return x_train, y_train, x_test, y_test",
        ),
        ("def load():\n    return None\n", "must return x_train, y_train, x_test, y_test"),
        ("load = 3\n", "function"),
    ],
)
def test_a_function_of_another_form_is_told(own_folder: Path, body: str, message: str) -> None:
    (own_folder / "own_data.py").write_text(body)
    with pytest.raises((DataError, RecipeError), match=message):
        load_dataset("own_data:load")


def test_the_fingerprint_follows_the_file(saved: Callable[..., str]) -> None:
    before = fingerprint(saved())
    assert fingerprint(saved()) == before
    assert fingerprint(saved(x_train=np.ones((6, 4)))) != before


@pytest.mark.parametrize("file", ["own_code.py", "own_pack/own_code.py", "own_pack/__init__.py"])
def test_the_fingerprint_of_a_function_follows_its_module_loaded_or_not(
    own_folder: Path, file: str
) -> None:
    path = own_folder / file
    path.parent.mkdir(exist_ok=True)
    path.write_text("def load():\n    return 1, 2\n")
    module = file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    source = f"{module}:load"
    before = module_hash(source)
    assert before
    with pytest.raises(DataError):
        load_dataset(source)  # from here on the folder is searched for modules
    importlib.invalidate_caches()
    assert module_hash(source) == before
    path.write_text("def load():\n    return 1, 2, 3\n")
    assert module_hash(source) != before


def test_fsdd_and_cifar10_say_where_they_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import keras

    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(
        DataError, match=re.escape("fsdd must lie at $EDGEPALETTE_DATA/data/fsdd.npz")
    ):
        load_dataset("fsdd")

    def offline() -> None:
        raise OSError("no network")

    monkeypatch.setattr(keras.datasets.cifar10, "load_data", offline)
    with pytest.raises(DataError, match=r"\(no network\); set EDGEPALETTE_DATA or give your own"):
        load_dataset("cifar10")


def test_fsdd_is_log_mel_frames_split_by_takes(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(shared))
    data = load_dataset("fsdd")
    assert (len(data.x_train), len(data.x_test)) == (2100, 900)
    assert data.input_shape[1:] == (40, 1)
    assert np.bincount(data.y_test).tolist() == [90] * 10
    assert fingerprint("fsdd").startswith("sha256:")
    # frames differ from recording to recording: this is no constant picture
    assert data.x_test.std(axis=0).mean() > 0


def test_mfccs_are_those_of_scipys_transforms(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEPALETTE_DATA", str(shared))
    data = load_dataset("fsdd-mfcc")
    assert data.x_train.shape == (2100, 49, 10, 1)
    assert data.x_test.shape == (900, 49, 10, 1)
    with np.load(shared / "data" / "fsdd.npz") as arrays:
        first = int(np.flatnonzero(arrays["takes"] < 15)[0])
        start, end = arrays["offsets"][first : first + 2]
        wave = np.zeros(8000)
        wave[: end - start] = (arrays["pcm"][start:end] / 2**15)[:8000]
    window = np.hanning(321)[:320]
    frames = np.stack([wave[160 * n : 160 * n + 320] * window for n in range(49)])
    spectra = np.abs(np.fft.rfft(frames, 512))
    mel = 1127 * np.log1p(np.arange(257) * 8000 / 512 / 700)
    edges = np.linspace(1127 * np.log1p(20 / 700), 1127 * np.log1p(4000 / 700), 42)
    rising = (mel[:, None] - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - mel[:, None]) / (edges[2:] - edges[1:-1])
    bands = np.maximum(0, np.minimum(rising, falling))
    bands[0] = 0
    expected = scipy.fft.dct(np.log(spectra @ bands + 1e-6), type=2, norm="ortho")[:, :10]
    expected[:, 0] *= np.sqrt(2)  # HTK's scale, which keyword spotting uses
    np.testing.assert_allclose(data.x_test[0, :, :, 0], expected, rtol=0, atol=1e-3)


@pytest.mark.slow  # 60,000 JPEG files
def test_cifar10_is_decoded_to_60000_pictures(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(shared))
    data = load_dataset("cifar10")
    assert data.x_train.shape == (50_000, 32, 32, 3)
    assert data.x_test.shape == (10_000, 32, 32, 3)
    assert data.x_train.dtype == np.uint8
    assert np.bincount(data.y_train).tolist() == [5000] * 10
    assert np.bincount(data.y_test).tolist() == [1000] * 10
    # natural pictures use the whole range
    assert 100 < data.x_test.mean() < 140
