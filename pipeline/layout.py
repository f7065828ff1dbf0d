"""Where the files of a run lie, relative to its directory."""

from __future__ import annotations

from collections.abc import Sequence

RECIPE = "recipe.json"
MEASUREMENTS = "measurements.json"
PROVENANCE = "provenance.json"
REPORT = "report.html"

BASELINE_MODEL = "baseline/model.keras"
BASELINE_OUTPUTS = "baseline/outputs.npy"
BASELINE_REPORT = "baseline/baseline.json"
BASELINE = (BASELINE_MODEL, BASELINE_OUTPUTS, BASELINE_REPORT)

CLUSTERED_MODEL = "clustered.keras"
CLUSTERED_OUTPUTS = "outputs.npy"
CLUSTER_REPORT = "cluster.json"
EXPORT_REPORT = "export.json"
EVALUATE_REPORT = "evaluate.json"
# the dense file first: the palette file's outputs are compared with its
FILE_MODELS = ("dense", "palette")
# the format of firmware, a folder; the kernels it holds beside these files depend on the model
C = "c"
FIRMWARE = "firmware"
FIRMWARE_FILES = ("model.c", "model.h", "main.c", "Makefile", "CMakeLists.txt", "README.md")
DEPLOY = ("palette.tflite", "loader.py", "run.py", "sample.npz")


def of_clusters(clusters: int, name: str) -> str:
    """A file of one number of clusters."""
    return f"clusters-{clusters}/{name}"


def model_file(clusters: int, model: str, form: str) -> str:
    """A file of one format: `onnx-int8` gives MODEL-int8.onnx."""
    suffix, _, kind = form.partition("-")
    return of_clusters(clusters, f"{model}-{kind}.{suffix}" if kind else f"{model}.{suffix}")


def model_files(clusters: int, formats: Sequence[str]) -> tuple[str, ...]:
    """Dense and palette file of every format."""
    return tuple(
        model_file(clusters, model, form) for form in formats if form != C for model in FILE_MODELS
    )


def cluster_files(clusters: int) -> tuple[str, ...]:
    """What stage cluster leaves."""
    names = (CLUSTERED_MODEL, CLUSTERED_OUTPUTS, CLUSTER_REPORT)
    return tuple(of_clusters(clusters, name) for name in names)


def export_files(clusters: int, formats: Sequence[str]) -> tuple[str, ...]:
    """What stage export leaves."""
    deploy = [f"deploy/{name}" for name in DEPLOY] if "tflite" in formats else []
    firmware = [f"{FIRMWARE}/{name}" for name in FIRMWARE_FILES] if C in formats else []
    rest = (of_clusters(clusters, name) for name in (EXPORT_REPORT, *deploy, *firmware))
    return (*model_files(clusters, formats), *rest)
