"""The `edgepalette` command: thin, each command parses its options and calls one function.

Nothing heavy is imported here: `edgepalette --help` answers at once.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from .. import __version__
from ..errors import EdgepaletteError, RecipeError, RunError

if TYPE_CHECKING:
    from .packing import Packing
    from .recipe import Recipe

STAGES = ("baseline", "cluster", "export", "evaluate", "report")
USER_MISTAKE = 2
_PLACE_ERRORS = {
    errno.ENOSPC: "there is no space left",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "it cannot be made there",
    errno.ENOTDIR: "a part of the path is no folder",
    errno.ENAMETOOLONG: "the path is too long",
}


class _Command(click.Group):
    """Turns what users can mend into one message and exit code 2."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except EdgepaletteError as error:
            _fail(str(error))
        except OSError as error:
            if error.errno not in _PLACE_ERRORS or isinstance(error, BrokenPipeError):
                raise
            place = error.filename or "a file of the run"
            _fail(
                f"{place} must be writable and readable, but {_PLACE_ERRORS[error.errno]}; "
                "make room or choose another folder (--out); what is finished is kept"
            )
        except MemoryError:
            _fail("the data must fit into memory, but there is none left; give fewer examples")


def _fail(message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    raise SystemExit(USER_MISTAKE)


@click.group(
    cls=_Command, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="edgepalette")
def main() -> None:
    """Keras models whose weights share a palette of values, from training to small devices.

    \b
    edgepalette run                                   the handwritten digits, end to end
    edgepalette run --model m.keras --data d.npz --clusters 16,8,4
    edgepalette plan m.keras --clusters 16            what would be clustered, and the size it gives
    """  # noqa: D301 # click's \b is the character, not the two signs


def _numbers(_: click.Context, parameter: click.Parameter, value: str | None) -> list[int] | None:
    if value is None:
        return None
    try:
        return [int(part) for part in value.split(",")]
    except ValueError:
        raise RecipeError(
            f"--{parameter.name} must be numbers with commas between, as 16,8,4, got {value!r}"
        ) from None


def _names(_: click.Context, __: click.Parameter, value: str | None) -> list[str] | None:
    return None if value is None else [part.strip() for part in value.split(",") if part.strip()]


def _layer_lines(layers: tuple[str, ...], skips: tuple[str, ...]) -> list[dict[str, Any]]:
    lines: list[dict[str, Any]] = []
    for text in layers:
        pattern, equals, number = text.rpartition("=")
        if not equals or not number.isdecimal():
            raise RecipeError(f"--layer must be PATTERN=CLUSTERS, as conv2d_1=8, got {text!r}")
        lines.append({"pattern": pattern, "clusters": int(number)})
    return lines + [{"pattern": pattern, "skip": True} for pattern in skips]


def _selection(command: Callable[..., None]) -> Callable[..., None]:
    """Options that say how many clusters each weight gets."""
    options = [
        click.option("--clusters", callback=_numbers, metavar="K[,K…]", help="Shared values per weight, 2-256; one result each. [16]"),
        click.option("--layer", "layers", multiple=True, metavar="PATTERN=K", help="Clusters for what a pattern names (layer, class or weight name; * and ? match)."),
        click.option("--per-channel/--per-tensor", default=None, help="Values of its own for every output channel. [per tensor]"),
        click.option("--min-size", type=int, metavar="N", help="Leave weights of fewer elements alone. [0]"),
        click.option("--skip", "skips", multiple=True, metavar="PATTERN", help="Leave what a pattern names alone."),
    ]  # fmt: skip
    return _with(command, options)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    """Options of every command that works on a run directory."""
    options = [
        click.option("--recipe", type=click.Path(path_type=Path), help="TOML recipe; options override it."),
        click.option("--model", help="digits-cnn, resnet8, ds-cnn-l, autoencoder, mobilenet-v1, mobilenet-v2, a .keras or .h5 file, a SavedModel, or package.module:function. [digits-cnn]"),
        click.option("--data", help="digits, cifar10, fsdd, fsdd-mfcc, an .npz file, or package.module:function. [digits]"),
        click.option("--epochs", type=int, help="Epochs of clustering-aware training. [by the data's size]"),
        click.option("--baseline-epochs", type=int, help="Epochs before it. [0 for a model from a file]"),
        click.option("--learning-rate", type=float, help="Of clustering-aware training. [5e-4, larger for fewer than 16 clusters]"),
        click.option("--int8/--float", "int8", default=None, help="Train as int8 runs, or in float. [float]"),
        click.option("--damping", type=float, help="What pulls a weight to its shared value at the end. [0.01]"),
        click.option("--distill/--no-distill", default=None, help="Train on the baseline's outputs, or on the labels. [distill]"),
        click.option("--batch-size", type=int, help="Training batch. [64]"),
        click.option("--loss", help="A Keras loss by name. [the model's own, else by its last activation]"),
        click.option("--metric", help="accuracy, auc, mae or package.module:function. [by the task]"),
        click.option("--seed", type=int, help="Of everything random. [0]"),
        click.option("--out", help="Run directory. [runs/MODEL-DATA]"),
        click.option("--formats", "--format", callback=_names, metavar="F[,F]", help="tflite, onnx, onnx-int8, c (firmware). [tflite,onnx]"),
        click.option("--tables", help="Value tables in .tflite: shared or per-channel. [shared]"),
        click.option("--averages", help="Averages of whole maps in int8: mean, whose result is finer, or pool. [mean]"),
        click.option("--targets", callback=_names, metavar="T[,T…]", help="See `edgepalette targets`. [all installed that need not be named]"),
        click.option("--threads", type=int, help="Threads of host targets. [1]"),
        click.option("--force", is_flag=True, help="Repeat everything."),
        click.option("--json", "as_json", is_flag=True, help="Rows as JSON on standard output."),
        click.option("-q", "--quiet", is_flag=True, help="Warnings and results only."),
        click.option("-v", "--verbose", is_flag=True, help="More details."),
    ]  # fmt: skip
    return _with(_selection(command), options)


def _on_inputs(samples: int, said: str) -> Callable[..., Any]:
    """Options of commands that run files on inputs."""
    options = [
        click.option("--data", help="Test inputs: as run has it, or a .npy file of inputs."),
        click.option("--samples", type=click.IntRange(1), default=samples, show_default=True, help=said),
    ]  # fmt: skip
    return lambda command: _with(command, options)


def _with(command: Callable[..., None], options: list[Any]) -> Callable[..., None]:
    for option in reversed(options):
        command = option(command)
    return command


def _recipe(options: dict[str, Any], one_stage: bool, needs_run: bool) -> Recipe:
    """The recipe of the options.

    one_stage: on top of the recipe of the run they name, if there is one; needs_run: there must be one, unless they
    name a model or data.
    """
    from .recipe import changed, read_recipe
    from .run import holds_run, read_recipe_of

    asked = {
        "model.source": options["model"],
        "data.source": options["data"],
        "data.batch_size": options["batch_size"],
        "baseline.epochs": options["baseline_epochs"],
        "baseline.loss": options["loss"],
        "cluster.clusters": options["clusters"],
        "cluster.epochs": options["epochs"],
        "cluster.learning_rate": options["learning_rate"],
        "cluster.distill": options["distill"],
        "cluster.int8": options["int8"],
        "cluster.damping": options["damping"],
        "cluster.per_channel": options["per_channel"],
        "cluster.min_size": options["min_size"],
        "export.formats": options["formats"],
        "export.tables": options["tables"],
        "export.averages": options["averages"],
        "evaluate.targets": options["targets"],
        "evaluate.metric": options["metric"],
        "evaluate.threads": options["threads"],
        "seed": options["seed"],
        "out": options["out"],
    }
    recipe = read_recipe(options["recipe"], asked)
    if one_stage and options["recipe"] is None:
        if holds_run(recipe.directory):
            recipe = changed(read_recipe_of(recipe.directory), asked)
        elif needs_run and not (options["model"] or options["data"]):
            raise RunError(
                f"a run must lie at {recipe.directory}, got no {recipe.directory}/recipe.json; name one by --out, or a "
                "model and data to make one of"
            )
    lines = [line.model_dump() for line in recipe.cluster.layers]
    lines += _layer_lines(options["layers"], options["skips"])
    return changed(recipe, {"cluster.layers": lines})


def _run(options: dict[str, Any], first: str | None, last: str, dry_run: bool = False) -> None:
    from .progress import Progress
    from .run import check_targets, planned_stages, run_recipe
    from .stages import Kind

    one_stage = last != "report" or first == "report"
    recipe = _recipe(options, one_stage, needs_run=one_stage and last != "cluster")
    progress = Progress(-1 if options["quiet"] else int(options["verbose"]))
    if dry_run:
        for name, done in planned_stages(
            recipe, progress, Kind(first) if first else None, options["force"]
        ):
            click.echo(f"{name}: {'done' if done else 'would run'}")
        return
    with _native_noise():
        rows = run_recipe(
            recipe, progress, Kind(first) if first else None, Kind(last), options["force"]
        )
    if options["as_json"]:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
    else:
        _print_rows(rows)
    if last == "report":
        progress.say(f"report: {recipe.directory / 'report.html'}")
        check_targets(recipe)


def _print_rows(rows: list[Any]) -> None:
    from rich.console import Console

    from .table import print_measurements

    # in a pipe the table keeps its width: a cut table serves nobody
    width = None if sys.stdout.isatty() else 200
    print_measurements(rows, Console(width=width))


@contextmanager
def _native_noise() -> Iterator[None]:
    """What native libraries print goes to a file meanwhile, removed at the end; Python's own standard error stays.

    A crash of native code leaves the file, and Python's stack on standard error.
    """
    import faulthandler
    import tempfile
    import warnings

    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    warnings.simplefilter("ignore")
    sys.stderr.flush()
    visible = os.dup(2)
    own, sys.stderr = sys.stderr, os.fdopen(os.dup(visible), "w", buffering=1)
    faulthandler.enable(sys.stderr)
    log = Path(tempfile.gettempdir(), f"edgepalette-{os.getpid()}.log")
    try:
        with log.open("wb") as file:
            os.dup2(file.fileno(), 2)
        yield
    finally:
        os.dup2(visible, 2)
        os.close(visible)
        faulthandler.disable()
        sys.stderr.close()
        sys.stderr = own
        log.unlink(missing_ok=True)


@main.command()
@_options
@click.option("--from", "first", type=click.Choice(STAGES), help="Repeat from this stage on.")
@click.option("--dry-run", is_flag=True, help="Say which stages would run, and stop.")
def run(first: str | None, dry_run: bool, **options: Any) -> None:
    """Run every stage: baseline, cluster, export, evaluate, report. Finished stages are not repeated."""
    _run(options, first, "report", dry_run)


@main.command()
@_options
def cluster(**options: Any) -> None:
    """Train with shared values: the run up to its clustered Keras models."""
    _run(options, None, "cluster")


@main.command()
@_options
def export(**options: Any) -> None:
    """Write dense and palette files: the run up to its exported files (--out names the run)."""
    _run(options, None, "export")


@main.command()
@_options
def evaluate(**options: Any) -> None:
    """Measure the files on the targets: the run up to its measurements (--out names the run)."""
    _run(options, None, "evaluate")


@main.command()
@_options
def report(**options: Any) -> None:
    """Write the report again (--out names the run)."""
    _run(options, "report", "report")


@main.command()
@click.argument("model")
@_selection
@click.option("--data", help="For built-in models: the data whose shape they take. [digits]")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def plan(model: str, data: str | None, as_json: bool, **selection: Any) -> None:
    """What would be clustered in MODEL, what not and why, and the bytes it would take."""
    with _native_noise():
        from .planning import predict_plans, print_plans

        section = {
            "clusters": selection["clusters"] or [16],
            "layers": _layer_lines(selection["layers"], selection["skips"]),
            "per_channel": bool(selection["per_channel"]),
            "min_size": selection["min_size"] or 0,
        }
        plans = predict_plans(model, data, section)
    if as_json:
        click.echo(json.dumps(plans, indent=2))
    else:
        print_plans(plans)


@main.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN…")
@click.option(
    "--picture", type=click.Path(path_type=Path), help="SVG of size against quality. [compare.svg]"
)
@click.option("--json", "as_json", is_flag=True, help="Rows as JSON; no picture unless asked for.")
def compare(runs: tuple[Path, ...], picture: Path | None, as_json: bool) -> None:
    """One table and one curve over finished runs."""
    from .run import read_measurements

    rows = [row for path in runs for row in read_measurements(path)]
    if picture is not None or not as_json:
        from .files import write_text
        from .picture import size_quality_svg

        picture = picture or Path("compare.svg")
        write_text(picture, size_quality_svg(rows))
    if as_json:
        click.echo(json.dumps([row.to_json() for row in rows], indent=2))
        return
    _print_rows(rows)
    click.echo(f"picture: {picture}", err=True)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def targets(as_json: bool) -> None:
    """What a model can be measured on, and what is installed."""
    from ..evaluate.target import TARGETS

    rows = [
        {
            "target": target.name,
            "runs": target.format,
            "installed": target.missing() is None,
            "what": target.description,
            "install": target.missing(),
        }
        for target in TARGETS.values()
    ]
    _print_table(rows, as_json)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--picture", type=click.Path(path_type=Path), help="SVG of where the bytes go. [none]"
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def inspect(file: Path, picture: Path | None, as_json: bool) -> None:
    """Tensors of a .keras, .tflite or .onnx FILE or a SavedModel: values, bits, bytes; and where its bytes go.

    \b
    packed    bytes of the indices at a whole number of bits
    shannon   the least any code of each index by itself can take
    """  # noqa: D301 # click's \b is the character, not the two signs
    from .inspection import inspect_file, part_rows, said_of_bounds

    with _native_noise():
        found = inspect_file(file)
    if picture is not None:
        from .bytes_picture import bytes_svg
        from .files import write_text

        write_text(picture, bytes_svg(found, file.name))
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    hidden = ("codebook",)
    _print_table([{k: v for k, v in row.items() if k not in hidden} for row in found["tensors"]], False)  # fmt: skip
    _print_table(part_rows(found), False)
    click.echo(
        f"{file}: {found['file_bytes']} B, of which weights {found['weight_bytes']} B, "
        f"{found['palettes']} palettes; {said_of_bounds(found)}"
    )
    if picture is not None:
        click.echo(f"picture: {picture}", err=True)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--clusters",
    type=int,
    default=16,
    show_default=True,
    help="Shared values per weight, 2-256; 16 at least for depthwise ones.",
)
@click.option(
    "--tables",
    type=click.Choice(["shared", "per-channel"]),
    default="shared",
    show_default=True,
    help="Value tables.",
)
@_on_inputs(1000, "Compare decisions on at most so many of --data's test inputs.")
@click.option(
    "--calibration",
    type=click.IntRange(0),
    default=256,
    show_default=True,
    help="Calibrate by so many of --data's training inputs; 0: by none.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The palette file. [FILE-palette]")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def palettize(
    file: Path,
    clusters: int,
    tables: str,
    data: str | None,
    samples: int,
    calibration: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Give the weights of a finished .tflite or .onnx FILE shared values, without training, and write them as palettes.

    With --data, weights make up for what others lost: many more decisions stay as they were.
    """
    from ..export.palette_tflite import Tables
    from .palettizing import Given, palettize_file
    from .progress import Progress

    given = None if data is None else Given(data, calibration, samples)
    with _native_noise():
        made = palettize_file(file, clusters, Tables(tables), given, out, Progress())
    if as_json:
        found = {
            "file": str(made.file),
            "file_bytes": made.file_bytes,
            "palette_bytes": made.palette_bytes,
            "calibration": made.calibration,
            "agreement": made.agreement,
            "samples": made.samples,
            "tensors": made.tensors,
            **made.proof.to_json(),
        }
        click.echo(json.dumps(found, indent=2))
        return
    _print_table(made.tensors, as_json)
    part = made.palette_bytes / made.file_bytes
    click.echo(f"{made.file}: {made.palette_bytes} B, {part:.3f} of {file} ({made.file_bytes} B)")
    if made.agreement is not None:
        click.echo(
            f"decides as {file} on {100 * made.agreement:.2f} % of {made.samples} inputs, "
            + (f"calibrated by {made.calibration} others" if made.calibration else "not calibrated")
        )
    for line in made.proof.lines():
        click.echo(line)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The plain file. [FILE-plain]")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def expand(file: Path, out: Path | None, as_json: bool) -> None:
    """Write a palette .tflite or .onnx FILE as a plain one, for tools that know no palettes."""
    from .expansion import expand_file

    with _native_noise():
        made = expand_file(file, out)
    if as_json:
        sizes = {"palette_bytes": made.palette_bytes, "plain_bytes": made.plain_bytes}
        found = {"file": str(made.file), **sizes, **made.proof.to_json()}
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{made.file}: {made.plain_bytes} B, {made.palette_bytes} B with palettes")
    for line in made.proof.lines():
        click.echo(line)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The folder. [FILE-firmware]")
@click.option(
    "--scratch",
    type=click.IntRange(1),
    metavar="BYTES",
    help="Most memory of an operator beside its tensors. [what speed asks for]",
)
@click.option("--name", default="model", show_default=True, help="Of the C function and its files.")
@click.option(
    "--device",
    metavar="NAME",
    help="Refuse a model that does not fit it: rp2040, stm32f411, … [any]",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def firmware(
    file: Path, out: Path | None, scratch: int | None, name: str, device: str | None, as_json: bool
) -> None:
    """Write an int8 .tflite FILE, with palettes or without, as C99 for microcontrollers: palettes stay packed in flash."""
    from .firmware import said_of, write_firmware

    made = write_firmware(file, out, scratch, name, device)
    found = {
        "folder": str(made.folder),
        "arena_bytes": made.firmware.arena,
        "constant_bytes": {share.value: size for share, size in made.firmware.flash.items()},
        "operators": list(made.firmware.operators),
        "remarks": list(made.firmware.remarks),
    }
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{made.folder}: {said_of(made.firmware)}")
    for remark in made.firmware.remarks:
        click.echo(f"  {remark}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The packed file. [FILE.xz]")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def pack(file: Path, out: Path | None, as_json: bool) -> None:
    """Pack FILE for transport, as for updates over the air: an .xz that `unpack`, xz and XZ Embedded open."""
    from .packing import pack_file

    _print_packing(pack_file(file, out), as_json)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The file. [FILE without .xz]")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def unpack(file: Path, out: Path | None, as_json: bool) -> None:
    """Restore what `pack` packed, byte for byte."""
    from .packing import unpack_file

    _print_packing(unpack_file(file, out), as_json)


def _print_packing(made: Packing, as_json: bool) -> None:
    sizes = {"file_bytes": made.file_bytes, "packed_bytes": made.packed_bytes}
    if as_json:
        click.echo(json.dumps({"file": str(made.file), **sizes}, indent=2))
        return
    part = made.packed_bytes / max(1, made.file_bytes)
    click.echo(
        f"{made.file}: {made.file_bytes} B plain, {made.packed_bytes} B packed ({part:.3f} ×)"
    )


@main.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@_on_inputs(16, "Random inputs, and at most so many of --data.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random inputs.")
@click.option(
    "--tolerance",
    type=click.FloatRange(0),
    help="Largest difference of two outputs, as real numbers. [none: equal bytes]",
)
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def verify(
    first: Path,
    second: Path,
    data: str | None,
    samples: int,
    seed: int,
    tolerance: float | None,
    as_json: bool,
) -> None:
    """Whether A and B (.tflite or .onnx) give the same outputs on every runtime that can run them; exit code 1 if not."""
    from .verification import said_of, verify_files

    with _native_noise():
        checks = verify_files(first, second, data, samples, seed, tolerance)
    _print_table([check.to_json() for check in checks], as_json)
    if not as_json:
        click.echo(said_of(checks, first, second))
    if any(check.same is False for check in checks):
        raise SystemExit(1)


@main.command()
@click.argument("file", type=click.Path(path_type=Path), default="recipe.toml")
def init(file: Path) -> None:
    """Write a recipe with every key, its default and what it means."""
    from importlib import resources

    from .files import write_text

    if file.exists():
        raise RecipeError(f"the recipe must be a new file, got {file}, which exists; name another")
    template = resources.files("edgepalette.pipeline.templates").joinpath("recipe.toml.j2")
    write_text(file, template.read_text())
    click.echo(f"{file} written; run it with: edgepalette run --recipe {file}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(as_json: bool) -> None:
    """What is installed, what is missing and how to get it."""
    from .doctor import examine

    rows = examine()
    _print_table(rows, as_json)
    if any(row["needed"] and not row["ok"] for row in rows):
        raise SystemExit(1)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print SHELL's completion script: eval "$(edgepalette completion bash)"."""
    from click.shell_completion import get_completion_class

    maker = get_completion_class(shell)
    if maker is None:
        raise RecipeError(f"completion is for bash, zsh and fish, got {shell}")
    click.echo(maker(main, {}, "edgepalette", "_EDGEPALETTE_COMPLETE").source())


def _print_table(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(header_style="bold")
    for name in rows[0] if rows else ():
        number = all(
            isinstance(row[name], int | float) and not isinstance(row[name], bool) for row in rows
        )
        table.add_column(name.replace("_", " "), justify="right" if number else "left")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    Console(width=None if sys.stdout.isatty() else 140).print(table, markup=False)


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return ""
    return " × ".join(map(str, value)) if isinstance(value, list) else str(value)
