"""SIGKILL in every stage, run again, and the files are those of a run nobody killed, bit for bit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EDGEPALETTE = str(Path(sys.executable).with_name("edgepalette"))
# these hold latencies, which differ from run to run, or hashes of files that do
TIMED = {
    "clusters-4/evaluate.json",
    "measurements.json",
    "report.html",
    ".stages/evaluate-4.json",
    ".stages/report.json",
}
EPOCHS = 10
TIME_LIMIT_S = 120

# stage whose line is waited for, the file that must be there then (if any), seconds until the kill
KILLS: list[tuple[str, str | None, float]] = [
    ("baseline", None, 0.0),
    ("baseline", "baseline/checkpoint.npz", 0.05),
    ("cluster-4", "clusters-4/checkpoint.npz", 0.1),
    ("export-4", None, 1.0),
    ("evaluate-4", None, 0.6),
    ("report", None, 0.02),
]


class Killed:
    """`edgepalette run` in a folder, as often as it takes."""

    def __init__(self, folder: Path, model: Path, data: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.arguments = [EDGEPALETTE, "run", "--model", str(model), "--data", str(data)]
        self.arguments += ["--clusters", "4", "--baseline-epochs", str(EPOCHS)]
        self.arguments += ["--epochs", str(EPOCHS), "--out", "run", "--json"]

    def whole(self) -> list[dict[str, Any]]:
        """To the end; the rows it prints."""
        done = subprocess.run(
            self.arguments, cwd=self.folder, capture_output=True, text=True, timeout=TIME_LIMIT_S
        )
        assert done.returncode == 0, done.stderr
        rows: list[dict[str, Any]] = json.loads(done.stdout)
        return rows

    def kill(self, stage: str, file: str | None, delay: float) -> None:
        """Until the stage has begun and the file is there, and a little further."""
        process = subprocess.Popen(
            self.arguments,
            cwd=self.folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            assert process.stderr is not None
            for line in process.stderr:
                if line.strip() == stage:
                    break
            else:
                pytest.fail(f"{stage} never began")
            end = time.monotonic() + TIME_LIMIT_S
            while file is not None and not (self.folder / "run" / file).exists():
                assert time.monotonic() < end
                assert process.poll() is None
                time.sleep(0.005)
            time.sleep(delay)
            process.kill()
        # it was killed and had not ended before
        assert process.returncode == -signal.SIGKILL, (stage, file)


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith("latency")}


# trains, exports and measures in eight processes, each of which loads TensorFlow
@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_in_the_same_files(
    tmp_path: Path,
    npz: Path,
    keras_file: Path,
    snapshot: Callable[[Path], dict[str, bytes]],
) -> None:
    killed = Killed(tmp_path / "killed", keras_file, npz)
    for stage, file, delay in KILLS:
        killed.kill(stage, file, delay)
    rows = killed.whole()
    left = snapshot(killed.folder / "run")

    undisturbed = Killed(tmp_path / "undisturbed", keras_file, npz)
    expected_rows = undisturbed.whole()
    expected = snapshot(undisturbed.folder / "run")

    assert sorted(left) == sorted(expected)
    assert [name for name in expected if name not in TIMED and left[name] != expected[name]] == []
    assert [*map(without_times, rows)] == [*map(without_times, expected_rows)]
    assert len(json.loads(left["clusters-4/cluster.json"])["history"]) == EPOCHS
    # a run says nothing but the rows on standard output; read again they are what is stored
    assert json.loads(left["measurements.json"]) == rows
