"""The recipe: everything a run is made from, typed, read from TOML and from options."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..cluster.aggregation import GradientAggregation
from ..cluster.centroids import Initialization
from ..cluster.palette import MAX_CLUSTERS
from ..errors import RecipeError

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Clusters = Annotated[int, Field(ge=2, le=MAX_CLUSTERS)]

# of clustering-aware training, for kernels with so many clusters or more; chosen on held-back images of CIFAR-10
LEARNING_RATE, LEARNING_RATE_CLUSTERS = 5e-4, 16


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelSection(_Section):
    """`source`: digits-cnn, resnet8, ds-cnn-l, autoencoder, mobilenet-v1, mobilenet-v2, a .keras or .h5 file, or package.module:function."""

    source: str = "digits-cnn"


class DataSection(_Section):
    """`source`: digits, cifar10, fsdd, fsdd-mfcc, an .npz file, or package.module:function; augmentation of training images."""

    source: str = "digits"
    batch_size: Positive = 64
    flip: bool = False
    crop: Count = 0


class BaselineSection(_Section):
    """Training before clustering. epochs: None = 0 for a model from a file, else chosen from the data's size."""

    epochs: Count | None = None
    learning_rate: Rate = 1e-3
    loss: str | None = None


class LayerLine(_Section):
    """Selective clustering: what `pattern` names gets `clusters`, or is skipped."""

    pattern: str
    clusters: Clusters | None = None
    per_channel: bool | None = None
    skip: bool = False


class ClusterSection(_Section):
    """Clustering-aware training: one result per entry of `clusters`. epochs: 0 clusters without training.

    learning_rate: None = by the numbers of clusters.
    """

    clusters: Annotated[tuple[Clusters, ...], Field(min_length=1)] = (16,)
    epochs: Count | None = None
    learning_rate: Rate | None = None
    initialization: Initialization = Initialization.KMEANS
    aggregation: GradientAggregation = GradientAggregation.SUM
    distill: bool = True
    hidden_weight: Annotated[float, Field(ge=0)] = 0.7
    centroid_rate: Annotated[float, Field(ge=0, le=1)] = 0.2
    damping: Annotated[float, Field(ge=0)] = 0.01
    refresh: bool = True
    refresh_every: Positive = 1
    per_channel: bool = False
    min_size: Count = 0
    preserve_sparsity: bool = True
    int8: bool = False
    recalibrate: bool = True
    layers: tuple[LayerLine, ...] = ()


class ExportSection(_Section):
    """`tables`: shared, or per-channel for runtimes that do not read shared ones. calibration: training examples.

    averages: of whole maps, by operators whose int8 result is finer, or by pooling as the converters have it.
    formats: c, the firmware of the palette .tflite, brings tflite with it.
    """

    formats: Annotated[
        tuple[Literal["tflite", "onnx", "onnx-int8", "c"], ...],
        Field(min_length=1),
        AfterValidator(
            lambda names: names if "c" not in names or "tflite" in names else ("tflite", *names)
        ),
    ] = ("tflite", "onnx")
    tables: Literal["shared", "per-channel"] = "shared"
    averages: Literal["mean", "pool"] = "mean"
    calibration: Positive = 200

    @property
    def folds_gains(self) -> bool:
        """Whether a format multiplies a gain per channel into the weights before it rounds them."""
        return "tflite" in self.formats or "onnx-int8" in self.formats


class EvaluateSection(_Section):
    """`targets`: None = all that are installed, but for those that must be named. metric: None = accuracy, or mae for regression.

    emulated_samples: test examples that emulated microcontrollers run.
    """

    targets: tuple[str, ...] | None = None
    metric: str | None = None
    threads: Positive = 1
    latency_runs: Positive = 50
    emulated_samples: Positive = 20


class Recipe(_Section):
    """One run. out: None = runs/MODEL-DATA."""

    seed: Count = 0
    out: str | None = None
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    baseline: BaselineSection = BaselineSection()
    cluster: ClusterSection = ClusterSection()
    export: ExportSection = ExportSection()
    evaluate: EvaluateSection = EvaluateSection()

    @property
    def directory(self) -> Path:
        """The run directory."""
        if self.out is not None:
            return Path(self.out)
        return Path("runs", f"{_word(self.model.source)}-{_word(self.data.source)}")

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        plain: dict[str, Any] = self.model_dump(mode="json")
        return plain


def read_recipe(path: Path | None, options: dict[str, Any]) -> Recipe:
    """The recipe of a TOML file, if any, with options in place of its keys.

    options: dotted keys (`cluster.epochs`) to values; None leaves the file's.
    Raises RecipeError for an unreadable file, an unknown key or a value that cannot be used.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        try:
            tree = tomllib.loads(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(f"the recipe {path} cannot be read: {error}") from None
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(f"the recipe {path} must be TOML: {error}") from None
    return _with_options(tree, options, str(path) if path else "the options")


def changed(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    """A recipe with options (dotted keys) in place of its values. Raises RecipeError as `read_recipe` does."""
    return _with_options(recipe.to_json(), options, "the options")


def recipe_of(tree: dict[str, Any], where: str) -> Recipe:
    """A recipe of plain values. Raises RecipeError naming each key that is wrong."""
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        entries = error.errors()
        # pydantic counts a list without its wrong entries and then calls it too short
        told = [
            e
            for e in entries
            if not (
                e["type"] == "too_short"
                and any(o["loc"][: len(e["loc"])] == e["loc"] for o in entries if o is not e)
            )
        ]
        raise RecipeError("\n".join(_complaint(entry, where) for entry in told)) from None


def _with_options(tree: dict[str, Any], options: dict[str, Any], where: str) -> Recipe:
    for key, value in options.items():
        if value is not None:
            _set(tree, key, value)
    return recipe_of(tree, where)


def _complaint(entry: Any, where: str) -> str:
    key = ".".join(str(part) for part in entry["loc"])
    if entry["type"] == "extra_forbidden":
        return f"{where}: unknown key {key!r}; `edgepalette init` writes a recipe with every key there is"
    return f"{where}: {key}: {entry['msg'][0].lower()}{entry['msg'][1:]}, got {entry['input']!r}"


def _set(tree: dict[str, Any], key: str, value: Any) -> None:
    *sections, last = key.split(".")
    for section in sections:
        tree = tree.setdefault(section, {})
        if not isinstance(tree, dict):
            raise RecipeError(f"recipe key {section!r} must be a section, got {tree!r}")
    tree[last] = value


def _word(source: str) -> str:
    """A source as part of a folder's name: `a/b.keras` and `pkg.mod:f` become `b` and `f`."""
    return Path(source.rsplit(":", 1)[-1]).stem or "run"
