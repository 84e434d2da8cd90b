"""The command line."""

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkvasir.cli_data import DataOption, DebugOption, data_app
from fedkvasir.cli_site import site_app
from fedkvasir.errors import RunFailed, UserError, reason_of
from fedkvasir.gpu import is_full
from fedkvasir.machine import sigterm_as_ctrl_c

if TYPE_CHECKING:
    from fedkvasir.console import Screen
    from fedkvasir.study import Study

app = typer.Typer(
    help="Train hospitals together, test a hospital that took no part.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
app.add_typer(site_app, name="site")
INTERRUPTED = 130
"""What typer returns after Ctrl-C."""
GOES_ON = {"run", "sweep", "baseline"}
"""Commands that, given again, go on from what is there."""


def main() -> None:
    """Entry point: one sentence and an exit code for what a person can mend; tracebacks only with --debug."""
    sigterm_as_ctrl_c()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal may not know all letters that names have
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:
            _end(f"stopped{_kept()}", 1)
        sys.exit(code)
    except UserError as error:
        _end(str(error), 2)
    except RunFailed as error:
        _end(str(error), 1)
    except PermissionError as error:
        place = "name another place (--data, --out, FEDKVASIR_CACHE)"
        _end(f"{error.filename or error} may not be read or written by this account; ask for the right, or {place}", 2)
    except OSError as error:
        _end(_disk(error), 1)
    except Exception as error:
        import click

        if isinstance(error, click.ClickException):
            error.show()
            sys.exit(2)
        if is_full(reason := reason_of(error)):
            _end(
                "the GPU's memory does not suffice: wait until others have left it, choose a smaller batch, image size "
                f"or model, or compute on the processor (resources.device=cpu, of predict --device cpu); {reason}",
                1,
            )
        _end(f"{type(error).__name__}: {error} (a bug, or a broken installation; --debug shows where)", 1)


def _tell(screen: "Screen", study: "Study") -> None:
    screen.study(study)
    if failed := int((study.index["state"] == "failed").sum()):
        raise RunFailed(f"{failed} of {len(study.index)} runs failed, see above; the same command tries again")


def _end(text: str, code: int) -> None:
    if "--debug" in sys.argv:
        import traceback

        traceback.print_exc()
    if "--fresh" in sys.argv:  # it would throw away what the same command goes on from
        text = text.replace("the same command", "the same command without --fresh")
    print(f"fedkvasir: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(code)


def _disk(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}{_kept()}"


def _kept() -> str:
    return "; what was finished is kept, and the same command goes on from there" if GOES_ON & {*sys.argv[1:2]} else ""


@app.command()
def run(
    context: typer.Context,
    scenario: Annotated[Path, typer.Argument(help="A scenario file (YAML).")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key.path=value ...]")] = None,
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    engine: Annotated[str, typer.Option(help="ray: parallel workers; local: this process.")] = "ray",
    workers: Annotated[int | None, typer.Option(min=1, help="Parallel workers (ray).", show_default="cores")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what this run has done so far.")] = False,
    track: Annotated[
        list[str] | None, typer.Option(help="Tell mlflow, tensorboard or wandb, on this disk; may be repeated.")
    ] = None,
    on: Annotated[
        str | None, typer.Option("--on", help="At the real hospitals of this federation, by name or server folder.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the result.")] = False,
    debug: DebugOption = False,
) -> None:
    """Run a scenario, or go on with it; ends with the table of centers. With a `protocol:` block: all of its runs."""
    from fedkvasir.console import Screen
    from fedkvasir.files import refuse_unwritable
    from fedkvasir.scenario import load

    screen = Screen(quiet)
    asked = load(scenario, tuple(overrides or ()))
    if asked.sweep:
        screen.warn("sweep: is left out; `fedkvasir sweep` carries it out")
    if not dry_run:
        refuse_unwritable(out, "--out")
    if on:
        from fedkvasir.deployment import run_on, study_on

        source = context.get_parameter_source("data")  # the environment may say where this machine's own data lie
        if dry_run or (source and source.name == "COMMANDLINE") or workers or engine != "ray":
            raise UserError("--on: hospitals have their own; leave out --dry-run, --data, --engine and --workers")
        own = (asked, on, out, fresh, screen, tuple(track or ()))
        if asked.protocol:
            _tell(screen, study_on(*own))
        else:
            screen.result(run_on(*own))
        return
    from fedkvasir.estimate import choose_workers, estimate
    from fedkvasir.simulation import Simulation

    with Simulation(data, out, engine, workers, screen, tuple(track or ())) as simulation:
        if dry_run and asked.protocol:
            screen.cells(asked.model_copy(update={"sweep": None}))
            simulation.rehearse(asked.model_copy(update={"sweep": None}))
        elif dry_run:
            plan = simulation.plan(asked)
            screen.plan(plan, estimate(plan, 1 if engine == "local" else choose_workers(plan, workers).workers))
        elif asked.protocol:
            _tell(screen, simulation.study(asked, fresh))
        else:
            screen.result(simulation.run(asked, fresh))


@app.command()
def sweep(
    scenario: Annotated[Path, typer.Argument(help="A scenario file (YAML).")],
    axes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[key.path=value,value ...]", help="What is tried; seed=0..4 is a range."),
    ] = None,
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    concurrent: Annotated[int | None, typer.Option(min=1, help="Runs at a time.", show_default="as fit")] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes of one run.")] = 1,
    address: Annotated[str | None, typer.Option(help="A Ray cluster: auto, host:port or ray://host:port.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what is compared and stop.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the result.")] = False,
    debug: DebugOption = False,
) -> None:
    """Run a scenario at many settings, many at a time, or go on with it; ends with the best of every method.
    Without settings: all runs of its `protocol:` block."""
    from fedkvasir.console import Screen
    from fedkvasir.files import refuse_unwritable
    from fedkvasir.simulation import Simulation, run_sweep
    from fedkvasir.sweep import load_sweep

    screen = Screen(quiet)
    asked = load_sweep(scenario, axes or ())
    if dry_run:
        screen.cells(asked)
        with Simulation(data, out, screen=screen) as simulation:
            simulation.rehearse(asked)
        return
    refuse_unwritable(out, "--out")
    _tell(screen, run_sweep(asked, data, out, workers, concurrent, address, screen))


@app.command()
def baseline(
    scenario: Annotated[Path, typer.Argument(help="A scenario file (YAML).")],
    method: Annotated[str, typer.Argument(help="A baseline.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key.path=value ...]")] = None,
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    clusters: Annotated[int | None, typer.Option(min=1, help="k-means.", show_default="number of classes")] = None,
    unlabeled: Annotated[str | None, typer.Option(help="A folder of pictures, or a dataset: label them too.")] = None,
    labels_out: Annotated[Path | None, typer.Option(help="Their CSV.", show_default="labels.csv in the run")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what this run has done so far.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the result.")] = False,
    debug: DebugOption = False,
) -> None:
    """Run a reference (random, majority) or a classical method (logistic-regression, random-forest, k-nearest, k-means)
    through a scenario's hospitals and splits, into the records of any other run."""
    from fedkvasir.baselines import find_method, run_baseline
    from fedkvasir.baselines.labels import find_pictures, label_images
    from fedkvasir.console import Screen
    from fedkvasir.files import refuse_unwritable, refuse_unwritable_file, unread, write_atomic
    from fedkvasir.plan import make_plan
    from fedkvasir.report import build_report
    from fedkvasir.scenario import load

    screen = Screen(quiet)
    refuse_unwritable(out, "--out")

    def watch(what: str, done: int, total: int) -> None:
        if done == 1:
            screen.start(what, total)
        screen.advance(what)

    asked = load(scenario, tuple(overrides or ()))
    if asked.protocol:
        raise UserError(f"{scenario} has a protocol:, which `fedkvasir run` carries out; of one run say protocol=null")
    if labels_out:
        if not unlabeled:
            raise UserError("--labels-out: there is nothing to be labelled; name pictures with --unlabeled")
        refuse_unwritable_file(labels_out, "--labels-out")
        if labels_out.exists() and not labels_out.read_text(encoding="utf-8", errors="replace").startswith("image,"):
            raise UserError(f"--labels-out {labels_out} is there and holds something else; name another file")
    chosen = find_method(method, asked.task, clusters)
    pictures = find_pictures(unlabeled, data) if unlabeled else None
    with screen.bars():
        plan = make_plan(asked, data, screen.preparing)
    with screen.bars():
        folder = run_baseline(plan, chosen, data, out, fresh, watch)
        if not (folder.folder / "report.html").is_file():
            build_report(folder)
    seen = folder.plan.scenario.model.parameters["features"]
    screen.say(f"{method} at {len(plan.training_centers)} hospitals, features: {seen}; {chosen.summary}")
    screen.result(folder)
    if pictures:
        with screen.bars():
            table, features, broken = label_images(plan, chosen, pictures, data, watch)
        path = labels_out or folder.folder / "labels.csv"
        write_atomic(path, table.to_csv(index=False, lineterminator="\n"))
        typer.echo(f"{len(table)} images labelled in {path}, features: {features}")
        if broken:
            raise unread(broken, pictures.table["image"].nunique())


@app.command()
def init(name: Annotated[str, typer.Argument(help="Name of the new scenario.")] = "my-scenario") -> None:
    """Write a commented scenario to start from, and a JSON schema for editors beside it."""
    import json

    from fedkvasir.files import write_atomic
    from fedkvasir.scenario import json_schema, load

    path = Path(f"{name.removesuffix('.yaml')}.yaml")
    schema = path.with_name("scenario.schema.json")
    if path.exists():
        raise UserError(f"{path} exists already; choose another name")
    template = Path(__file__).with_name("template.yaml").read_text(encoding="utf-8")
    write_atomic(path, template)
    try:
        load(path)
    except UserError:
        path.unlink()
        raise
    write_atomic(schema, json.dumps(json_schema(), indent=1))
    typer.echo(f"wrote {path} and {schema}; next: fedkvasir run {path} --dry-run")


@app.command()
def predict(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RUN... IMAGES...", help="Run folders; pictures, videos, folders, patterns.")
    ],
    out: Annotated[Path, typer.Option(help="Where masks and predictions.csv go.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    tta: Annotated[str | None, typer.Option(help="flips: average over the picture and its mirror images.")] = None,
    overlays: Annotated[bool, typer.Option("--overlays", help="Pictures with the outline drawn, too.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 16,
    every: Annotated[int, typer.Option(min=1, help="Of videos: take every so many frames.")] = 1,
    one_at_a_time: Annotated[
        bool, typer.Option("--one-at-a-time", help="Hold one model of an ensemble in memory, not all; slower.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the result.")] = False,
    debug: DebugOption = False,
) -> None:
    """Apply a run's best model, or several runs as an ensemble: masks at native size, or classes and probabilities."""
    import resource
    import time

    import torch

    from fedkvasir.console import Screen
    from fedkvasir.prediction import predict_images
    from fedkvasir.runs import Run

    runs = [Run(path) for path in paths if (path / "plan.json").is_file()]
    sources = [path for path in paths if not (path / "plan.json").is_file()]
    if not runs or not sources:
        lacks = "picture, video or folder" if runs else "run folder (one that holds plan.json)"
        raise UserError(f"predict takes run folders, then pictures; among {', '.join(map(str, paths))} is no {lacks}")
    screen, done, began_s, notes = Screen(quiet), 0, 0.0, list[str]()

    def progress(number: int, total: int) -> None:
        nonlocal done, began_s
        done, began_s = number, began_s if number else time.monotonic()
        if number:
            screen.advance("")
        else:
            screen.start("predicting", total)

    try:
        with screen.bars():
            predict_images(
                runs, sources, out, device=device, tta=tta, overlays=overlays, batch_size=batch_size, every=every,
                one_at_a_time=one_at_a_time, progress=progress, notice=notes.append,
            )  # fmt: skip
    finally:
        for note in notes:
            typer.echo(note)
        if done:
            took_s = time.monotonic() - began_s
            memory = f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB"
            if gpu_bytes := torch.cuda.max_memory_allocated():
                memory += f" and {gpu_bytes / 2**20:.0f} MiB on the GPU"
            rate = f"{done / took_s:.1f} frames a second"
            typer.echo(f"{done} pictures predicted in {took_s:.1f} s, {rate}, peak memory {memory}, in {out}")


@app.command()
def export(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN")],
    format: Annotated[str, typer.Option(help="onnx or torchscript.")],
    out: Annotated[Path | None, typer.Option(help="The file.", show_default="model.onnx or model.pt in RUN")] = None,
    debug: DebugOption = False,
) -> None:
    """Write a run's best model as one file for other programs, and check that it says the same."""
    import json

    from fedkvasir.export import export as write
    from fedkvasir.runs import Run

    done = write(Run(run_folder), format, out)
    facts = done.metadata
    typer.echo(f"{done.path}: {facts['input']} -> {facts['output']}")
    threshold = f", threshold {facts['threshold']}" if "threshold" in facts else ""
    classes = ", ".join(json.loads(facts["classes"]))
    typer.echo(f"{facts['task']}, classes {classes}{threshold}, weights sha256 {facts['weights_sha256']}")
    typer.echo(f"loaded again, it says what the run says: logits differ by at most {done.difference:.1g}")


@app.command()
def report(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, or a study's.")],
    format: Annotated[str, typer.Option(help="html, or its tables as markdown, latex or csv.")] = "html",
    debug: DebugOption = False,
) -> None:
    """Build report.html of a run or a study again; or print its tables, or write them to RUN/tables as CSV."""
    from fedkvasir.files import write_atomic
    from fedkvasir.report import build_report
    from fedkvasir.report.sections import run_tables
    from fedkvasir.report.study import build_study, study_tables
    from fedkvasir.report.tables import csv_text, latex, markdown
    from fedkvasir.runs import Run
    from fedkvasir.study import Study

    study = Study(run_folder) if Study.there(run_folder) else None
    if format == "html":
        typer.echo(build_study(study) if study else build_report(Run(run_folder)))
    elif format in ("csv", "markdown", "latex"):
        tables = study_tables(study) if study else run_tables(Run(run_folder), figures=format == "csv")
        if format == "csv":
            for name, table in tables.items():
                path = run_folder / "tables" / f"{name}.csv"
                write_atomic(path, csv_text(table))
                typer.echo(path)
        else:
            render = markdown if format == "markdown" else latex
            typer.echo(render(list(tables.values())), nl=False)
    else:
        raise UserError(f"--format {format}: use html, markdown, latex or csv")


@app.command()
def view(
    runs: Annotated[Path, typer.Argument(metavar="[RUNS]", help="The folder that run folders are in.")] = Path("runs"),
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")] = 8000,
    debug: DebugOption = False,
) -> None:
    """Show runs and their reports in a browser on this machine, those in progress as far as they have come."""
    from fedkvasir.view import serve

    serve(runs, port, typer.echo)


@app.command()
def compare(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run folders; NAME=RUN,RUN names the runs of one method.")
    ],
    out: Annotated[Path | None, typer.Option(help="Write comparison.html, .csv and diagrams into this folder.")] = None,
    reference: Annotated[str | None, typer.Option(help="Every method against this one.", show_default="pairs")] = None,
    scope: Annotated[str, typer.Option(help="Centers to test on: unseen, seen or all.")] = "unseen",
    format: Annotated[str, typer.Option(help="text, markdown, latex or csv.")] = "text",
    on: Annotated[
        str | None, typer.Option("--on", help="Have the hospitals of this federation compare what stayed with them.")
    ] = None,
    debug: DebugOption = False,
) -> None:
    """Compare methods on the same test images: intervals, paired tests, ranks, fairness.

    Run folders whose scenarios differ only in the seed are one method; NAME=RUN,RUN gives a method a name.
    """
    from fedkvasir.console import Screen
    from fedkvasir.files import refuse_unwritable
    from fedkvasir.methods import methods_of
    from fedkvasir.report.comparison import build_comparison, tables
    from fedkvasir.report.findings import find, long_csv
    from fedkvasir.report.tables import latex, markdown

    if format not in ("text", "markdown", "latex", "csv"):
        raise UserError(f"--format {format}: use text, markdown, latex or csv")
    if out:
        refuse_unwritable(out, "--out")
    methods = methods_of(runs)
    if on:
        from fedkvasir.deployment import compare_on

        compare_on(methods, on)
    found = find(methods, scope, reference)
    if format == "text":
        Screen().comparison(found, tables(found))
    elif format == "csv":
        typer.echo(long_csv(found), nl=False)
    else:
        render = markdown if format == "markdown" else latex
        typer.echo(render(list(tables(found).values())), nl=False)
    if out is not None:
        typer.echo(build_comparison(found, out), err=format != "text")


@app.command()
def algorithms() -> None:
    """Federated algorithms and their parameters."""
    from dataclasses import fields

    from fedkvasir.algorithms import ALGORITHMS
    from fedkvasir.console import rows

    rows(
        ("algorithm", "parameters", "what it does", "paper"),
        [
            (name, ", ".join(f"{f.name}={f.default}" for f in fields(kind)) or "-", kind.summary, kind.paper)
            for name, kind in ALGORITHMS.items()
        ],
    )


@app.command()
def models() -> None:
    """Model names, parameters, encoders and recipes."""
    import segmentation_models_pytorch as smp

    from fedkvasir.console import rows
    from fedkvasir.ensembles import ENSEMBLES
    from fedkvasir.models import MODELS, parameters_of
    from fedkvasir.scenario import RECIPES

    table = []
    for task, known in MODELS.items():
        for name, builder in known.items():
            parameters = list(parameters_of(builder).values())
            about = (builder.__doc__ or "").splitlines()[0]
            table.append((name, task, ", ".join(f"{p.name}={p.default}" for p in parameters) or "-", about))
        for name, kind in ENSEMBLES[task].items():
            about = (kind.__doc__ or "").splitlines()[0]
            table.append((name, task, ", ".join([*kind.model_fields, "encoder"]), about))
    rows(("model", "task", "parameters", "about"), table)
    typer.echo("classification also takes any timm model by timm's name")
    typer.echo("recipes: " + ", ".join(sorted(path.stem for path in RECIPES.glob("*.yaml"))))
    typer.echo("encoders: tu-<any timm model>, " + ", ".join(smp.encoders.get_encoder_names()))


@app.command()
def doctor(data: DataOption = None, out: Path = Path("runs"), debug: DebugOption = False) -> None:
    """What this machine has, what would fail here, and how to mend it; exit code 1 if something would fail."""
    from fedkvasir.doctor import examine

    failed = False
    for finding in examine(data, out):
        typer.echo(f"{finding.state:5} {finding.what}" + (f"  ->  {finding.mend}" if finding.mend else ""))
        failed |= finding.state == "fail"
    raise typer.Exit(1 if failed else 0)
