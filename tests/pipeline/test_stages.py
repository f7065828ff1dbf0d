"""A finished stage is not repeated, and is when anything it is made of has changed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgepalette.errors import RunError
from edgepalette.pipeline.stages import MARKERS, Kind, RunDirectory, Stage, stages_from


class Steps:
    """A run of two stages in a folder, and how often each was called."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.directory = RunDirectory(path)
        self.calls: list[str] = []

    def first(self, **settings: Any) -> Stage:
        """Writes a.txt."""
        return self._stage(Kind.BASELINE, "first", (), ("a.txt",), settings)

    def second(self, **settings: Any) -> Stage:
        """Makes b/b.txt of a.txt."""
        return self._stage(Kind.CLUSTER, "second", ("a.txt",), ("b/b.txt",), settings)

    def _stage(
        self,
        kind: Kind,
        name: str,
        requires: tuple[str, ...],
        ensures: tuple[str, ...],
        settings: dict[str, Any],
    ) -> Stage:
        def call(key: str) -> None:
            self.calls.append(name)
            for file in ensures:
                path = self.path / file
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(f"{name} {settings}")

        return Stage(kind, name, settings, requires, ensures, call)


@pytest.fixture
def steps(tmp_path: Path) -> Steps:
    return Steps(tmp_path / "run")


def finish(steps: Steps, *stages: Stage) -> None:
    with steps.directory.locked():
        for stage in stages:
            steps.directory.run(stage)


def test_a_stage_is_done_once_it_ran(steps: Steps) -> None:
    first = steps.first()
    assert not steps.directory.is_done(first)
    finish(steps, first)
    assert steps.directory.is_done(first)
    assert steps.calls == ["first"]


def test_a_forgotten_stage_is_not_done(steps: Steps) -> None:
    finish(steps, steps.first())
    steps.directory.forget("first")
    assert not steps.directory.is_done(steps.first())
    steps.directory.forget("first")


def test_another_setting_makes_a_stage_run_again(steps: Steps) -> None:
    finish(steps, steps.first(seed=0))
    assert steps.directory.is_done(steps.first(seed=0))
    assert not steps.directory.is_done(steps.first(seed=1))
    assert not steps.directory.is_done(steps.first())


def test_another_required_file_makes_a_stage_run_again(steps: Steps) -> None:
    finish(steps, steps.first(), steps.second())
    assert steps.directory.is_done(steps.second())
    (steps.path / "a.txt").write_text("changed")
    assert not steps.directory.is_done(steps.second())
    assert not steps.directory.is_done(steps.first())


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_text("changed")])
def test_a_file_left_that_is_gone_or_changed_makes_a_stage_run_again(
    steps: Steps, damage: Callable[[Path], Any]
) -> None:
    finish(steps, steps.first(), steps.second())
    damage(steps.path / "b" / "b.txt")
    assert not steps.directory.is_done(steps.second())
    assert steps.directory.is_done(steps.first())


def test_another_version_makes_a_stage_run_again(
    steps: Steps, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(steps, steps.first())
    monkeypatch.setattr("edgepalette.pipeline.stages.__version__", "0.0.0")
    assert not steps.directory.is_done(steps.first())


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "null", '{"key": 1}'])
def test_a_damaged_marker_means_not_done(steps: Steps, content: str) -> None:
    finish(steps, steps.first())
    (steps.path / MARKERS / "first.json").write_text(content)
    assert not steps.directory.is_done(steps.first())


def test_a_stage_whose_requirement_is_missing_says_which(steps: Steps) -> None:
    with (
        steps.directory.locked(),
        pytest.raises(
            RunError, match=r"stage second requires a\.txt in .*run the stages before it"
        ),
    ):
        steps.directory.run(steps.second())
    assert steps.directory.key(steps.second()) is None


def test_a_stage_that_did_not_do_its_work_is_not_done(steps: Steps) -> None:
    lazy = Stage(Kind.BASELINE, "lazy", {}, (), ("a.txt", "c.txt"), lambda key: None)
    with (
        steps.directory.locked(),
        pytest.raises(RunError, match=r"stage lazy did not leave a\.txt, c\.txt"),
    ):
        steps.directory.run(lazy)
    assert not steps.directory.is_done(lazy)


def test_a_stage_that_fails_before_it_wrote_loses_nothing(steps: Steps) -> None:
    # a mistyped option must not cost the hours of the run before it
    def fail(key: str) -> None:
        raise RuntimeError("wrong option")

    finish(steps, steps.first(seed=0))
    other = Stage(Kind.BASELINE, "first", {"seed": 1}, (), ("a.txt",), fail)
    with steps.directory.locked(), pytest.raises(RuntimeError, match="wrong option"):
        steps.directory.run(other)
    assert steps.directory.is_done(steps.first(seed=0))


def test_a_file_is_no_run_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(RunError, match="must be a folder, got the file"),
        RunDirectory(tmp_path / "file").locked(),
    ):
        pass


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with (
        pytest.raises(RunError, match=r"must be new, empty or a run's, got .*choose another --out"),
        RunDirectory(tmp_path).locked(),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_empty_folder_will_do(tmp_path: Path) -> None:
    with RunDirectory(tmp_path).locked():
        assert (tmp_path / MARKERS).is_dir()


HOLD = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(60)
"""


def test_a_run_of_another_process_keeps_the_directory(tmp_path: Path) -> None:
    with RunDirectory(tmp_path).locked():
        pass
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / MARKERS / "lock")],
        stdout=subprocess.PIPE,
        text=True,
    )
    with other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(RunError, match=r"another run works in .*wait for it or choose another"),
            RunDirectory(tmp_path).locked(),
        ):
            pass
        other.kill()
    # the lock dies with its process: a killed run can be taken up at once
    with RunDirectory(tmp_path).locked():
        pass


def test_temporary_files_of_a_killed_run_are_removed_and_nothing_else(steps: Steps) -> None:
    finish(steps, steps.first(), steps.second())
    left_over = [
        steps.path / ".measurements-x8ab3f2_.json",
        steps.path / "b" / ".b-k3v9d0aa.txt",
        steps.path / MARKERS / ".second-p0q1r2s3.json",
    ]
    for path in left_over:
        path.write_text("half")
    steps.directory.remove_partial()
    assert [path for path in left_over if path.exists()] == []
    assert steps.directory.is_done(steps.first())
    assert steps.directory.is_done(steps.second())


def test_stages_from_a_kind_are_it_and_all_later_ones(steps: Steps) -> None:
    stages = [steps.first(), steps.second()]
    assert stages_from(stages, Kind.CLUSTER) == stages[1:]
    assert stages_from(stages, Kind.BASELINE) == stages
    assert stages_from(stages, Kind.REPORT) == []
