"""One training of the accuracy table: what it is, its data and its result, the same for every tool."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgepalette.pipeline.recipe import LEARNING_RATE, Recipe, read_recipe

if TYPE_CHECKING:
    from edgepalette.pipeline.data import Dataset

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
# both networks end in a softmax over class numbers
LOSS = "sparse_categorical_crossentropy"
FLOAT_BYTES = 4
# kernels both tools can cluster: tfmot leaves depthwise ones dense
SELECTABLE = ("Conv2D", "Dense")
DEPTHWISE = "DepthwiseConv2D"


@dataclass(frozen=True)
class Task:
    """A network on its data.

    recipe: a file of `examples`. epochs: of clustering here, None for the recipe's. rate: Adam's first, of all but ours.
    by_label: whether training examples come class by class.
    """

    recipe: str
    epochs: int | None
    rate: float
    trains_start: bool
    by_label: bool


TASKS = {
    "resnet8": Task(
        "resnet8_cifar10.toml", None, LEARNING_RATE, trains_start=False, by_label=False
    ),
    # chosen on held-back recordings, of 2 and 6 epochs from 0.0001 to 0.001: where refreshed indices do best
    "ds-cnn-l": Task("ds_cnn_l_fsdd.toml", 6, 1e-4, trains_start=True, by_label=True),
}
# options in place of the recipe's where we train as tfmot does
AS_TFMOT = {
    "cluster.initialization": "kmeans++",
    "cluster.distill": False,
    "cluster.centroid_rate": 1.0,
    "cluster.damping": 0.0,
    "cluster.int8": False,
}


@dataclass(frozen=True)
class Mode:
    """A way to train. tfmot: by it, not by us; like_tfmot: by us, as it does.

    frozen: first indices are kept. linear: centroids start evenly spaced, as tfmot's PR #519 names it (or density-based);
    else by K-means++, today's default.
    """

    tfmot: bool = False
    like_tfmot: bool = False
    frozen: bool = False
    linear: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """In place of the recipe's."""
        if not self.like_tfmot:
            return {}
        start = {"cluster.initialization": "linear"} if self.linear else {}
        return {**AS_TFMOT, **start, "cluster.refresh": not self.frozen}


MODES = {
    "float": Mode(),
    "tfmot-frozen-linear": Mode(tfmot=True, frozen=True, linear=True),
    "tfmot-linear": Mode(tfmot=True, linear=True),
    "frozen-linear": Mode(like_tfmot=True, frozen=True, linear=True),
    "refreshed-linear": Mode(like_tfmot=True, linear=True),
    "tfmot-frozen": Mode(tfmot=True, frozen=True),
    "tfmot": Mode(tfmot=True),
    "frozen": Mode(like_tfmot=True, frozen=True),
    "refreshed": Mode(like_tfmot=True),
    "ours": Mode(),
}


@dataclass(frozen=True)
class Job:
    """One training and its measurement.

    clusters: of the whole model (one number), of its last kernels if `selective`, () for the float start.
    hold: training examples held back to be measured on, 0 for the test set. limit: of training examples, 0 for all.
    fresh: in place of the task's test set one of other examples, the last `fresh` held back when choosing not among them.
    epochs, start_epochs: of clustering, and of training the start. rate: Adam's first, of all modes but ours.
    start: what tells this start from others. file: the start's .keras file. threads: of TensorFlow.
    """

    task: str
    mode: str
    clusters: tuple[int, ...]
    selective: bool
    seed: int
    hold: int
    limit: int
    fresh: int
    epochs: int
    start_epochs: int
    rate: float
    start: str
    file: str
    threads: int

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job `to_json` wrote."""
        given = json.loads(text)
        return cls(**{**given, "clusters": tuple(given["clusters"])})

    def to_json(self) -> str:
        """For a child's argument."""
        return json.dumps(asdict(self))

    @property
    def row(self) -> str:
        """The table's row."""
        return ",".join(map(str, self.clusters)) if self.clusters else "float"

    @property
    def key(self) -> dict[str, Any]:
        """What decides the result; where files lie and how many threads there are does not."""
        found = asdict(self)
        del found["file"], found["threads"]
        return {**found, "clusters": list(self.clusters)}

    def recipe(self) -> Recipe:
        """The example's recipe under this mode, with all that is asked for."""
        options = {
            "seed": self.seed,
            "baseline.epochs": self.start_epochs,
            "cluster.epochs": self.epochs,
            **MODES[self.mode].options,
        }
        if MODES[self.mode].like_tfmot:
            options["cluster.learning_rate"] = self.rate
        return read_recipe(EXAMPLES / TASKS[self.task].recipe, options)

    def data(self) -> Dataset:
        """The task's data; its test set is what is measured on, and not opened further if examples are held back."""
        from edgepalette.pipeline.data import load_dataset

        data = load_dataset(self.recipe().data.source)
        if self.fresh:
            data = fresh_test(data, self.fresh)
        return split(data, self.hold, self.limit, TASKS[self.task].by_label)


def shuffled(count: int) -> NDArray[np.int64]:
    """The order of `count` training examples whose last are held back, the same for good."""
    return np.random.default_rng(0).permutation(count)


def fresh_test(data: Dataset, chosen_on: int) -> Dataset:
    """`data` with another test set, for a task whose own has been read: as many examples of each label.

    They are drawn, in the order of `split`, from the training examples but the last `chosen_on` of that order, which
    choices were measured on. All others are trained on, those of the old test set last. labels: (N,) integers.
    """
    count = len(data.x_train)
    if chosen_on >= count:
        raise ValueError(f"fewer examples must be left out than there are, got {chosen_on} of {count}")  # fmt: skip
    unseen = shuffled(count)[: count - chosen_on]
    drawn = np.zeros(count, bool)
    for label, needed in zip(*np.unique(data.y_test, return_counts=True), strict=True):
        found = unseen[data.y_train[unseen] == label][:needed]
        if len(found) < needed:
            raise ValueError(f"label {label} must have {needed} examples no choice has seen, got {len(found)}")  # fmt: skip
        drawn[found] = True
    return replace(
        data,
        x_train=np.concatenate([data.x_train[~drawn], data.x_test]),
        y_train=np.concatenate([data.y_train[~drawn], data.y_test]),
        x_test=data.x_train[drawn],
        y_test=data.y_train[drawn],
    )


def split(data: Dataset, hold: int, limit: int, by_label: bool) -> Dataset:
    """`data` with the last `hold` training examples for its test set, and of the others the first `limit`.

    by_label: take them from a shuffled order, for the last examples as they lie would be of one class; those that stay
    keep their order. 0 changes nothing.
    """
    count = len(data.x_train)
    if hold >= count:
        raise ValueError(f"fewer examples must be held back than there are, got {hold} of {count}")
    order = shuffled(count) if by_label else np.arange(count)
    kept = np.sort(order[: min(count - hold, limit or count)])
    held = np.sort(order[count - hold :])
    train = replace(data, x_train=data.x_train[kept], y_train=data.y_train[kept])
    if not hold:
        return train
    return replace(train, x_test=data.x_train[held], y_test=data.y_train[held])


def configure_threads(threads: int) -> None:
    """Before TensorFlow's first operation."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def lines_of(job: Job, model: Any) -> list[dict[str, Any]]:
    """The recipe's lines of layers: those of chosen kernels, all others skipped; of a whole model as a rule none.

    Trained as tfmot does, a whole model's depthwise kernels get as many clusters as all others: ours gives them more.
    """
    if job.selective:
        names = last_kernels(model, len(job.clusters))
        chosen = zip(names, job.clusters, strict=True)
        lines = [{"pattern": name, "clusters": number} for name, number in chosen]
        return [{"pattern": "*", "skip": True}, *lines]
    depthwise = any(type(layer).__name__ == DEPTHWISE for layer in model.layers)
    if MODES[job.mode].like_tfmot and depthwise:
        return [{"pattern": DEPTHWISE, "clusters": job.clusters[0]}]
    return []


def last_kernels(model: Any, count: int) -> list[str]:
    """Names of the layers that hold the last `count` kernels both tools can cluster, in the model's order."""
    names = [layer.name for layer in model.layers if type(layer).__name__ in SELECTABLE]
    return names[-count:]


def result(
    outputs: NDArray[np.float32],
    labels: NDArray[Any],
    weights: Iterable[tuple[str, NDArray[Any]]],
    clusters: Mapping[str, int],
    seconds: float,
) -> dict[str, Any]:
    """What a child prints. weights: (name, values) of all. clusters: by name, those of clustered ones.

    Raises ValueError for a weight that holds more values than it has clusters.
    """
    arrays = dict(weights)
    for name, number in clusters.items():
        values = len(np.unique(arrays[name]))
        if values > number:
            raise ValueError(f"{name} must hold at most {number} values, got {values}")
    return {
        "accuracy": float(np.mean(outputs.argmax(axis=1) == labels)),
        "examples": len(labels),
        "bytes": sum(packed_bytes(array, clusters.get(name)) for name, array in arrays.items()),
        "clustered": dict(clusters),
        "seconds": seconds,
    }


def packed_bytes(weight: NDArray[Any], clusters: int | None) -> int:
    """Bytes of a float32 weight: indices packed to whole bits with a float32 table, or dense for None."""
    if clusters is None:
        return FLOAT_BYTES * weight.size
    bits = math.ceil(math.log2(clusters))
    return math.ceil(bits * weight.size / 8) + FLOAT_BYTES * clusters
