"""A hospital's own data: any images and a ``samples.csv`` that lists them."""

from pathlib import Path

import pandas as pd

from fedkvasir.data.catalog import Card, Catalog, Dataset, make_catalog, spelt_alike
from fedkvasir.errors import UserError
from fedkvasir.files import csv_rows, read_csv

PATHS = ("image", "mask")
KNOWN = (*PATHS, "label", "center", "group")
CARD = Card(
    title="A folder of your own",
    source="yours",
    citation="yours",
    license="yours",
    obtain="Put a samples.csv with the columns image,mask,label,center,group (paths relative to it) beside the images.",
    centers="the column center",
    groups="the column group (patient or video)",
    quirks=(
        "segmentation: an empty mask cell means 'no polyp in this image'",
        "the same group at two centers is the same patient: where hospitals number theirs alike, write hospital-a-1",
    ),
)


def _recognise(root: Path) -> bool:
    return (root / "samples.csv").is_file()


def read(root: Path) -> Catalog:
    """Read ``samples.csv``: ``image`` is needed, and ``mask`` (segmentation) or ``label`` (classification)."""
    root = Path(root)
    listing = root / "samples.csv"
    if not listing.is_file():
        raise UserError(f"folder: {root} holds no samples.csv. {CARD.obtain}")
    try:
        table = read_csv(listing, dtype=str, keep_default_na=False).map(str.strip).rename(columns=str.strip)
    except UnicodeDecodeError as error:
        raise UserError(f"folder: {listing} is not in UTF-8; save it as CSV UTF-8") from error
    except (pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise UserError(f"folder: {listing} cannot be read as CSV: {error}") from error
    unknown = [column for column in table.columns if column not in KNOWN]
    if "image" not in table or unknown:
        columns = ", ".join(map(str, table.columns))
        raise UserError(f"folder: {listing} has the columns {columns}; allowed, comma separated: {', '.join(KNOWN)}")
    if "mask" not in table and "label" not in table:
        raise UserError(f"folder: {listing} needs a column mask (segmentation) or label (classification)")
    files = pd.DataFrame({name: [(root / path).resolve() for path in table[name]] for name in PATHS if name in table})
    repeated = table["image"][files["image"].duplicated()]
    if len(repeated):
        raise UserError(f"folder: {listing} lists {repeated.iloc[0]} twice")
    name = root.resolve().name  # "." has none
    rows = []
    for number, (row, (line, _)) in enumerate(zip(table.to_dict("records"), csv_rows(listing), strict=True)):
        where = f"folder: {listing} line {line}"
        if not row["image"]:
            raise UserError(f"{where} names no image")
        for column in PATHS:
            path = row.get(column)
            if path and not files[column][number].is_relative_to(root.resolve()):
                raise UserError(f"{where}: {path} lies outside {root}; copy it there, for links are followed")
            if path and not (root / str(path)).is_file():
                what = "is a folder" if (root / str(path)).is_dir() else "does not exist"
                raise UserError(f"{where}: {column} {path} {what}")
        rows.append(
            {
                "sample": f"{name}/{row['image']}",
                "center": row.get("center") or name,
                "group": f"{name}/{row['group']}" if row.get("group") else None,
                "image": row["image"],
                "mask": row.get("mask") or None,
                "empty": "mask" in table and not row.get("mask"),
                "label": row.get("label") or None,
            }
        )
        if row.get("mask") and files["mask"][number] == files["image"][number]:
            raise UserError(f"{where}: {row['image']} is named as its own mask")
    labels = sorted({str(row["label"]) for row in rows if row["label"]})
    warnings = []
    masked = files["mask"][table["mask"] != ""] if "mask" in table else pd.Series(dtype=object)
    if len(shared := masked[masked.duplicated(keep=False)]):
        warnings.append(f"{len(shared)} images share a mask with another one, e.g. {table['mask'][shared.index[0]]}")
    for column in ("center", "group"):
        for alike in spelt_alike(table.get(column, []))[:1]:
            warnings.append(f"{' and '.join(alike)} are different {column}s by their spelling alone; write them alike")
    homes = pd.DataFrame(rows, columns=["group", "center"]).groupby("group", sort=False)["center"].unique()
    shared = homes[homes.map(len) > 1]
    if len(shared):
        group, places = shared.index[0].removeprefix(f"{name}/"), " and ".join(shared.iloc[0][:2])
        warnings.append(
            f"{len(shared)} of {len(homes)} groups stand at several centers and count as the same patient or video, "
            f"e.g. {group} at {places}; where hospitals number theirs alike, write the center in front"
        )
    return make_catalog("folder", root, rows, warnings, labels)


DATASET = Dataset("folder", CARD, ("segmentation", "classification"), _recognise, read)
