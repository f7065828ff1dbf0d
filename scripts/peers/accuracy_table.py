"""The accuracy table: its jobs, the file of results that lets it resume, and its text."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from edgepalette.pipeline.recipe import LEARNING_RATE, Recipe

from .accuracy_job import MODES, TASKS, Job

PEERS = Path(__file__).resolve().parent
CLUSTERED_MODES = tuple(mode for mode in MODES if mode != "float")


@dataclass(frozen=True)
class Row:
    """A row of the table: `clusters` of the whole model (one number), or of its last kernels if `selective`."""

    clusters: tuple[int, ...]
    selective: bool

    @property
    def name(self) -> str:
        """In the table's first column."""
        numbers = ",".join(map(str, self.clusters))
        return f"last {numbers}" if self.selective else numbers or "float"


FLOAT = Row((), selective=False)


class Results:
    """A file of JSON lines, {"job": key, …} with what `result` gives: a line per finished job, written as soon as there is one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for line in path.read_text().splitlines() if path.is_file() else []:
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # a line cut off when the machine stopped: its job runs again
            self._found[_text(entry["job"])] = entry

    def get(self, job: Job) -> dict[str, Any] | None:
        """The job's line, if it has finished."""
        return self._found.get(_text(job.key))

    def add(self, job: Job, found: dict[str, Any]) -> None:
        """Append the job's line."""
        entry = {"job": job.key, "threads": job.threads, **found}
        with self.path.open("a+b") as file:
            start = b"\n" if self._is_cut_off() else b""
            file.write(start + json.dumps(entry).encode() + b"\n")
            file.flush()
        self._found[_text(job.key)] = entry

    def _is_cut_off(self) -> bool:
        content = self.path.read_bytes()
        return bool(content) and not content.endswith(b"\n")


def run_jobs(
    jobs: Iterable[Job], results: Results, parallel: int, say: Callable[[str], None]
) -> list[str]:
    """Run what has no line yet, float starts first, each job in a process of its own; what failed."""
    jobs = list(jobs)
    failures: list[str] = []
    starts = [j for j in jobs if not j.clusters]
    lost = [job for job in starts if not Path(job.file).is_file()]
    for part in (starts, [j for j in jobs if j.clusters]):
        missing = [job for job in part if results.get(job) is None or job in lost]
        pool = ThreadPoolExecutor(parallel)
        try:
            running = {pool.submit(_run, job): job for job in missing}
            for future in as_completed(running):
                job = running[future]
                name = f"{job.task} {job.mode} {job.row} seed {job.seed}"
                try:
                    found = future.result()
                except RuntimeError as error:
                    failures.append(f"{name}: {error}")
                    continue
                results.add(job, found)
                say(f"{name}: {found['accuracy']:.4f} after {found['seconds']:.0f} s of training")
        finally:
            pool.shutdown(cancel_futures=True)
    return failures


def _run(job: Job) -> dict[str, Any]:
    """What the job's process prints. Raises RuntimeError with the end of its standard error if it fails."""
    program = "tfmot_accuracy.py" if MODES[job.mode].tfmot else "edgepalette_accuracy.py"
    done = subprocess.run(  # noqa: S603 # a program of this folder
        [sys.executable, str(PEERS / program), job.to_json()],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"stopped with {done.returncode}:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def jobs_of(template: Job, modes: Iterable[str], row: Row, seeds: Iterable[int]) -> Iterator[Job]:
    """The jobs of a row; the float row's are of mode `float` and do not depend on how clustering is trained."""
    for seed in seeds:
        job = replace(
            template,
            clusters=row.clusters,
            selective=row.selective,
            seed=seed,
            file=template.file.replace("{seed}", str(seed)),
        )
        if not row.clusters:
            yield replace(job, mode="float", epochs=0, rate=0.0)
            continue
        for mode in modes:
            # ours goes by its recipe
            yield replace(job, mode=mode, rate=0.0 if mode == "ours" else job.rate)


def summaries(jobs: Iterable[Job], results: Results) -> list[dict[str, Any]]:
    """A cell of the table each: mean, least and most accuracy over the seeds that have finished."""
    cells: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for job in jobs:
        found = results.get(job)
        if found is not None:
            name = Row(job.clusters, job.selective).name
            cells.setdefault((job.task, name, job.mode), []).append(found)
    return [_summary(*cell, found) for cell, found in cells.items()]


def _summary(task: str, row: str, mode: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    values = [entry["accuracy"] for entry in found]
    return {
        "task": task,
        "row": row,
        "mode": mode,
        "mean": sum(values) / len(values),
        "least": min(values),
        "most": max(values),
        "accuracy": values,
        "seeds": [entry["job"]["seed"] for entry in found],
        "bytes": found[0]["bytes"],
        "clustered": found[0]["clustered"],
        "examples": found[0]["examples"],
        "held_back": bool(found[0]["job"]["hold"]),
        "seconds": sum(entry["seconds"] for entry in found) / len(found),
    }


def tables(cells: list[dict[str, Any]], modes: Iterable[str]) -> Iterator[str]:
    """Lines of one task's tables, one of what starts linear and one of the rest."""
    modes = list(modes)
    linear = [mode for mode in modes if MODES[mode].linear]
    for columns in (linear, [mode for mode in modes if mode not in linear]):
        if columns:
            yield from _table(cells, columns)
            yield ""


def _table(cells: list[dict[str, Any]], columns: list[str]) -> Iterator[str]:
    """Lines: accuracy in percent, mean (least to most), then packed sizes in KB."""
    by_row: dict[str, dict[str, dict[str, Any]]] = {}
    for cell in cells:
        by_row.setdefault(cell["row"], {})[cell["mode"]] = cell
    yield "".join(
        [f"{'clusters':14}", *(f"{mode:24}" for mode in columns), f"{'KB tfmot':>9}{'KB ours':>9}"]
    )
    for row, found in by_row.items():
        shown = {mode: found.get(mode, found.get("float")) for mode in columns}
        # the last of a tool's: of ours its defaults
        tools = [[m for m in reversed(columns) if MODES[m].tfmot == peer] for peer in (True, False)]
        sizes = [_kilobytes(next(filter(None, map(shown.get, tool)), None)) for tool in tools]
        yield "".join([f"{row:14}", *(f"{_percent(shown[m]):24}" for m in columns), *sizes])


def _percent(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "–"
    mean, least, most = (100 * cell[name] for name in ("mean", "least", "most"))
    return f"{mean:.2f} ({least:.2f} to {most:.2f})" if len(cell["accuracy"]) > 1 else f"{mean:.2f}"


def _kilobytes(cell: dict[str, Any] | None) -> str:
    return f"{'–' if cell is None else format(cell['bytes'] / 1e3, '.1f'):>9}"


def heading(job: Job, seeds: list[int]) -> str:
    """What one task's figures are and what they were measured on."""
    recipe = job.recipe()
    budget = f"epochs {job.epochs}, Adam from {job.rate:g} along a cosine to 0"
    limited = f", trained on {job.limit} examples only" if job.limit else ""
    return (
        f"{job.task} on {recipe.data.source}: accuracy in %, {budget}, batches of {recipe.data.batch_size}{_augmentation(recipe)}{limited}; "
        f"seeds {', '.join(map(str, seeds))}: mean (least to most); measured on {_measured_on(job)}"
    )


def _augmentation(recipe: Recipe) -> str:
    said = {
        "mirrored": recipe.data.flip,
        f"shifted by up to {recipe.data.crop} pixels": recipe.data.crop,
    }
    return "".join(f", {text}" for text, holds in said.items() if holds)


def _measured_on(job: Job) -> str:
    if job.fresh and not job.hold:
        return f"a fresh test set of its size: other examples, none of the {job.fresh} choices were made on"
    if not job.hold:
        return "the test set"
    held = f"the last {job.hold} training examples"
    if TASKS[job.task].by_label:
        held += " of a shuffled order"
    held += ", left out of training here"
    return held if TASKS[job.task].trains_start else f"{held} (the float start may have seen them)"


def notes(job: Job, cells: list[dict[str, Any]]) -> Iterator[str]:
    """What every tool did, by mode, and how sizes are counted."""
    recipe = replace(job, mode="ours").recipe()
    section = recipe.cluster
    yield (
        f"tfmot: tensorflow-model-optimization {version('tensorflow-model-optimization')} on Keras 2, centroids start "
        "by K-means++ (its default), its stripped model as it is. It refreshes indices every step, leaves depthwise "
        "kernels dense, runs BatchNorm and Dropout of whole models in inference mode while training, and does not "
        "recalibrate BatchNorm."
    )
    yield "tfmot-frozen: the same with its first indices kept, as before its PR #519."
    yield "frozen: our training as tfmot's was before that PR: first indices kept, K-means++, labels, centroid rate 1."
    yield "refreshed: the same with indices assigned again every step, as since that PR."
    yield "…-linear: centroids start evenly spaced, as that PR's text has it (or density-based)."
    yield (
        "ours: the recipe's defaults. Additions over refreshed: centroids start by k-means to its end, it learns the float start's outputs"
        f"{' (the mean of mirrored views)' if recipe.data.flip else ''} and hidden activations (weight "
        f"{section.hidden_weight:g}) in place of the labels, its learning rate is {LEARNING_RATE:g} "
        f"· √(16/K) in the mean over all weights of kernels, K no more than 16, "
        f"centroids take {section.centroid_rate:g} of the optimizer's step, damping {section.damping:g}, "
        f"trained as int8 runs: {'yes' if section.int8 else 'no'}."
    )
    yield (
        "frozen, refreshed and ours: kernels are clustered with BatchNorm's signs, depthwise ones too (ours: by at least 16 "
        "clusters), and BatchNorm is recalibrated on training inputs at the end."
    )
    yield (
        "All: same data, float start, order of batches, augmentation and Adam. Tools draw Dropout's "
        "masks for themselves."
    )
    for name, layers in _selected(cells).items():
        yield f"{name}: clusters of {layers}; all other weights are left alone."
    yield (
        "KB: packed size of weights, 1,000 bytes, for all tools counted in the same way: ceil(log2 K) bits a clustered "
        "weight and K float32 values a kernel, every other weight float32. No file's size."
    )


def _selected(cells: list[dict[str, Any]]) -> dict[str, str]:
    """By name of every selective row, its kernels."""
    return {
        cell["row"]: ", ".join(cell["clustered"])
        for cell in cells
        if cell["row"].startswith("last")
    }


def _text(key: dict[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
