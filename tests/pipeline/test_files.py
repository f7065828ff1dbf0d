"""Files written whole or not at all."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from edgepalette.pipeline.files import (
    replacing,
    save_keras,
    sha256,
    sha256_of,
    write_array,
    write_bytes,
    write_json,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_error_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def fail() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise RuntimeError("stopped here")

    with pytest.raises(RuntimeError, match="stopped here"):
        fail()
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_an_error_leaves_no_file_where_there_was_none(tmp_path: Path) -> None:
    class Unwritable:
        def __array__(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("no array")

    with pytest.raises(RuntimeError, match="no array"):
        write_array(tmp_path / "a.npy", Unwritable())
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"set": {1}})
    assert names(tmp_path) == []


def test_the_file_is_the_old_one_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    with replacing(path) as temporary:
        temporary.write_bytes(b"new")
        assert path.read_bytes() == b"old"
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.bin"]


def test_folders_are_made_and_others_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x" / "y" / "a.txt"
    write_text(path, "µ\n")
    assert path.read_bytes() == "µ\n".encode()
    assert path.stat().st_mode & 0o777 == 0o644


def test_json_and_arrays_come_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1, None], "ü": "×"})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": [1, None], "ü": "×"}
    array = np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1]
    write_array(tmp_path / "a.npy", array)
    assert np.array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), array)


def test_a_model_saved_at_another_time_has_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")], name="m")
    save_keras(model, tmp_path / "a.keras")
    hours_later = time.time() + 7200
    monkeypatch.setattr(time, "time", lambda: hours_later)
    time.sleep(1.1)  # Keras' date and the archive's times count seconds
    save_keras(model, tmp_path / "b.keras")
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    again = keras.models.load_model(tmp_path / "a.keras")
    for ours, theirs in zip(model.get_weights(), again.get_weights(), strict=True):
        assert np.array_equal(ours, theirs)


def test_hashes_tell_contents_apart_and_not_the_order_of_keys(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"a" * (1 << 21))
    write_bytes(tmp_path / "b", b"a" * (1 << 21))
    assert sha256(tmp_path / "a") == sha256(tmp_path / "b")
    write_bytes(tmp_path / "b", b"a" * (1 << 21) + b"b")
    assert sha256(tmp_path / "a") != sha256(tmp_path / "b")
    assert sha256_of({"a": 1, "b": 2}) == sha256_of({"b": 2, "a": 1})
    assert sha256_of({"a": 1}) != sha256_of({"a": 2})
