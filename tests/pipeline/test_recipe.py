"""The recipe: typed keys, TOML, options over the file, and a template that tells the truth."""

from __future__ import annotations

import re
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from edgepalette.errors import RecipeError
from edgepalette.pipeline.recipe import Recipe, read_recipe, recipe_of

EXAMPLES = Path(__file__).parents[2] / "examples"


def template() -> str:
    file = resources.files("edgepalette.pipeline.templates").joinpath("recipe.toml.j2")
    return file.read_text()


def uncommented() -> str:
    """The template with every key that is commented out put in force."""
    return re.sub(r"^# (\[\[|[a-z_]+ = )", r"\1", template(), flags=re.MULTILINE)


def keys_of(model: type[BaseModel]) -> dict[str, Any]:
    """Every key of a section, sections within as their own keys."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found[name] = keys_of(inner)
        elif name == "layers":
            found[name] = {"pattern", "clusters", "per_channel", "skip"}
        else:
            found[name] = None
    return found


def test_the_template_as_written_is_the_default_recipe() -> None:
    assert recipe_of(tomllib.loads(template()), "template") == Recipe()


def test_the_template_names_every_key_there_is_and_no_other() -> None:
    tree = tomllib.loads(uncommented())
    layers = tree["cluster"]["layers"]
    named = {
        name: dict.fromkeys(value) if isinstance(value, dict) else None
        for name, value in tree.items()
    }
    named["cluster"]["layers"] = {key for line in layers for key in line}
    assert named == keys_of(Recipe)


def test_the_template_with_every_key_in_force_is_a_recipe() -> None:
    recipe = recipe_of(tomllib.loads(uncommented()), "template")
    assert [line.pattern for line in recipe.cluster.layers] == ["conv2d_1", "Dense"]
    assert recipe.evaluate.targets == ("host-tflite", "host-onnx", "tflm")


def test_a_recipe_survives_its_json() -> None:
    recipe = recipe_of({"cluster": {"clusters": [4, 16], "initialization": "linear"}}, "here")
    assert recipe_of(recipe.to_json(), "json") == recipe


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"epochs": 3}, "unknown key 'epochs'; `edgepalette init` writes a recipe with every key"),
        ({"cluster": {"cluster": 3}}, r"unknown key 'cluster\.cluster'"),
        ({"cluster": {"layers": [{"pattern": "a", "bits": 4}]}}, r"'cluster\.layers\.0\.bits'"),
        (
            {"cluster": {"clusters": [1]}},
            r"cluster\.clusters\.0: .*greater than or equal to 2, got 1",
        ),
        ({"cluster": {"clusters": [300]}}, r"less than or equal to 256, got 300"),
        ({"cluster": {"clusters": []}}, r"cluster\.clusters: .*at least 1 item.*got"),
        ({"cluster": {"clusters": 16}}, r"cluster\.clusters: .*tuple, got 16"),
        ({"cluster": {"clusters": ["many"]}}, r"integer.*got 'many'"),
        ({"cluster": {"layers": [{"pattern": "a", "clusters": 257}]}}, "got 257"),
        ({"cluster": {"layers": [{"clusters": 4}]}}, r"layers\.0\.pattern: field required"),
        ({"cluster": {"initialization": "magic"}}, r"cluster\.initialization: .*got 'magic'"),
        ({"cluster": {"learning_rate": 0}}, r"cluster\.learning_rate: .*got 0"),
        ({"cluster": {"learning_rate": float("nan")}}, r"cluster\.learning_rate: .*got nan"),
        ({"baseline": {"epochs": -1}}, r"baseline\.epochs: .*got -1"),
        ({"data": {"batch_size": 0}}, r"data\.batch_size: .*got 0"),
        ({"data": {"crop": "3px"}}, r"data\.crop: .*got '3px'"),
        ({"data": "digits"}, "data: .*got 'digits'"),
        ({"export": {"formats": ["coreml"]}}, "'onnx', 'onnx-int8' or 'c', got 'coreml'"),
        ({"export": {"formats": []}}, r"export\.formats: .*at least 1 item"),
        ({"export": {"tables": "none"}}, r"export\.tables: .*got 'none'"),
        ({"export": {"averages": "median"}}, r"export\.averages: .*got 'median'"),
        ({"evaluate": {"threads": 0}}, r"evaluate\.threads: .*got 0"),
        ({"seed": -1}, "seed: .*got -1"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_what_it_must_be(
    tree: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        recipe_of(tree, "my.toml")
    assert str(caught.value).startswith("my.toml: ")


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_of({"seed": -1, "cluster": {"clusters": [1]}, "speed": 1}, "my.toml")
    assert len(str(caught.value).splitlines()) == 3


def test_options_stand_above_the_file_and_none_leaves_it(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text('seed = 7\n[cluster]\nepochs = 9\nclusters = [32]\n[data]\nsource = "a.npz"\n')
    recipe = read_recipe(
        file, {"cluster.epochs": 1, "cluster.clusters": None, "seed": None, "out": "there"}
    )
    assert recipe.cluster.epochs == 1
    assert recipe.cluster.clusters == (32,)
    assert recipe.seed == 7
    assert recipe.data.source == "a.npz"
    assert recipe.directory == Path("there")


def test_a_false_or_zero_option_is_an_option(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("seed = 7\n[cluster]\nrefresh = true\n")
    recipe = read_recipe(file, {"seed": 0, "cluster.refresh": False})
    assert recipe.seed == 0
    assert recipe.cluster.refresh is False


def test_an_option_below_a_key_that_is_no_section_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "r.toml"
    file.write_text("cluster = 3\n")
    with pytest.raises(RecipeError, match="'cluster' must be a section, got 3"):
        read_recipe(file, {"cluster.epochs": 1})


def test_an_unreadable_recipe_says_why(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.toml cannot be read: .*No such file"):
        read_recipe(tmp_path / "none.toml", {})
    with pytest.raises(RecipeError, match=r"cannot be read: .*directory"):
        read_recipe(tmp_path, {})
    broken = tmp_path / "broken.toml"
    broken.write_text("[cluster\n")
    with pytest.raises(RecipeError, match=r"broken\.toml must be TOML: "):
        read_recipe(broken, {})
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"broken\.toml cannot be read: "):
        read_recipe(broken, {})


@pytest.mark.parametrize(
    ("model", "data", "folder"),
    [
        ("digits-cnn", "digits", "digits-cnn-digits"),
        ("a/b/net.keras", "/c/d.npz", "net-d"),
        ("pkg.mod:make", "pkg.data:load", "make-load"),
    ],
)
def test_the_run_directory_is_named_by_model_and_data(model: str, data: str, folder: str) -> None:
    recipe = recipe_of({"model": {"source": model}, "data": {"source": data}}, "here")
    assert recipe.directory == Path("runs") / folder


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_are_recipes_that_cluster(path: Path) -> None:
    recipe = read_recipe(path, {})
    assert recipe != Recipe()
    assert recipe.cluster.clusters
