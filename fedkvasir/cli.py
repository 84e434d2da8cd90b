"""The command line, and the composition root: the only module here that imports clients and server, lazily."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedkvasir.cli_data import DataOption, DebugOption, data_app
from fedkvasir.errors import RunFailed, UserError

if TYPE_CHECKING:
    from fedkvasir.console import Screen
    from fedkvasir.plan import Plan
    from fedkvasir.runs import Run

app = typer.Typer(
    help="Train hospitals together, test a hospital that took no part.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data_app, name="data")
CLIENT_APP = "clients.app:app"
INTERRUPTED = 130
"""What typer returns after Ctrl-C."""


def main() -> None:
    """Entry point: one sentence and an exit code for what a person can mend; tracebacks only with --debug."""
    try:
        code = app(standalone_mode=False)
        if code == INTERRUPTED:
            _end("stopped; the same command goes on from the last finished round", 1)
        sys.exit(code)
    except UserError as error:
        _end(str(error), 2)
    except RunFailed as error:
        _end(str(error), 1)
    except OSError as error:
        _end(_disk(error), 1)
    except Exception as error:
        import click

        if isinstance(error, click.ClickException):
            error.show()
            sys.exit(2)
        _end(f"{type(error).__name__}: {error} (a bug, or a broken installation; --debug shows where)", 1)


def _end(text: str, code: int) -> None:
    if "--debug" in sys.argv:
        import traceback

        traceback.print_exc()
    print(f"fedkvasir: {' '.join(text.split())}", file=sys.stderr)
    sys.exit(code)


def _disk(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    return f"{error.strerror or error}{where}; what was finished is kept, and the same command goes on from there"


@app.command()
def run(
    scenario: Annotated[Path, typer.Argument(help="A scenario file (YAML).")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key.path=value ...]")] = None,
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="Where run folders go.")] = Path("runs"),
    engine: Annotated[str, typer.Option(help="ray: parallel workers; local: this process.")] = "ray",
    workers: Annotated[int | None, typer.Option(min=1, help="Parallel workers (ray).", show_default="cores")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what this run has done so far.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print only the result.")] = False,
    debug: DebugOption = False,
) -> None:
    """Run a scenario, or go on with it; ends with the table of centers."""
    from fedkvasir.console import Screen
    from fedkvasir.estimate import choose_workers, estimate

    screen = Screen(quiet)
    if dry_run:
        plan = _plan(scenario, tuple(overrides or ()), data, screen)
        screen.plan(plan, estimate(plan, 1 if engine == "local" else choose_workers(plan, workers)))
        return
    finished = run_scenario(scenario, tuple(overrides or ()), data, out, engine, workers, fresh, screen)
    screen.result(finished)


def run_scenario(
    scenario: str | Path,
    overrides: tuple[str, ...] = (),
    data: str | Path | None = None,
    out: str | Path = "runs",
    engine: str = "ray",
    workers: int | None = None,
    fresh: bool = False,
    screen: "Screen | None" = None,
) -> "Run":
    """Run a scenario to its end and return its run folder; a finished run is opened, a stopped one goes on.

    Raises UserError for what the user can mend, RunFailed where the run could not go on.
    """
    from fedkvasir.console import Screen
    from fedkvasir.estimate import choose_workers
    from fedkvasir.report import build_report
    from fedkvasir.runs import Run

    if engine not in ("ray", "local"):
        raise UserError(f"--engine {engine}: use ray or local")
    screen = screen or Screen(quiet=True)
    plan = _plan(Path(scenario), overrides, Path(data) if data else None, screen)
    folder = Run(Path(out).resolve() / plan.name)
    with folder.writing():
        if fresh:
            folder.clear()
        number = 1 if engine == "local" else choose_workers(plan, workers)
        folder.start(plan, engine, number)
        if folder.finished:
            screen.say(f"{plan.name} is finished; --fresh runs it again")
        else:
            screen.say(
                f"{plan.name}: {len(plan.training_centers)} hospitals train, engine {engine}, {number} worker(s)"
            )
            _federate(plan, folder, engine, number, screen)
        if not (folder.folder / "report.html").is_file():
            build_report(folder)
    return folder


def _plan(scenario: Path, overrides: tuple[str, ...], data: Path | None, screen: "Screen") -> "Plan":
    from fedkvasir.plan import make_plan
    from fedkvasir.scenario import load

    with screen.bars():
        return make_plan(load(scenario, overrides), data, screen.preparing)


def _federate(plan: "Plan", folder: "Run", engine: str, workers: int, screen: "Screen") -> None:
    _own_packages_first()
    import logging

    from server.rounds import federate

    logging.getLogger("flwr").setLevel(logging.WARNING)
    with screen.bars():
        screen.start("starting workers", None)
        with _grid(plan, folder, engine, workers) as grid:
            grid.on_reply = screen.advance
            federate(grid, plan, folder, partial(screen.event, plan))


@contextmanager
def _grid(plan: "Plan", folder: "Run", engine: str, workers: int) -> Iterator[Any]:
    from clients.app import forget
    from server.grid import LocalGrid, Node, RayGrid

    nodes = [
        Node(str(center), str(folder.folder), float(row["train"]), float(row["val"] + row["test"]))
        for center, row in plan.centers.iterrows()
    ]
    threads = plan.scenario.resources.threads_per_center
    if engine == "local":
        grid: Any = LocalGrid(nodes, CLIENT_APP, threads)
    else:
        grid = RayGrid(nodes, CLIENT_APP, threads, workers, _gpu_share(plan, workers))
    try:
        yield grid
    finally:
        grid.close()
        forget()


def _gpu_share(plan: "Plan", workers: int) -> float:
    if plan.device != "cuda":
        return 0.0
    import torch

    share = plan.scenario.resources.gpu_per_center
    return torch.cuda.device_count() / workers if share == "auto" else float(share)


def _own_packages_first() -> None:
    """`clients` and `server` are top-level names; a stray file in the working folder must not be taken for them."""
    root = str(Path(__file__).resolve().parents[1])
    if sys.path[:1] != [root]:
        sys.path.insert(0, root)


@app.command()
def init(name: Annotated[str, typer.Argument(help="Name of the new scenario.")] = "my-scenario") -> None:
    """Write a commented scenario to start from, and a JSON schema for editors beside it."""
    import json

    from fedkvasir.files import write_atomic
    from fedkvasir.scenario import json_schema, load

    path, schema = Path(f"{name}.yaml"), Path("scenario.schema.json")
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
    run_folder: Annotated[Path, typer.Argument(metavar="RUN")],
    images: Annotated[list[Path], typer.Argument(help="Pictures, or folders of pictures.")],
    out: Annotated[Path, typer.Option(help="Where masks and predictions.csv go.")],
    debug: DebugOption = False,
) -> None:
    """Apply a run's best model: masks at native size, or classes with probabilities."""
    from fedkvasir.prediction import predict_images
    from fedkvasir.runs import Run

    table = predict_images(Run(run_folder), images, out)
    typer.echo(f"{len(table)} predictions in {out}")


@app.command()
def report(run_folder: Annotated[Path, typer.Argument(metavar="RUN")], debug: DebugOption = False) -> None:
    """Build report.html again from the records."""
    from fedkvasir.report import build_report
    from fedkvasir.runs import Run

    typer.echo(build_report(Run(run_folder)))


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
    """Model names, parameters and encoders."""
    import segmentation_models_pytorch as smp

    from fedkvasir.console import rows
    from fedkvasir.models import MODELS, parameters_of

    table = []
    for task, known in MODELS.items():
        for name, builder in known.items():
            parameters = list(parameters_of(builder).values())
            about = (builder.__doc__ or "").splitlines()[0]
            table.append((name, task, ", ".join(f"{p.name}={p.default}" for p in parameters) or "-", about))
    rows(("model", "task", "parameters", "about"), table)
    typer.echo("classification also takes any timm model by timm's name")
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
