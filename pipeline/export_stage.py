"""Stage export: the clustered model as dense and palette files, and the folder to deploy."""

from __future__ import annotations

from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..export import loader
from ..export.averages import MEAN_REASON
from ..export.clustered import clustered_weights
from ..export.convert import batch_one, convert_float
from ..export.firmware.firmware import generate_firmware
from ..export.model_gains import model_gains
from ..export.palette_tflite import Tables
from ..export.transport import pack
from . import layout
from .files import replacing, write_bytes, write_json
from .firmware import said_of, write_folder
from .inspection import inspect_file, renamed
from .models import open_saved
from .session import Session
from .verification import prove_palette

if TYPE_CHECKING:
    from ..export.onnx_palette import OnnxFiles

DEPLOY_SAMPLES = 16


def run_export(session: Session, clusters: int) -> None:
    """Write every format asked for."""
    recipe, data = session.recipe, session.data
    tflite = "tflite" in recipe.export.formats
    means = recipe.export.averages == "mean"
    session.fresh()
    model = open_saved(
        session.path(layout.of_clusters(clusters, layout.CLUSTERED_MODEL)), recipe.model.source
    )
    folder = session.path(f"clusters-{clusters}")
    # converting a large model takes a while: once is enough
    float_file = convert_float(batch_one(model)) if tflite else None
    weights = clustered_weights(model, model_gains(model, float_file) if tflite else None)
    samples = data.examples(recipe.export.calibration, recipe.seed)
    report: dict[str, Any] = {"weights": [weight.name for weight in weights]}
    if tflite:
        from ..export.tflite import export_tflite

        files = export_tflite(
            model, weights, samples, Tables(recipe.export.tables), float_file, means
        )
        # refused before anything is written
        firmware = generate_firmware(files.palette) if layout.C in recipe.export.formats else None
        proof = _proof(session, "tflite", files.palette, files.dense)
        write_bytes(folder / "dense.tflite", files.dense)
        write_bytes(folder / "palette.tflite", files.palette)
        report["tflite"] = {
            **proof,
            "stock_bytes": len(files.stock),
            "dense_bytes": len(files.dense),
            "palette_bytes": len(files.palette),
            "packed_bytes": len(pack(files.palette)),
            "contents": renamed(
                inspect_file(folder / "palette.tflite"),
                {f"tensor {entry.tensor}": entry.name for entry in files.requantized},
            ),
            "requantized": [asdict(entry) for entry in files.requantized],
            "fallbacks": [asdict(entry) for entry in files.fallbacks],
            "tensors": [asdict(entry) for entry in files.tensors],
            "means": list(files.means),
        }
        _say_sizes(session, "tflite", report["tflite"])
        _say_means(session, "tflite", files.means)
        for fallback in files.fallbacks:
            session.progress.say(
                f"  left as the converter wrote it: {fallback.name}: {fallback.reason}"
            )
        _deploy(session, folder, files.palette)
        if firmware is not None:
            write_folder(firmware, folder / layout.FIRMWARE)
            session.progress.say(f"  c: {said_of(firmware)}")
    if "onnx" in recipe.export.formats:
        from ..export.onnx_palette import export_onnx

        report["onnx"] = _write_onnx(session, clusters, "onnx", export_onnx(model, weights))
    if "onnx-int8" in recipe.export.formats:
        from ..export.onnx_int8 import export_onnx_int8

        int8_files = export_onnx_int8(model, weights, samples, means)
        report["onnx-int8"] = _write_onnx(session, clusters, "onnx-int8", int8_files)
    write_json(folder / layout.EXPORT_REPORT, report)


def _write_onnx(session: Session, clusters: int, form: str, files: OnnxFiles) -> dict[str, Any]:
    """Leave both files; what the report says of them."""
    proof = _proof(session, "onnx", files.palette, files.dense)
    paths = [session.path(layout.model_file(clusters, model, form)) for model in layout.FILE_MODELS]
    for path, data in zip(paths, (files.dense, files.palette), strict=True):
        write_bytes(path, data)
    report = {
        **proof,
        "dense_bytes": len(files.dense),
        "palette_bytes": len(files.palette),
        "packed_bytes": len(pack(files.palette)),
        "contents": renamed(inspect_file(paths[1]), {}),
        "initializers": [asdict(entry) for entry in files.initializers],
        "means": list(files.means),
    }
    _say_sizes(session, form, report)
    _say_means(session, form, files.means)
    return report


def _proof(session: Session, form: str, palette: bytes, dense: bytes) -> dict[str, Any]:
    """What shows that both files compute the same, for the report; said if nothing here can show it."""
    proof = prove_palette(palette, dense, form, session.data.examples(DEPLOY_SAMPLES, 0))
    if proof.obstacle is not None:
        session.progress.warn(f"the palette .{form} was not verified: {proof.obstacle}")
    for line in proof.lines():
        session.progress.detail(f"  {form}: {line}")
    return proof.to_json()


def _say_sizes(session: Session, form: str, report: dict[str, Any]) -> None:
    dense, palette = report["dense_bytes"], report["palette_bytes"]
    session.progress.say(
        f"  {form}: palette {palette / 1e3:.1f} KB, dense {dense / 1e3:.1f} KB ({palette / dense:.2f} ×), "
        f"packed for transport {report['packed_bytes'] / 1e3:.1f} KB"
    )


def _say_means(session: Session, form: str, names: tuple[str, ...]) -> None:
    for name in names:
        session.progress.detail(f"  {form}: {name} is {MEAN_REASON}")


def _deploy(session: Session, folder: Path, palette: bytes) -> None:
    """Palette file, loader, a script, and a few test examples to try it on."""
    deploy = folder / "deploy"
    write_bytes(deploy / "palette.tflite", palette)
    write_bytes(deploy / "loader.py", Path(loader.__file__).read_bytes())
    script = resources.files("edgepalette.pipeline.templates").joinpath("run.py")
    write_bytes(deploy / "run.py", script.read_bytes())
    with replacing(deploy / "sample.npz") as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            x=np.asarray(session.data.x_test[:DEPLOY_SAMPLES], np.float32),
            y=session.labels("test")[:DEPLOY_SAMPLES],
        )
