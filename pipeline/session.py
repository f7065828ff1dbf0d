"""What the stages of one run share: the recipe, where files lie, data and task loaded once and only if needed."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import RecipeError
from ..evaluate.target import TARGETS, Target, get_target
from .progress import Progress
from .recipe import Recipe

if TYPE_CHECKING:
    from .data import Dataset
    from .task import Task


@dataclass(frozen=True, eq=False)
class Session:
    """One run at work."""

    recipe: Recipe
    directory: Path
    progress: Progress

    def path(self, *parts: str) -> Path:
        """A file of the run."""
        return self.directory.joinpath(*parts)

    @cached_property
    def data(self) -> Dataset:
        """The data set."""
        from .data import load_dataset

        self.progress.detail(f"loading {self.recipe.data.source}")
        return load_dataset(self.recipe.data.source)

    @cached_property
    def task(self) -> Task:
        """Loss and labels, from the source model: what a run saves is not compiled. Labels are checked."""
        from .models import load_model
        from .task import task_of

        model = load_model(self.recipe.model.source, self.data)
        task = task_of(model, self.data, self.recipe.baseline.loss)
        for name in ("y_train", "y_test"):
            task.canonical(getattr(self.data, name), f"{self.data.name}: {name}")
        return task

    def check(self) -> None:
        """Raises EdgepaletteError's kinds for all that can be told before anything is trained or written."""
        from ..evaluate.metric import get_metric
        from .cluster_stage import plan_of
        from .models import load_model, plain_copy

        get_metric(self.metric)
        model = load_model(self.recipe.model.source, self.data)
        plain_copy(model)  # what cannot be saved is not worth training
        for clusters in self.recipe.cluster.clusters:
            plan_of(model, clusters, self.recipe.cluster)

    @property
    def metric(self) -> str:
        """The metric of every row."""
        return self.recipe.evaluate.metric or self.task.metric

    def labels(self, part: str) -> Any:
        """Canonical labels of `train` or `test`."""
        name = f"y_{part}"
        return self.task.canonical(getattr(self.data, name), f"{self.data.name}: {name}")

    def fresh(self) -> None:
        """Seeds and Keras' name counters as at the start: a stage's files must not depend on what ran before."""
        import keras

        keras.utils.clear_session()
        keras.utils.set_random_seed(self.recipe.seed)

    @cached_property
    def targets(self) -> list[Target]:
        """What is measured on. Raises RecipeError for one that is missing or needs a format not exported."""
        return targets_of(self.recipe)


def targets_of(recipe: Recipe) -> list[Target]:
    """The targets asked for, else all installed ones the formats serve, but for those that must be named."""
    formats = recipe.export.formats
    names = recipe.evaluate.targets
    if names is None:
        return [
            target
            for target in TARGETS.values()
            if target.format in formats and not target.only_named and target.missing() is None
        ]
    targets = [get_target(name) for name in dict.fromkeys(names)]
    for target in targets:
        missing = target.missing()
        if missing is not None:
            raise RecipeError(f"target {target.name} is not installed here: {missing}")
        if target.format not in formats:
            raise RecipeError(
                f"target {target.name} runs {target.format} files, got formats {', '.join(formats)}; "
                f"add {target.format} to the formats"
            )
    return targets
