"""`edgepalette run` end to end on a tiny model, and what a second call repeats."""

from __future__ import annotations

import html
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result

from edgepalette.pipeline.progress import Progress
from edgepalette.pipeline.recipe import recipe_of
from edgepalette.pipeline.session import Session

EDGEPALETTE = str(Path(sys.executable).with_name("edgepalette"))
Command = Callable[..., Result]
KEYS = [
    "run",
    "model",
    "clusters",
    "target",
    "origin",
    "metric",
    "value",
    "agreement",
    "mismatched_bytes",
    "file_bytes",
    "flash_bytes",
    "ram_bytes",
    "latency_ms_median",
    "latency_ms_p95",
    "instructions",
    "cycles_model",
    "samples",
    "notes",
    "flash_split",
    "ram_split",
    "operators",
]
PER_CLUSTERS = [
    "clustered.keras",
    "outputs.npy",
    "cluster.json",
    "export.json",
    "evaluate.json",
    "dense.tflite",
    "palette.tflite",
    "dense.onnx",
    "palette.onnx",
    "deploy/palette.tflite",
    "deploy/loader.py",
    "deploy/run.py",
    "deploy/sample.npz",
]
# written anew by every call: the configuration in force, and the lock
EVERY_CALL = {"recipe.json", ".stages/lock"}


def times(folder: Path) -> dict[str, int]:
    """When each file was last written, but for those of every call."""
    return {
        name: path.stat().st_mtime_ns
        for path in sorted(folder.rglob("*"))
        if path.is_file() and (name := str(path.relative_to(folder))) not in EVERY_CALL
    }


def test_a_run_leaves_these_files_and_no_others(finished: Any) -> None:
    names = {
        str(path.relative_to(finished.path)) for path in finished.path.rglob("*") if path.is_file()
    }
    assert {name for name in names if not name.startswith(".stages/")} == {
        "recipe.json",
        "measurements.json",
        "provenance.json",
        "report.html",
        "baseline/model.keras",
        "baseline/outputs.npy",
        "baseline/baseline.json",
        *(f"clusters-{number}/{name}" for number in (16, 4) for name in PER_CLUSTERS),
    }
    hidden = {name for name in names if name.startswith(".stages/")}
    stages = [
        f"{stage}-{number}" for stage in ("cluster", "export", "evaluate") for number in (16, 4)
    ]
    assert hidden == {
        ".stages/lock",
        *(f".stages/{stage}.json" for stage in ("baseline", *stages, "report")),
    }


def test_every_row_has_exactly_the_documented_keys(finished: Any) -> None:
    rows = json.loads((finished.path / "measurements.json").read_text())
    assert all(list(row) == KEYS for row in rows)
    assert all(math.isfinite(row["value"]) for row in rows)
    found = [(row["model"], row["clusters"], row["target"]) for row in rows]
    assert found == [
        ("baseline", None, "host-keras"),
        *(
            row
            for number in (16, 4)
            for row in [
                ("clustered", number, "host-keras"),
                ("dense", number, "host-tflite"),
                ("palette", number, "host-tflite"),
                ("dense", number, "host-onnx"),
                ("palette", number, "host-onnx"),
                ("dense", number, "tflm"),
                ("palette", number, "tflm"),
            ]
        ),
    ]
    assert {row["run"] for row in rows} == {finished.path.name}


def test_figures_are_those_of_the_files(finished: Any) -> None:
    for row in json.loads((finished.path / "measurements.json").read_text()):
        if row["target"] == "host-keras":
            continue
        form = "onnx" if row["target"] == "host-onnx" else "tflite"
        file = finished.path / f"clusters-{row['clusters']}" / f"{row['model']}.{form}"
        assert row["file_bytes"] == file.stat().st_size
        assert row["mismatched_bytes"] == (None if form == "onnx" else 0)
        assert row["value"] > 0.6


def test_fewer_clusters_give_smaller_palette_files(finished: Any) -> None:
    for form in ("tflite", "onnx"):
        sixteen, four = (
            (finished.path / f"clusters-{number}" / f"palette.{form}").stat().st_size
            for number in (16, 4)
        )
        dense = (finished.path / "clusters-16" / f"dense.{form}").stat().st_size
        assert four < sixteen < dense


def test_the_clustered_model_is_plain_keras_with_shared_values(finished: Any) -> None:
    import keras

    for number in (16, 4):
        model = keras.models.load_model(finished.path / f"clusters-{number}" / "clustered.keras")
        for layer in ("conv", "head"):
            assert len(np.unique(model.get_layer(layer).get_weights()[0])) <= number


def test_the_report_shows_the_picture_and_every_weight_left_alone(finished: Any) -> None:
    page = (finished.path / "report.html").read_text()
    assert "<svg" in page
    assert "Left alone" in page
    kept = json.loads((finished.path / "clusters-4" / "cluster.json").read_text())["kept"]
    assert {weight["name"] for weight in kept} >= {"bn/gamma", "head/bias"}
    for weight in kept:
        assert html.escape(weight["name"]) in page
        assert html.escape(weight["reason"]) in page
    for text in ("host-tflite", "x86-64 build", "1 KB = 1000 B", "sparse_categorical_crossentropy"):
        assert text in page


def test_the_report_shows_where_the_bytes_of_palette_files_go(finished: Any) -> None:
    page = (finished.path / "report.html").read_text()
    for clusters in (16, 4):
        folder = finished.path / f"clusters-{clusters}"
        report = json.loads((folder / "export.json").read_text())
        for form in ("tflite", "onnx"):
            contents = report[form]["contents"]
            size = (folder / f"palette.{form}").stat().st_size
            assert sum(share["bytes"] for share in contents["shares"]) == size
            assert f"{size:,} B in all" in page
            assert 0 < report[form]["packed_bytes"] < report[form]["palette_bytes"]
            (head,) = (row for row in contents["tensors"] if row["name"] == "head/kernel")
            bounds = head["packed_bound"], head["shannon_bound"]
            assert bounds[1] <= bounds[0] < head["bytes"]
            assert '<td class="n">{}</td><td class="n">{}</td>'.format(*bounds) in page


def test_provenance_tells_versions_seed_and_fingerprints(finished: Any) -> None:
    origins = json.loads((finished.path / "provenance.json").read_text())
    assert origins["seed"] == 0
    assert origins["packages"]["keras"]
    assert origins["model"]["fingerprint"].startswith("sha256:")
    assert origins["data"]["fingerprint"].startswith("sha256:")


def test_the_stored_recipe_is_the_one_asked_for(finished: Any) -> None:
    recipe = recipe_of(json.loads((finished.path / "recipe.json").read_text()), "stored")
    assert recipe.cluster.clusters == (16, 4)
    assert (recipe.baseline.epochs, recipe.cluster.epochs) == (1, 2)


def test_a_second_run_repeats_nothing_and_prints_the_rows(
    command: Command, finished: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    before = times(finished.path)
    result = command("run", *finished.options, "--json")
    assert result.exit_code == 0, result.stderr
    assert times(finished.path) == before
    assert json.loads(result.stdout) == json.loads(
        (finished.path / "measurements.json").read_text()
    )
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.count("done before") == 8


def test_the_table_names_every_target_and_where_figures_come_from(
    command: Command, finished: Any
) -> None:
    table = command("run", *finished.options).stdout
    for text in (
        "host-tflite",
        "host-onnx",
        "tflm",
        "palette",
        "arena of an x86-64 build",
        "1 thread",
    ):
        assert text in table


def test_quiet_leaves_the_table_only(
    command: Command, finished: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    result = command("run", *finished.options, "-q")
    assert "host-tflite" in result.stdout
    assert result.stderr == ""
    assert capfd.readouterr().err == ""


def test_a_second_run_in_a_process_of_its_own_is_quick(finished: Any) -> None:
    start = time.perf_counter()
    done = subprocess.run(
        [EDGEPALETTE, "run", *finished.options, "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    # TensorFlow alone takes longer to import: nothing needs it
    assert time.perf_counter() - start < 3
    assert len(json.loads(done.stdout)) == 15


def test_from_evaluate_repeats_evaluate_and_report_only(
    command: Command, finished: Any, tmp_path: Path
) -> None:
    run = finished.copy(tmp_path)
    before = times(run.path)
    result = command("run", *run.options, "--clusters", "4", "--from", "evaluate")
    assert result.exit_code == 0, result.stderr
    after = times(run.path)
    assert {name for name in after if after[name] != before[name]} == {
        "clusters-4/evaluate.json",
        ".stages/evaluate-4.json",
        "measurements.json",
        "provenance.json",
        "report.html",
        ".stages/report.json",
    }
    rows = json.loads((run.path / "measurements.json").read_text())
    assert {row["clusters"] for row in rows} == {None, 4}


def test_report_alone_writes_the_report_again(
    command: Command, finished: Any, tmp_path: Path
) -> None:
    run = finished.copy(tmp_path)
    before = times(run.path)
    (run.path / "report.html").unlink()
    result = command("report", "--out", run.path)
    assert result.exit_code == 0, result.stderr
    after = times(run.path)
    assert {name for name in after if after[name] != before[name]} == {
        "measurements.json",
        "provenance.json",
        "report.html",
        ".stages/report.json",
    }


@pytest.mark.parametrize("name", ["cluster", "export", "evaluate"])
def test_a_stage_of_a_finished_run_has_nothing_to_do(
    command: Command, finished: Any, name: str
) -> None:
    before = times(finished.path)
    result = command(name, "--out", finished.path)
    assert result.exit_code == 0, result.stderr
    assert times(finished.path) == before


@pytest.mark.parametrize("name", ["evaluate", "report"])
def test_a_stage_with_measurements_prints_them_as_json(
    command: Command, finished: Any, tmp_path: Path, name: str
) -> None:
    result = command(name, "--out", finished.copy(tmp_path).path, "--json")
    assert result.exit_code == 0, result.stderr
    rows = json.loads(result.stdout)
    assert {row["target"] for row in rows} >= {"host-tflite", "host-onnx", "tflm"}


def states(result: Result) -> dict[str, str]:
    """Stage to state as `--dry-run` prints them."""
    assert result.exit_code == 0, result.stderr
    return dict(line.split(": ") for line in result.stdout.splitlines())


ALL = [
    "baseline",
    *(f"{s}-{k}" for k in (16, 4) for s in ("cluster", "export", "evaluate")),
    "report",
]


def test_a_dry_run_of_a_new_run_tells_all_stages_and_makes_nothing(
    command: Command, npz: Path, keras_file: Path, tmp_path: Path
) -> None:
    out = tmp_path / "new"
    options = ("--model", keras_file, "--data", npz, "--out", out, "--clusters", "16,4")
    assert states(command("run", *options, "--dry-run")) == dict.fromkeys(ALL, "would run")
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "repeated"),
    [
        ((), []),
        (("--seed", 1), ALL),
        (("--batch-size", 8), ALL),
        (("--baseline-epochs", 2), ALL),
        (("--epochs", 3), ALL[1:]),
        (("--skip", "conv"), ALL[1:]),
        # negative gains are those of the .tflite: without it, other signs are clustered
        (("--formats", "onnx"), ALL[1:]),
        (("--tables", "per-channel"), ["export-16", "evaluate-16", "export-4", "evaluate-4", "report"]),
        (("--averages", "pool"), ["export-16", "evaluate-16", "export-4", "evaluate-4", "report"]),
        (("--threads", 2), ["evaluate-16", "evaluate-4", "report"]),
        (("--targets", "tflm"), ["evaluate-16", "evaluate-4", "report"]),
        (("--clusters", "4,8"), ["cluster-8", "export-8", "evaluate-8", "report"]),
        (("--clusters", "8,4"), ["cluster-8", "export-8", "evaluate-8", "report"]),
        (("--from", "export"), ["export-16", "evaluate-16", "export-4", "evaluate-4", "report"]),
        (("--from", "report"), ["report"]),
        (("--force",), ALL),
    ],
)  # fmt: skip
def test_a_dry_run_tells_what_the_run_would_repeat(
    command: Command, finished: Any, options: tuple[object, ...], repeated: list[str]
) -> None:
    before = times(finished.path)
    told = states(command("run", *finished.options, *options, "--dry-run"))
    assert [name for name, state in told.items() if state == "would run"] == repeated
    assert times(finished.path) == before


def test_other_data_under_the_same_name_makes_everything_run_again(
    command: Command, finished: Any, npz: Path, tmp_path: Path, digit_arrays: dict[str, Any]
) -> None:
    other = tmp_path / npz.name
    np.savez(other, **{**digit_arrays, "x_test": digit_arrays["x_test"][::-1]})
    told = states(command("run", *finished.options, "--data", other, "--dry-run"))
    assert told == dict.fromkeys(ALL, "would run")


def test_layer_and_skip_choose_what_is_clustered(
    command: Command, npz: Path, keras_file: Path, tmp_path: Path
) -> None:
    result = command(
        "cluster", "--model", keras_file, "--data", npz, "--out", tmp_path / "r", "--epochs", 0,
        "--clusters", "16,8", "--layer", "conv=4", "--skip", "Dense", "--formats", "onnx",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    for number in (16, 8):
        report = json.loads((tmp_path / "r" / f"clusters-{number}" / "cluster.json").read_text())
        assert [(w["name"], w["clusters"]) for w in report["clustered"]] == [("conv/kernel", 4)]
        reasons = {weight["name"]: weight["reason"] for weight in report["kept"]}
        assert reasons["head/kernel"] == "skipped by the recipe"


def test_a_run_in_the_current_directory_is_called_by_its_name(
    command: Command, npz: Path, keras_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    result = command(
        "cluster",
        "--model",
        keras_file,
        "--data",
        npz,
        "--epochs",
        0,
        "--out",
        ".",
        "--formats",
        "onnx",
    )
    assert result.exit_code == 0, result.stderr
    report = json.loads((folder / "baseline" / "baseline.json").read_text())
    assert report["measurements"][0]["run"] == "here"


BINARY = """
import keras, numpy as np
from keras import layers
from sklearn.datasets import load_digits

def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        keras.Input((64,)), layers.Dense(32, activation="relu"), layers.Dense(1, activation="sigmoid"),
    ])

def data():
    x, y = load_digits(return_X_y=True)
    x, y = x[:500].astype("float32") / 16, (y[:500] < 5).astype(int)
    return x[:400], y[:400], x[400:], y[400:]

def regression():
    x, y, x_test, y_test = data()
    return x, x[:, [20, 30, 40]].sum(1), x_test, x_test[:, [20, 30, 40]].sum(1)

def real():
    keras.utils.set_random_seed(0)
    # the second kernel is too small for a palette
    hidden = [layers.Dense(32, activation="relu"), layers.Dense(4, activation="relu", name="small")]
    return keras.Sequential([keras.Input((64,)), *hidden, layers.Dense(1)])
"""


FORM_WORDS = {"tflite": ("TFLite: palette",), "onnx": ("ONNX: palette",), "onnx-int8": ("ONNX, int8: palette", "host-onnx-int8")}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "data", "options", "metric", "form", "passes"),
    [
        ("model", "data", ("--metric", "auc"), "auc", "tflite", lambda value: value > 0.9),
        # always giving the mean is wrong by 0.5
        ("real", "regression", (), "mae", "onnx", lambda value: value < 0.25),
        ("real", "regression", (), "mae", "onnx-int8", lambda value: value < 0.25),
    ],
    ids=["a probability", "a real number", "a real number, int8"],
)
def test_a_single_output_runs_to_the_end(
    command: Command,
    own_folder: Path,
    model: str,
    data: str,
    options: tuple[str, ...],
    metric: str,
    form: str,
    passes: Callable[[float], bool],
) -> None:
    (own_folder / "own_net.py").write_text(BINARY)
    result = command(
        "run", "--model", f"own_net:{model}", "--data", f"own_net:{data}", "--out", "r", *options,
        "--batch-size", 16, "--baseline-epochs", 10, "--epochs", 2, "--formats", form, "--targets", f"host-{form}",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    rows = json.loads((own_folder / "r" / "measurements.json").read_text())
    assert [row["metric"] for row in rows] == [metric] * 4
    assert all(passes(row["value"]) for row in rows), [row["value"] for row in rows]
    written = {path.name for path in (own_folder / "r" / "clusters-16").iterdir()}
    ending = "-int8.onnx" if form == "onnx-int8" else f".{form}"
    files = {f"{name}{ending}" for name in ("dense", "palette")}
    assert {name for name in written if name.endswith((".tflite", ".onnx"))} == files
    page = (own_folder / "r" / "report.html").read_text()
    assert all(
        name in page for name in (*FORM_WORDS[form], *(["small/kernel"] if model == "real" else []))
    )


def test_training_as_int8_runs_is_reported_with_what_stays_float(
    command: Command, npz: Path, own_folder: Path
) -> None:
    (own_folder / "own_net.py").write_text(
        "import keras\nfrom keras import layers\n\n"
        "@keras.saving.register_keras_serializable('own')\nclass Own(keras.Model):\n"
        "    def __init__(self, **options):\n        super().__init__(**options)\n"
        "        self.flat, self.head = layers.Flatten(), layers.Dense(10, activation='softmax')\n\n"
        "    def call(self, inputs):\n        return self.head(self.flat(inputs))\n\n"
        "def own():\n    return Own()\n"
    )
    for model, left in (
        ("digits-cnn", "values inside dense_1"),
        ("own_net:own", "values inside own"),
    ):
        result = command(
            "cluster", "--model", model, "--data", npz, "--out", "r", "--int8", "--damping", 0.01,
            "--baseline-epochs", 1, "--epochs", 1, "--formats", "tflite", "--clusters", 8, "--force",
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        report = json.loads(Path("r", "clusters-8", "cluster.json").read_text())
        assert (report["int8"], report["damping"]) == (True, 0.01)
        assert report["unrounded"] == left


def test_a_single_logit_is_cut_at_zero_not_at_one_half(tmp_path: Path) -> None:
    import keras

    from edgepalette.pipeline.baseline_stage import run_baseline

    # the logit is the input: -2 and -0.2 mean class 0, 0.2 and 2 class 1
    x = np.array([[-2.0], [-0.2], [0.2], [2.0]], np.float32)
    y = np.array([0, 0, 1, 1])
    np.savez(tmp_path / "d.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, kernel_initializer="ones")])
    model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    model.fit(x, y, epochs=1, verbose=0)
    model.set_weights([np.ones((1, 1)), np.zeros(1)])
    model.save(tmp_path / "m.keras")
    recipe = recipe_of(
        {
            "model": {"source": str(tmp_path / "m.keras")},
            "data": {"source": str(tmp_path / "d.npz")},
            "export": {"formats": ["onnx"]},
        },
        "here",
    )
    run_baseline(Session(recipe, tmp_path / "run", Progress(-1)), "key")
    report = json.loads((tmp_path / "run" / "baseline" / "baseline.json").read_text())
    assert report["measurements"][0]["value"] == 1.0


def test_a_baseline_near_chance_is_warned_of(
    command: Command, npz: Path, own_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # always decides for class 0
    (own_folder / "own_net.py").write_text(
        "import keras\nfrom keras import layers\n\ndef untrained():\n"
        "    return keras.Sequential([keras.Input((8, 8, 1)), layers.Flatten(), layers.Dense(32),\n"
        "        layers.Dense(10, activation='softmax', kernel_initializer='zeros')])\n"
    )
    result = command(
        "cluster", "--model", "own_net:untrained", "--data", npz, "--out", "r",
        "--baseline-epochs", 0, "--epochs", 0, "--formats", "onnx", "-q",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "is near chance" in capfd.readouterr().err
