"""A run directory and its stages: requires → call → ensures; a finished stage is not repeated.

A stage is finished when its marker, written last, holds the hash of all it depends on (settings, the files it
requires, edgepalette's version) and the hashes of the files it left, and those files are still so.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import RunError
from .files import sha256, sha256_of, write_json

MARKERS = ".stages"


class Kind(Enum):
    """The stages in order; `cluster`, `export` and `evaluate` run once per number of clusters."""

    BASELINE = "baseline"
    CLUSTER = "cluster"
    EXPORT = "export"
    EVALUATE = "evaluate"
    REPORT = "report"


@dataclass(frozen=True, eq=False)
class Stage:
    """One step of a run. `call` takes the stage's key; paths are relative to the run directory."""

    kind: Kind
    name: str
    settings: dict[str, Any]
    requires: tuple[str, ...]
    ensures: tuple[str, ...]
    call: Callable[[str], None]


class RunDirectory:
    """A directory that holds a run. Raises RunError if it holds something else or cannot be written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def check(self) -> None:
        """Raises RunError for a path that can hold no run; makes nothing."""
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"the run directory must be a folder, got the file {self.path}")
        if self.path.is_dir() and any(self.path.iterdir()) and not (self.path / MARKERS).is_dir():
            raise RunError(
                f"the run directory must be new, empty or a run's, got {self.path} with other files in it; "
                "choose another --out"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the directory and keep other runs out of it."""
        self.check()
        markers = self.path / MARKERS
        markers.mkdir(parents=True, exist_ok=True)
        with (markers / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(
                    f"another run works in {self.path}; wait for it or choose another --out"
                ) from None
            yield

    def key(self, stage: Stage) -> str | None:
        """Hash of all the stage depends on; None while a file it requires is missing."""
        required = {name: self.path / name for name in stage.requires}
        if not all(path.is_file() for path in required.values()):
            return None
        return sha256_of(
            {
                "version": __version__,
                "settings": stage.settings,
                "files": {name: sha256(path) for name, path in required.items()},
            }
        )

    def is_done(self, stage: Stage) -> bool:
        """Whether the stage's files are there and made of what they would be made of now."""
        marker = self._marker(stage.name)
        try:
            held = json.loads(marker.read_text())
        except (OSError, ValueError):
            return False
        if not isinstance(held, dict):
            return False
        outputs = held.get("outputs", {})
        return (
            held.get("key") == self.key(stage)
            and set(outputs) == set(stage.ensures)
            and all(
                (self.path / name).is_file() and sha256(self.path / name) == digest
                for name, digest in outputs.items()
            )
        )

    def run(self, stage: Stage) -> None:
        """Call the stage and mark it finished. Raises RunError if it did not do what it ensures."""
        key = self.key(stage)
        if key is None:
            missing = [name for name in stage.requires if not (self.path / name).is_file()]
            raise RunError(
                f"stage {stage.name} requires {', '.join(missing)} in {self.path}; run the stages before it"
            )
        # the marker stays: it holds the hashes of what it speaks of, and a call that fails at once loses nothing
        stage.call(key)
        left = {name: self.path / name for name in stage.ensures}
        missing = [name for name, path in left.items() if not path.is_file()]
        if missing:
            raise RunError(f"stage {stage.name} did not leave {', '.join(missing)}")
        outputs = {name: sha256(path) for name, path in left.items()}
        write_json(self._marker(stage.name), {"key": key, "outputs": outputs})

    def forget(self, name: str) -> None:
        """Make a stage run again."""
        self._marker(name).unlink(missing_ok=True)

    def remove_partial(self) -> None:
        """Temporary files of a run that was killed."""
        for path in self.path.rglob(".*-*"):
            if path.is_file() and path.stat().st_nlink == 1:
                path.unlink()

    def _marker(self, name: str) -> Path:
        return self.path / MARKERS / f"{name}.json"


def stages_from(stages: Sequence[Stage], first: Kind) -> list[Stage]:
    """The stages of a kind and all later kinds."""
    order = list(Kind)
    return [stage for stage in stages if order.index(stage.kind) >= order.index(first)]
