"""Stage baseline: the float model everything is compared with."""

from __future__ import annotations

from typing import Any

from ..evaluate.metric import get_metric
from . import layout
from .files import write_array, write_json
from .models import is_trained, load_model, save_model
from .rows import keras_row
from .session import Session
from .task import near_chance
from .training import Schedule, adam, default_epochs, predict, train

# examples that range a trial conversion
TRIAL_SAMPLES = 4


def run_baseline(session: Session, key: str) -> None:
    """Load or build the model, train it if asked, measure it."""
    recipe, data, task = session.recipe, session.data, session.task
    metric = get_metric(session.metric)
    session.fresh()
    model = load_model(recipe.model.source, data)
    session.progress.say(f"  loss: {task.loss_name} ({task.origin})")
    epochs = baseline_epochs(session)
    history = []
    checkpoint = session.path("baseline", "checkpoint.npz")
    if epochs:
        schedule = Schedule.of(recipe, epochs, recipe.baseline.learning_rate)
        model.compile(adam(schedule, len(data.x_train)), task.loss, metrics=task.keras_metrics)
        labels = session.labels("train")
        history = train(
            model, data.x_train, labels, task, schedule, checkpoint, key, session.progress
        )
    outputs = task.scores(predict(model, data.x_test))
    value = metric(session.labels("test"), outputs)
    session.progress.say(f"  baseline {session.metric}: {value:.4f}")
    chance = (
        near_chance(task, session.labels("test"), value) if session.metric == "accuracy" else None
    )
    if chance is not None:
        session.progress.warn(
            f"the baseline's accuracy {value:.4f} is near chance ({chance:.4f}): check the data's scale and labels, "
            f"the loss ({task.loss_name}), and whether the model is trained (--baseline-epochs)"
        )
    save_model(model, session.path(layout.BASELINE_MODEL))
    write_array(session.path(layout.BASELINE_OUTPUTS), outputs)
    _check_exports(session, model)
    row = keras_row(
        session, "baseline", None, session.path(layout.BASELINE_MODEL), value, outputs, outputs
    )
    write_json(
        session.path(layout.BASELINE_REPORT),
        {
            "task": task.kind.value,
            "loss": task.loss_name,
            "loss_origin": task.origin,
            "near_chance": chance,
            "epochs": epochs,
            "history": history,
            "measurements": [row.to_json()],
        },
    )
    checkpoint.unlink(missing_ok=True)


def _check_exports(session: Session, model: Any) -> None:
    """Raises ExportError now, before clustering takes hours, for a model a format asked for cannot hold."""
    from ..export.convert import batch_one, convert_int8
    from ..export.onnx_int8 import export_onnx_int8
    from ..export.onnx_palette import export_onnx

    formats = session.recipe.export.formats
    samples = session.data.examples(TRIAL_SAMPLES, session.recipe.seed)
    if "tflite" in formats:
        convert_int8(batch_one(model), samples)
    if "onnx-int8" in formats:
        export_onnx_int8(model, [], samples)
    if "onnx" in formats:
        export_onnx(model, [])


def baseline_epochs(session: Session) -> int:
    """Epochs asked for; else none for a model that brings its weights."""
    asked = session.recipe.baseline.epochs
    if asked is not None:
        return asked
    if is_trained(session.recipe.model.source):
        return 0
    return default_epochs(len(session.data.x_train), session.recipe.data.batch_size)
