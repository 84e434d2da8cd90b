"""`fedkvasir data ...`: what is known, what is here, who holds what, what overlaps."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedkvasir.data.hospitals import Hospitals

data_app = typer.Typer(help="Datasets: what is known, what is here, who holds what.", no_args_is_help=True)
DataOption = Annotated[
    Path | None, typer.Option("--data", envvar="FEDKVASIR_DATA", help="Folder of dataset roots.", show_default=False)
]
DebugOption = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
ScenarioArgument = Annotated[Path, typer.Argument(help="A scenario file (YAML).")]
OverridesArgument = Annotated[list[str] | None, typer.Argument(metavar="[key.path=value ...]")]


def _gather(scenario: Path, overrides: list[str] | None, data: Path | None) -> "Hospitals":
    from fedkvasir.console import Screen
    from fedkvasir.data.hospitals import gather
    from fedkvasir.names import check_names
    from fedkvasir.scenario import load

    screen, loaded = Screen(), load(scenario, tuple(overrides or ()))
    check_names(loaded)
    with screen.bars():
        held = gather(loaded, data, screen.preparing)
    for warning in held.warnings:
        typer.echo(f"warning: {warning}")
    return held


@data_app.command("list")
def data_list() -> None:
    """The datasets fedkvasir reads."""
    from fedkvasir.console import rows
    from fedkvasir.data.datasets import DATASETS

    rows(
        ("dataset", "task", "images", "title"),
        [
            (d.name, ", ".join(d.tasks) or "prediction", str(d.card.count or "-"), d.card.title)
            for d in DATASETS.values()
        ],
    )
    typer.echo("`fedkvasir data card NAME`: source, license, how to get it, centers, groups, options, quirks")


@data_app.command("card")
def data_card(name: Annotated[str, typer.Argument(help="A name from `fedkvasir data list`.")]) -> None:
    """A dataset's card: source, citation, license, how to get it, what is published about it, quirks, options."""
    import inspect

    from fedkvasir.data.datasets import find_dataset

    dataset = find_dataset(name)
    card = dataset.card
    typer.echo(card.title)
    for field in ("source", "citation", "license", "obtain", "centers", "groups"):
        typer.echo(f"{field}: {getattr(card, field)}")
    typer.echo("tasks: " + (", ".join(dataset.tasks) or "none: unlabeled, for prediction"))
    if card.counts:
        typer.echo("published counts: " + ", ".join(f"{key} {count}" for key, count in card.counts.items()))
    parameters = inspect.signature(dataset.prepare or dataset.read).parameters.values()
    options = [f"{p.name}={p.default}" for p in parameters if p.kind is p.KEYWORD_ONLY]
    typer.echo(f"options (data.options.{name}): " + (", ".join(options) or "none"))
    for quirk in card.quirks:
        typer.echo(f"- {quirk}")


@data_app.command("check")
def data_check(name: str, root: Path, debug: DebugOption = False) -> None:
    """Read a dataset at ROOT and compare it with its card; decodes nothing."""
    from fedkvasir.data.datasets import find_dataset, find_root

    dataset = find_dataset(name)
    catalog = dataset.read(find_root(dataset, root, None))
    table, card = catalog.table, dataset.card
    typer.echo(f"{card.title} at {catalog.root}")
    groups = f"{table['group'].nunique()} named groups" if table["group"].notna().any() else "no named groups"
    boxes = sum(len(value) for value in table["boxes"].dropna())
    typer.echo(
        f"{len(table)} images, {table['mask'].notna().sum()} masks, {table['empty'].sum()} without mask known to be "
        f"empty, {boxes} boxes, {groups}"
    )
    for title, column in (("center", "center"), ("label", "label"), ("official split", "official_split")):
        counts = table[column].value_counts().sort_index()
        typer.echo(f"{title}: " + (", ".join(f"{key} {count}" for key, count in counts.items()) or "none"))
    if dataset.tables:
        typer.echo(f"tables (`fedkvasir data table`): {', '.join(dataset.tables)}")
    if catalog.splits:
        typer.echo(f"published splits (split: official:NAME): {', '.join(catalog.splits)}")
    for warning in [*catalog.warnings, *(dataset.verify(catalog.root) if dataset.verify else ())]:
        typer.echo(f"warning: {warning}")
    typer.echo(f"listing sha256 {catalog.hash}")


@data_app.command("table")
def data_table(name: str, root: Path, table: str, out: Path, debug: DebugOption = False) -> None:
    """Write what else is published with a dataset (features, centroids) to a CSV or Parquet file."""
    from fedkvasir.data.datasets import find_dataset, find_root
    from fedkvasir.errors import UserError, did_you_mean
    from fedkvasir.files import write_atomic

    dataset = find_dataset(name)
    if table not in dataset.tables:
        known = list(dataset.tables)
        raise UserError(
            f"{name} has no table {table!r}{did_you_mean(table, known)}; here: {', '.join(known) or 'none'}"
        )
    frame = dataset.tables[table](find_root(dataset, root, None))
    write_atomic(out, frame.to_parquet() if out.suffix == ".parquet" else frame.to_csv(lineterminator="\n"))
    typer.echo(f"wrote {out}: {len(frame)} rows, {len(frame.columns)} columns")


@data_app.command("miniature")
def data_miniature(
    name: Annotated[str, typer.Argument(help="A name from `fedkvasir data list`.")],
    out: Annotated[Path, typer.Argument(help="The miniature goes into OUT/NAME.")],
    per_center: Annotated[int, typer.Option(help="Images a center (a class, where there are classes).")] = 12,
    debug: DebugOption = False,
) -> None:
    """Render a small, faithful copy of a dataset's tree, to try a scenario before a long download."""
    from fedkvasir.data.miniatures import miniature
    from fedkvasir.files import refuse_unwritable

    refuse_unwritable(out, "OUT")
    typer.echo(f"{miniature(name, out, per_center)} (rendered pictures, real layout)")


@data_app.command("unpack")
def data_unpack(
    archive: Annotated[Path, typer.Argument(help="A downloaded .zip, .tar, .tar.gz or .gz.")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Unpacked to DIR/<name of the archive>.")],
    debug: DebugOption = False,
) -> None:
    """Unpack a download: checked for names that lead outside, whole or not at all."""
    from fedkvasir.data.archive import unpack

    typer.echo(unpack(archive, out))


@data_app.command("split")
def data_split(
    scenario: ScenarioArgument,
    overrides: OverridesArgument = None,
    data: DataOption = None,
    freeze: Annotated[Path | None, typer.Option(help="Write who holds what to this CSV (data.split_file).")] = None,
    debug: DebugOption = False,
) -> None:
    """Show who holds what; --freeze writes it with the pictures' hashes, to be used again as data.split_file."""
    from fedkvasir.console import rows
    from fedkvasir.data.split import freeze as write
    from fedkvasir.files import refuse_unwritable_file

    if freeze:
        refuse_unwritable_file(freeze, "--freeze")
    samples = _gather(scenario, overrides, data).samples
    counts = samples.groupby(["center", "split"]).agg(images=("sample", "size"), groups=("group", "nunique"))
    rows(
        ("center", "split", "images", "groups"),
        [(str(c), str(s), str(row["images"]), str(row["groups"])) for (c, s), row in counts.iterrows()],
    )
    if freeze:
        write(samples, freeze)
        typer.echo(f"wrote {freeze}; use it with data.split_file={freeze}")


@data_app.command("audit")
def data_audit(
    scenario: ScenarioArgument,
    overrides: OverridesArgument = None,
    data: DataOption = None,
    out: Annotated[Path | None, typer.Option(help="Write the pairs with their pictures to this folder.")] = None,
    debug: DebugOption = False,
) -> None:
    """Look for pictures and groups on both sides of train and test; exit code 2 if there are any."""
    from fedkvasir.files import refuse_unwritable
    from fedkvasir.plan import LEAK, refuse_tested_before
    from fedkvasir.report.leakage import build_leakage_report
    from fedkvasir.scenario import load

    if out:
        refuse_unwritable(out, "--out")
    held = _gather(scenario, overrides, data)
    for kind, count in held.pairs["kind"].value_counts().items():
        typer.echo(f"{count} pairs of the same picture: {kind}")
    if out:
        typer.echo(build_leakage_report(out, held.samples, held.pairs, held.leaks, held.picture, not held.rendered))
    before = refuse_tested_before(load(scenario, tuple(overrides or ())), held)
    for warning in before:
        typer.echo(f"warning: {warning}")
    images, groups = len(held.samples), held.samples["group"].nunique()
    if held.leaks.empty and not any(warning.startswith(LEAK) for warning in before):
        typer.echo(f"{images} images, {groups} groups: no picture and no group on both sides of train and test")
        return
    for leak in held.leaks.head(10).itertuples():
        typer.echo(f"{leak.kind}: {leak.train} (train) = {leak.test} (test)")
    if not held.leaks.empty:
        typer.echo(f"{len(held.leaks)} pictures or groups lie on both sides of train and test")
    raise typer.Exit(2)


@data_app.command("stats")
def data_stats(
    roots: Annotated[list[Path], typer.Argument(metavar="ROOT... | SCENARIO", help="Folders, or one scenario file.")],
    data: DataOption = None,
    out: Annotated[Path, typer.Option(help="A folder for index.html and the PNGs.")] = Path("stats"),
    image_size: Annotated[
        int, typer.Option(min=32, max=1024, help="Side that pictures are looked at, in pixels.")
    ] = 128,
    debug: DebugOption = False,
) -> None:
    """Class balance, sizes, polyps, colours and samples by center, and who holds what: one page and its PNGs."""
    from fedkvasir.console import Screen
    from fedkvasir.data.hospitals import survey
    from fedkvasir.files import refuse_unwritable
    from fedkvasir.report.stats import build_stats

    refuse_unwritable(out, "--out")
    if len(roots) == 1 and roots[0].suffix in (".yaml", ".yml"):
        held, title = _gather(roots[0], None, data), roots[0].stem
    else:
        screen, title = Screen(), ", ".join(root.name for root in roots)
        with screen.bars():
            held = survey(roots, image_size, screen.preparing)
        for warning in held.warnings:
            typer.echo(f"warning: {warning}")
    (finding, *more), *other = {catalog.mask_classes for catalog in held.catalogs.values()}
    finding = "finding" if more or other else finding
    typer.echo(build_stats(out, held.samples, held.picture, held.mask, title, not held.rendered, finding))
