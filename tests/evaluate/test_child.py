"""Native runtimes in child processes: the same decisions from each, and no file takes the parent down.

Nothing here imports a runtime into this process: TensorFlow's libraries are loaded in it and clash with theirs.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgepalette.errors import TargetError
from edgepalette.evaluate.child import Outcome, Request, run_file
from edgepalette.evaluate.metric import decisions

PACKAGES = ("tflite-runtime", "ai-edge-litert")
# default kernels of two runtimes round convolutions apart by 1; behind a softmax that has come to 51 of 256 steps
# (measured on ResNet8), so that decisions are what must agree
KERNEL_STEPS = 51


@pytest.fixture
def request_of(exported: Any) -> Callable[..., Request]:
    def make(name: str, runtime: str = "tflite", **rest: Any) -> Request:
        return Request(runtime, str(exported.file(name)), str(exported.inputs), 40, **rest)

    return make


def test_both_tflite_packages_decide_alike(request_of: Callable[..., Request]) -> None:
    outcomes = [
        run_file(request_of("palette.tflite", options={"package": package})) for package in PACKAGES
    ]
    assert [outcome.version.split()[0] for outcome in outcomes] == list(PACKAGES)
    assert np.array_equal(*(decisions(outcome.outputs) for outcome in outcomes))
    steps = [outcome.raw.astype(np.int32) for outcome in outcomes]
    assert np.abs(steps[0] - steps[1]).max() <= KERNEL_STEPS


def test_every_runtime_decides_as_the_keras_model(
    request_of: Callable[..., Request], exported: Any
) -> None:
    expected = decisions(exported.float_outputs[:40])
    for name, runtime in [
        ("palette.tflite", "tflite"),
        ("palette.onnx", "onnx"),
        ("palette.tflite", "tflm"),
    ]:
        outcome = run_file(request_of(name, runtime))
        assert outcome.outputs.shape == (40, 10), runtime
        assert outcome.outputs.dtype == np.float32
        # one border case may fall to the other side in int8
        assert (decisions(outcome.outputs) == expected).mean() >= 39 / 40, runtime


def test_the_reference_resolver_gives_the_bytes_of_tflm(request_of: Callable[..., Request]) -> None:
    reference = run_file(request_of("palette.tflite", options={"resolver": "BUILTIN_REF"}))
    micro = run_file(request_of("palette.tflite", "tflm"))
    assert np.array_equal(reference.raw, micro.raw)


def test_tflm_tells_its_arena_and_the_others_do_not(request_of: Callable[..., Request]) -> None:
    micro = run_file(request_of("dense.tflite", "tflm"))
    assert micro.ram_bytes is not None
    # the first activation, 8×8×8 int8, must fit in; the whole x86-64 arena stays small
    assert 512 < micro.ram_bytes < 100_000
    assert run_file(request_of("dense.tflite")).ram_bytes is None


def test_times_are_given_as_often_as_asked(request_of: Callable[..., Request]) -> None:
    outcome = run_file(request_of("palette.tflite", latency_runs=5, threads=2))
    assert len(outcome.times_ms) == 5
    assert (outcome.times_ms > 0).all()


def hostile_files(good: bytes) -> dict[str, bytes]:
    """Damage of every kind: cut short, overwritten, offsets that lead anywhere, another format."""
    rng = np.random.default_rng(0)
    scattered = bytearray(good)
    for position in rng.integers(8, len(good), 40):
        scattered[position] = int(rng.integers(256))
    offsets = bytearray(good)
    offsets[8:200] = b"\xff" * 192
    return {
        "empty": b"",
        "only its identifier": good[:8],
        "half": good[: len(good) // 2],
        "no end": good[:-200],
        "scattered bytes": bytes(scattered),
        "wild offsets": bytes(offsets),
        "zeros": good[:8] + bytes(len(good) - 8),
        "text": b"not a model at all, but a text file\n" * 10,
    }


@pytest.mark.parametrize("runtime", ["tflite", "tflm", "onnx"])
def test_a_damaged_file_is_an_error_and_leaves_the_parent_alone(
    runtime: str, request_of: Callable[..., Request], exported: Any, tmp_path: Path
) -> None:
    form = "onnx" if runtime == "onnx" else "tflite"
    asked = request_of(f"palette.{form}", runtime)
    for name, data in hostile_files(exported.file(f"palette.{form}").read_bytes()).items():
        file = tmp_path / f"hostile.{form}"
        file.write_bytes(data)
        # damaged in a value only, a file still runs
        if name == "scattered bytes":
            with suppress(TargetError):
                assert isinstance(run_file(replace(asked, file=str(file), samples=2)), Outcome)
            continue
        with pytest.raises(TargetError, match=f"{runtime} (refused|crashed).*hostile.{form}"):
            run_file(replace(asked, file=str(file), samples=2))


def test_a_refusal_says_what_the_runtime_said_in_one_line(
    request_of: Callable[..., Request], tmp_path: Path
) -> None:
    file = tmp_path / "text.tflite"
    file.write_bytes(b"not a model, not a model")
    with pytest.raises(TargetError, match=r"it said: .*carries the identifier TFL3") as caught:
        run_file(replace(request_of("dense.tflite"), file=str(file)))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_a_file_that_is_gone_is_an_error(request_of: Callable[..., Request]) -> None:
    with pytest.raises(TargetError, match=r"tflite refused .*nowhere\.tflite.*No such file"):
        run_file(request_of("nowhere.tflite"))


def stand_in(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Let a shell script answer instead of the child."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


@pytest.mark.parametrize("name", ["SEGV", "ABRT", "KILL"])
def test_a_crash_is_named_by_its_signal(
    name: str, request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, tmp_path, f"kill -{name} $$")
    with pytest.raises(TargetError, match=rf"tflite crashed \(SIG{name}\) on .*dense\.tflite"):
        run_file(request_of("dense.tflite"))


def test_a_crash_by_a_signal_without_a_name_is_told_too(
    request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # 35 to 63 are real-time signals; Python names only the first and the last
    stand_in(monkeypatch, tmp_path, "kill -40 $$")
    with pytest.raises(TargetError, match=r"tflite crashed .*40"):
        run_file(request_of("dense.tflite"))


def test_a_child_that_does_not_answer_is_stopped_at_the_time_limit(
    request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, tmp_path, "exec sleep 60")
    with pytest.raises(TargetError, match=r"did not finish .*dense\.tflite within 0 s"):
        run_file(request_of("dense.tflite"), time_limit_s=0.2)


def test_a_child_that_says_nothing_is_told_by_its_exit_code(
    request_of: Callable[..., Request], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stand_in(monkeypatch, tmp_path, "exit 3")
    with pytest.raises(TargetError, match="it said: exit code 3"):
        run_file(request_of("dense.tflite"))
