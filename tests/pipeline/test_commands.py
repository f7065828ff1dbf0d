"""The commands that look and do not train: targets, doctor, plan, inspect, verify, expand, palettize, compare, init."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import Result

from edgepalette.evaluate.cortex_m import emulator
from edgepalette.evaluate.target import EMULATOR, TARGETS
from edgepalette.pipeline.picture import size_quality_svg
from edgepalette.pipeline.run import read_measurements

EDGEPALETTE = str(Path(sys.executable).with_name("edgepalette"))
Command = Callable[..., Result]


def json_of(result: Result) -> Any:
    """Standard output, which must be JSON and nothing else."""
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_targets_lists_every_target_and_whether_it_is_there(command: Command) -> None:
    rows = json_of(command("targets", "--json"))
    assert [row["target"] for row in rows] == list(TARGETS)
    # the emulator is no Python package, and not everywhere
    for row in rows:
        absent = emulator.missing() if TARGETS[row["target"]].runtime == EMULATOR else None
        assert (row["installed"], row["install"]) == (absent is None, absent)
    table = command("targets")
    assert table.exit_code == 0
    for name in TARGETS:
        assert name in table.stdout


def test_targets_says_how_to_get_a_missing_one(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("shutil.which", lambda name: None)
    rows = json_of(command("targets", "--json"))
    assert all(row["installed"] is False for row in rows)
    assert "tflite-runtime" in rows[0]["install"]
    assert "apt install" in rows[-1]["install"]
    assert "pip install onnxruntime" in command("targets").stdout


def test_doctor_tells_what_is_there(command: Command) -> None:
    rows = {row["what"]: row for row in json_of(command("doctor", "--json"))}
    assert rows["tensorflow"]["ok"]
    assert rows["Python"]["found"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}")
    assert rows["target tflm"]["found"] == "installed"
    assert "tensorflow" in command("doctor").stdout


def test_doctor_tells_what_is_wrong_and_how_to_mend_it(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.delenv("EDGEPALETTE_DATA", raising=False)
    result = command("doctor", "--json")
    assert result.exit_code == 1
    rows = {row["what"]: row for row in json.loads(result.stdout)}
    assert rows["KERAS_BACKEND"]["found"] == "jax"
    assert rows["KERAS_BACKEND"]["how_to_get_it"] == "unset KERAS_BACKEND"
    assert not rows["EDGEPALETTE_DATA"]["ok"]
    assert not rows["EDGEPALETTE_DATA"]["needed"]


def test_plan_tells_every_weight_its_bytes_or_why_it_is_left_alone(
    command: Command, keras_file: Path
) -> None:
    plans = json_of(
        command("plan", keras_file, "--clusters", "16,4", "--layer", "conv=2", "--json")
    )
    assert [plan["clusters"] for plan in plans] == [16, 4]
    for plan in plans:
        weights = {row["name"]: row for row in plan["weights"]}
        assert weights["conv/kernel"]["clusters"] == 2
        assert weights["head/kernel"]["clusters"] == plan["clusters"]
        assert weights["head/kernel"]["shape"] == [512, 10]
        assert weights["head/kernel"]["int8_bytes"] == 5120
        assert weights["bn/gamma"]["clusters"] is None
        assert weights["bn/gamma"]["reason"]
        assert plan["palette_bytes"] < plan["int8_bytes"]
        assert plan["palette_bytes"] == sum(row["palette_bytes"] for row in plan["weights"])


def test_plan_predicts_what_export_then_stores(
    command: Command, keras_file: Path, finished: Any
) -> None:
    (plan,) = json_of(command("plan", keras_file, "--clusters", "4", "--json"))
    predicted = next(r["palette_bytes"] for r in plan["weights"] if r["name"] == "head/kernel")
    report = json.loads((finished.path / "clusters-4" / "export.json").read_text())
    stored = next(
        t["stored_bytes"] for t in report["tflite"]["tensors"] if t["dense_bytes"] == 5120
    )
    # header, table and DECODE are predicted from measured files: 124-139 bytes beyond the indices
    assert abs(predicted - stored) <= 139


@pytest.mark.parametrize("model", ["digits-cnn", "resnet8"])
def test_plan_knows_the_built_in_models(command: Command, model: str) -> None:
    (plan,) = json_of(command("plan", model, "--json"))
    assert plan["clusters"] == 16
    assert plan["palette_bytes"] < 0.7 * plan["int8_bytes"]


def test_the_plans_table_shows_whole_names_in_a_pipe(command: Command, keras_file: Path) -> None:
    table = command("plan", keras_file)
    assert table.exit_code == 0
    for text in ("head/kernel", "bn/moving_variance", "512 × 10", "vectors stay as they are"):
        assert text in table.stdout


# loads TensorFlow in a process of its own, whose native noise must not reach anyone
@pytest.mark.slow
def test_plan_as_json_in_a_pipe_is_json_and_quiet(keras_file: Path) -> None:
    done = subprocess.run(
        [EDGEPALETTE, "plan", str(keras_file), "--json"], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)[0]["clusters"] == 16
    assert done.stderr == ""


@pytest.mark.parametrize(
    "name", ["palette.tflite", "dense.tflite", "palette.onnx", "clustered.keras"]
)
def test_inspect_tells_tensors_values_bits_and_bytes(
    command: Command, finished: Any, name: str
) -> None:
    file = finished.path / "clusters-4" / name
    found = json_of(command("inspect", file, "--json"))
    assert found["file_bytes"] == file.stat().st_size
    assert found["weight_bytes"] == sum(row["bytes"] for row in found["tensors"])
    largest = max(found["tensors"], key=lambda row: row["bytes"])
    if name.startswith("palette"):
        assert found["palettes"] >= 1
        assert largest["stored"] == "palette"
    if name == "palette.tflite":
        assert (largest["values"], largest["bits"]) == (4, 2)
        # 5,120 indices of 2 bits, a header of 16 bytes, 4 values
        assert largest["bytes"] == 5120 * 2 // 8 + 16 + 4
    if name == "dense.tflite":
        assert (largest["values"], largest["stored"], largest["bytes"]) == (4, "dense", 5120)
    if name == "clustered.keras":
        assert (largest["values"], largest["bits"]) == (4, 2)
    assert sum(share["bytes"] for share in found["shares"]) == found["file_bytes"]
    # 5,120 indices of 2 bits; no code of them takes less than their entropy
    assert largest["packed_bound"] == 1280 > largest["shannon_bound"] > 0.8 * 1280
    assert found["shannon_bound"] == sum(row["shannon_bound"] for row in found["tensors"])
    table = command("inspect", file)
    assert table.exit_code == 0
    assert f"{file.stat().st_size} B" in table.stdout
    for text in ("shannon bound", "packed bound", "percent", f"{found['shannon_bound']} B by"):
        assert text in table.stdout


def test_inspect_draws_where_the_bytes_go(
    command: Command, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("palette.tflite", "palette.onnx", "dense.tflite", "clustered.keras"):
        file = finished.path / "clusters-4" / name
        assert command("inspect", file, "--picture", "p.svg").exit_code == 0
        picture = Path("p.svg").read_text()
        ElementTree.fromstring(picture)  # noqa: S314 # made here
        assert f"{file.stat().st_size:,} B in all" in picture
        assert (">indices<" in picture) == name.startswith("palette")
    Path("p.svg").unlink()
    assert command("inspect", file, "--json").exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_pack_and_unpack_restore_a_file(command: Command, finished: Any, tmp_path: Path) -> None:
    data = (finished.path / "clusters-4" / "palette.tflite").read_bytes()
    file, packed = tmp_path / "m.tflite", tmp_path / "m.tflite.xz"
    file.write_bytes(data)
    made = json_of(command("pack", file, "--json"))
    assert made == {
        "file": str(packed),
        "file_bytes": len(data),
        "packed_bytes": packed.stat().st_size,
    }
    assert made["packed_bytes"] < made["file_bytes"]
    report = json.loads((finished.path / "clusters-4" / "export.json").read_text())
    assert report["tflite"]["packed_bytes"] == made["packed_bytes"]
    assert command("unpack", packed).exit_code == 0
    file.unlink()
    told = command("unpack", packed)
    assert f"{len(data)} B plain, {made['packed_bytes']} B packed" in told.stdout
    assert file.read_bytes() == data
    other = tmp_path / "other.bin"
    assert command("unpack", packed, "--out", other).exit_code == 0
    assert other.read_bytes() == data


def test_unpack_writes_no_other_file_over_and_none_of_a_damaged_one(
    command: Command, tmp_path: Path
) -> None:
    file, packed = tmp_path / "m.tflite", tmp_path / "m.tflite.xz"
    file.write_bytes(b"first")
    assert command("pack", file).exit_code == 0
    file.write_bytes(b"second")
    told = command("unpack", packed)
    assert told.exit_code == 2
    assert "holds something else; name one by --out" in told.stderr
    assert file.read_bytes() == b"second"
    file.unlink()
    packed.write_bytes(packed.read_bytes()[:-3])
    for given, said in (
        (packed, "one whole .xz stream, got one cut short"),
        (tmp_path / "none.xz", "which is no file"),
        (tmp_path, "which is no file"),
    ):
        told = command("unpack", given)
        assert told.exit_code == 2
        assert said in told.stderr
    packed.rename(tmp_path / "m.packed")
    assert "must end in .xz" in command("unpack", tmp_path / "m.packed").stderr
    assert [path.name for path in tmp_path.iterdir()] == ["m.packed"]


@pytest.mark.parametrize("name", ["palette.tflite", "palette.onnx", "clustered.keras"])
def test_inspect_tells_a_damaged_file_from_a_good_one(
    command: Command, finished: Any, tmp_path: Path, name: str
) -> None:
    good = (finished.path / "clusters-4" / name).read_bytes()
    file = tmp_path / name
    for content in (b"no model at all", *(good[: len(good) * n // 8] for n in range(1, 8))):
        file.write_bytes(content)
        result = command("inspect", file)
        assert result.exit_code == 2, len(content)
        assert result.stderr.startswith("Error: ")
        assert result.stdout == ""


def test_inspect_says_which_files_it_reads(command: Command, tmp_path: Path) -> None:
    (tmp_path / "a.txt").touch()
    (tmp_path / "folder.tflite").mkdir()
    for name, said in [
        ("a.txt", "a.txt"),
        ("none.tflite", "which is no file"),
        ("folder.tflite", "which is no file"),
    ]:
        result = command("inspect", tmp_path / name)
        assert result.exit_code == 2
        assert ".tflite, .onnx, .keras, .h5 file or a SavedModel's folder, got" in result.stderr
        assert said in result.stderr


def test_verify_tells_equal_files_from_others(
    command: Command, finished: Any, npz: Path, tmp_path: Path
) -> None:
    files = [finished.path / "clusters-4" / f"{model}.tflite" for model in ("palette", "dense")]
    inputs = tmp_path / "x.npy"
    np.save(inputs, np.load(npz)["x_test"][:3])
    for data, given in ((npz, 4), (inputs, 3)):
        rows = json_of(command("verify", *files, "--data", data, "--samples", "4", "--json"))
        assert [row["same"] for row in rows] == [True] * 3
        assert {(row["samples"], row["differing"]) for row in rows} == {(4 + given, 0)}
    told = command("verify", *files)
    assert told.exit_code == 0
    assert "agree on tflite, default kernels, tflite, reference kernels, TFLM" in told.stdout
    other = finished.path / "clusters-16" / "palette.tflite"
    told = command("verify", files[0], other)
    assert told.exit_code == 1
    assert "differ on tflite, default kernels" in told.stdout
    assert command("verify", files[0], other, "--tolerance", "2").exit_code == 0


@pytest.mark.parametrize("form", ["tflite", "onnx"])
def test_expand_writes_a_plain_file_that_runs_alike(
    command: Command, finished: Any, tmp_path: Path, form: str
) -> None:
    folder = finished.path / "clusters-4"
    palette = tmp_path / f"p.{form}"
    palette.write_bytes((folder / f"palette.{form}").read_bytes())
    made = json_of(command("expand", palette, "--json"))
    plain = tmp_path / f"p-plain.{form}"
    assert made["file"] == str(plain)
    assert made["plain_bytes"] == plain.stat().st_size > made["palette_bytes"]
    assert all(check["same"] for check in made["verified"])
    assert command("verify", plain, folder / f"dense.{form}").exit_code == 0
    assert json_of(command("inspect", plain, "--json"))["palettes"] == 0
    again = command("expand", plain, "--out", tmp_path / f"q.{form}")
    assert again.exit_code == 2
    assert "which has none" in again.stderr
    assert not (tmp_path / f"q.{form}").exists()
    other = command("expand", palette, "--out", tmp_path / "q.bin")
    assert other.exit_code == 2
    assert f"must end in .{form}" in other.stderr


def test_palettize_gives_a_finished_file_shared_values(
    command: Command, finished: Any, npz: Path, tmp_path: Path
) -> None:
    file = tmp_path / "plain.tflite"
    file.write_bytes((finished.path / "clusters-16" / "dense.tflite").read_bytes())
    made = json_of(command("palettize", file, "--clusters", "4", "--data", npz, "--json"))
    palette = tmp_path / "plain-palette.tflite"
    assert made["file"] == str(palette)
    assert made["palette_bytes"] == palette.stat().st_size < made["file_bytes"]
    assert (made["samples"], all(check["same"] for check in made["verified"])) == (60, True)
    assert made["calibration"] == 200
    plain = json_of(
        command("palettize", file, "--clusters", "4", "--data", npz, "--calibration", "0", "--json")
    )
    assert plain["calibration"] == 0
    assert 0.5 < plain["agreement"] <= made["agreement"] <= 1
    assert {row["shared"] for row in made["tensors"]} == {4}
    other = tmp_path / "other.npy"
    np.save(other, np.zeros((2, 3), np.float32))
    told = command("palettize", file, "--clusters", "4", "--out", tmp_path / "q.tflite")
    assert told.exit_code == 0
    assert f"{made['palette_bytes']} B" in told.stdout
    for options, said in (
        ((tmp_path / "none.tflite",), "which is no file"),
        ((npz,), "must end in .tflite or .onnx"),
        ((file, "--clusters", "1"), "2"),
        ((file, "--data", other), "must hold inputs for a model that takes (1, 8, 8, 1)"),
    ):
        result = command("palettize", *options, "--out", tmp_path / "r.tflite")
        assert result.exit_code == 2
        assert said in result.stderr
        assert not (tmp_path / "r.tflite").exists()


def test_palettize_gives_an_onnx_shared_values(
    command: Command, finished: Any, npz: Path, tmp_path: Path
) -> None:
    file = tmp_path / "plain.onnx"
    file.write_bytes((finished.path / "clusters-16" / "dense.onnx").read_bytes())
    made = json_of(command("palettize", file, "--clusters", "4", "--data", npz, "--json"))
    palette = tmp_path / "plain-palette.onnx"
    assert made["file"] == str(palette)
    assert made["palette_bytes"] == palette.stat().st_size < made["file_bytes"]
    assert (made["samples"], [check["same"] for check in made["verified"]]) == (60, [True])
    assert 0.5 < made["agreement"] <= 1
    assert {row["shared"] for row in made["tensors"]} == {4}
    assert {row["bits"] for row in made["tensors"] if not row["why"]} == {2}
    assert command("expand", palette, "--out", tmp_path / "expanded.onnx").exit_code == 0
    assert json_of(command("inspect", tmp_path / "expanded.onnx", "--json"))["palettes"] == 0
    for options, said in (
        ((file, "--tables", "per-channel"), "--tables per-channel is for .tflite files"),
        ((file, "--clusters", "257"), "256"),
    ):
        result = command("palettize", *options, "--out", tmp_path / "r.onnx")
        assert result.exit_code == 2
        assert said in result.stderr
        assert not (tmp_path / "r.onnx").exists()


def test_palettize_refuses_an_onnx_without_constant_weights(
    command: Command, tmp_path: Path
) -> None:
    import onnx

    ports = [onnx.helper.make_tensor_value_info(name, 1, ["N", 8]) for name in "xy"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", ports[:1], ports[1:]
    )
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    result = command("palettize", tmp_path / "m.onnx")
    assert result.exit_code == 2
    assert "a file with constant weights" in result.stderr
    assert not (tmp_path / "m-palette.onnx").exists()


def test_verify_says_which_inputs_it_takes(command: Command, finished: Any, tmp_path: Path) -> None:
    file = finished.path / "clusters-4" / "dense.tflite"
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "names.npy", np.array([["a"]]))
    for name, said in (
        ("text.npy", "must be a .npy file of numbers"),
        ("names.npy", r"must hold numbers of shape (N, …), got <U1 of shape (1, 1)"),
        ("none.npy", "none.npy"),
    ):
        result = command("verify", file, file, "--data", tmp_path / name)
        assert result.exit_code == 2
        assert said in result.stderr


def test_init_writes_a_recipe_that_runs(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = command("init")
    assert result.exit_code == 0
    assert "edgepalette run --recipe recipe.toml" in result.stdout
    planned = command("run", "--recipe", "recipe.toml", "--dry-run")
    assert planned.exit_code == 0, planned.stderr
    assert planned.stdout.splitlines()[0] == "baseline: would run"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["recipe.toml"]


def test_init_does_not_write_over_a_file(command: Command, tmp_path: Path) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text("seed = 3\n")
    result = command("init", mine)
    assert result.exit_code == 2
    assert "must be a new file" in result.stderr
    assert mine.read_text() == "seed = 3\n"


def test_compare_gives_one_table_and_one_picture(
    command: Command, finished: Any, tmp_path: Path
) -> None:
    other = finished.copy(tmp_path).path.rename(tmp_path / "other-run")
    measurements = other / "measurements.json"
    measurements.write_text(measurements.read_text().replace('"tiny-run"', '"other-run"'))
    picture = tmp_path / "both.svg"
    result = command("compare", finished.path, other, "--picture", picture)
    assert result.exit_code == 0, result.stderr
    for text in ("tiny-run", "other-run", "palette", "host-tflite", "x86-64"):
        assert text in result.stdout
    svg = picture.read_text()
    assert "<svg" in svg
    assert "other-run, float baseline" in svg


def test_compare_as_json_prints_the_rows_and_writes_nothing(
    command: Command, finished: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = json_of(command("compare", finished.path, "--json"))
    assert rows == json.loads((finished.path / "measurements.json").read_text())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"a finished run must hold measurements.json"),
        ("{", "must be JSON"),
        ("{}", "must be a list of measurements, got dict"),
        ("[{}]", "a measurement must have the keys"),
    ],
)
def test_compare_says_what_is_wrong_with_a_run(
    command: Command, tmp_path: Path, content: str | None, said: str
) -> None:
    if content is not None:
        (tmp_path / "measurements.json").write_text(content)
    result = command("compare", tmp_path, "--json")
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_the_picture_of_the_same_rows_has_the_same_bytes(finished: Any) -> None:
    rows = read_measurements(finished.path)
    assert size_quality_svg(rows) == size_quality_svg(rows)
