"""Hospitals out of datasets: a scenario's centers as one table of samples, with pixels, groups, splits and what leaks.

Reading, choosing and naming come first, so that a user's mistake shows before a picture is decoded.
"""

import hashlib
import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pydantic import TypeAdapter, ValidationError

from fedkvasir.data import alignment, audit, fingerprint
from fedkvasir.data.catalog import Catalog, spelt_alike
from fedkvasir.data.datasets import find_all, find_dataset, find_root
from fedkvasir.data.labels import find_space, translate
from fedkvasir.data.partition import size_bins
from fedkvasir.data.split import split_center, thaw
from fedkvasir.data.store import Store, cache_folder, open_store, store_at
from fedkvasir.errors import UserError, did_you_mean
from fedkvasir.files import write_atomic
from fedkvasir.scenario import Center, Scenario

Progress = Callable[[str, int, int], None]
"""(what, done, total)"""

FOLDER = "folder"
OWN = (FOLDER, "supervisely")
"""Datasets of a user's own: what their files and patients are called says nothing of where they come from."""
PIXEL_FACTS = ["width", "height", "area_px", "pixels_sha256", "mask_sha256", "phash", "error"]


@dataclass(frozen=True)
class Hospitals:
    """Who holds what.

    ``samples``: one row a sample: the catalog's columns, ``source`` (the scenario's center), ``center`` (hospital),
    ``role``, ``split`` (train, val, test), ``group`` (near-duplicates joined), ``label`` (of the scenario's label
    space), ``root`` and ``row`` (place in the store), :data:`PIXEL_FACTS`.
    """

    samples: pd.DataFrame
    catalogs: dict[str, Catalog]
    """By scenario center (by dataset and root in a survey)."""
    stores: dict[tuple[str, str], Store]
    """By dataset and root: one folder may hold several datasets."""
    pairs: pd.DataFrame
    """Near-duplicates, see :func:`fedkvasir.data.audit.near_duplicates`; positions in ``samples``."""
    leaks: pd.DataFrame
    """What lies on both sides, see :func:`fedkvasir.data.audit.leaks`."""
    classes: tuple[str, ...]
    warnings: tuple[str, ...]
    groups: dict[str, str] = field(default_factory=dict)
    """Of every sample and of every ``pixels_sha256``, those included that are left out: by the split, or of training
    because they are tested on."""

    @property
    def rendered(self) -> bool:
        """No picture of a patient among them."""
        return all(catalog.rendered for catalog in self.catalogs.values())

    def picture(self, position: int) -> np.ndarray:
        """(S, S, 3) uint8 of the sample at this position."""
        sample = self.samples.iloc[position]
        return np.asarray(self.stores[sample["dataset"], sample["root"]].images[sample["row"]])

    def mask(self, position: int) -> np.ndarray | None:
        """(S, S) uint8, 0 = background; null where the sample has no mask and its absence says nothing."""
        sample = self.samples.iloc[position]
        if pd.isna(sample["area_px"]):
            return None
        return np.asarray(self.stores[sample["dataset"], sample["root"]].masks[sample["row"]])


def gather(scenario: Scenario, data_dir: Path | None = None, progress: Progress | None = None) -> Hospitals:
    """Read catalogs, build stores, form groups, split, look for leaks.

    Raises UserError at the first thing wrong; every check that needs no pixel comes before the first pixel is read.
    """
    catalogs = _read_all(scenario, data_dir, progress)
    classes = () if _labelled(scenario) else _mask_classes(catalogs)
    by_place = {(catalog.dataset, str(catalog.root)): catalog for catalog in catalogs.values()}
    warnings = [f"{catalog.dataset}: {text}" for catalog in by_place.values() for text in catalog.warnings]
    parts = [_choose(scenario, name, catalog, warnings) for name, catalog in catalogs.items()]
    chosen = pd.concat(parts, ignore_index=True)
    _one_holder(scenario, chosen)
    size, skip = scenario.data.image_size, scenario.data.skip_unreadable
    stores = {place: _open(catalog, size, skip, progress) for place, catalog in by_place.items()}
    samples = _with_pixels(chosen, stores, warnings)
    pairs = _near_duplicates(np.stack(_thumbs(samples, stores)), list(samples["pixels_sha256"]))
    samples["home"] = at_home = _groups_at_home(samples, pairs)
    samples["group"] = audit.join_groups(list(samples["group"]), list(samples["sample"]), pairs)
    samples["position"] = range(len(samples))
    every = samples[["sample", "pixels_sha256", "group"]]
    if scenario.data.split_file:
        samples = thaw(Path(scenario.data.split_file), samples, scenario.data.centers, warnings)
    else:
        seed = scenario.data.split_seed
        samples["stratum"] = samples["label"] if _labelled(scenario) else size_bins(samples["area_px"])
        samples["balance"] = samples["label"] if _labelled(scenario) else (samples["area_px"] > 0).astype(str)
        # By what a hospital knows without the others: no part of it changes with who else takes part.
        alone = samples.assign(group=at_home)
        cut = [
            split_center(name, center, alone[alone["source"] == name], seed)
            for name, center in scenario.data.centers.items()
        ]
        samples = pd.concat(cut).assign(group=samples["group"])
    named = dict(zip(every["group"][samples.index], samples["group"], strict=True))  # as a frozen split calls them
    groups = {picture: named.get(group, group) for *pictures, group in every.to_numpy() for picture in pictures}
    if scenario.data.audit == "drop":
        samples = _without_test(samples, warnings)
    samples = _without_trained(samples, scenario.data.audit, warnings).drop(columns="home")
    samples = samples.sort_values(["center", "split", "sample"], ignore_index=True)
    samples["role"] = [scenario.data.centers[name].role for name in samples["source"]]
    place = dict(zip(samples.pop("position"), samples.index, strict=True))
    pairs = pairs[pairs["i"].isin(place) & pairs["j"].isin(place)].reset_index(drop=True)
    pairs = pairs.assign(i=pairs["i"].map(place), j=pairs["j"].map(place))
    classes = classes or tuple(sorted(samples["label"].unique()))
    warnings += _trained_twice(samples, pairs) + _labelled_twice(samples, pairs)
    leaks = audit.leaks(samples, pairs)
    return Hospitals(samples, catalogs, stores, pairs, leaks, classes, tuple(warnings), groups)


def survey(roots: Sequence[Path], image_size: int, progress: Progress | None = None) -> Hospitals:
    """All samples of every dataset at ``roots`` or below, by the datasets' own centers; nothing is split or audited.

    Raises UserError where nothing is found. Unreadable samples are left out and counted.
    """
    found = [pair for root in roots for pair in find_all(root)]
    if not found:
        raise UserError(
            f"no dataset found under {', '.join(map(str, roots))}; `fedkvasir data list` names the known ones"
        )
    read = [dataset.read(root) for dataset, root in found]
    catalogs = _told_apart({f"{catalog.dataset} {catalog.root}": catalog for catalog in read})
    warnings = [f"{catalog.dataset}: {text}" for catalog in catalogs.values() for text in catalog.warnings]
    stores, chosen = {}, list[pd.DataFrame]()
    for catalog in catalogs.values():
        root = str(catalog.root)
        stores[catalog.dataset, root] = _open(catalog, image_size, skip_unreadable=True, progress=progress)
        several = catalog.table["center"].nunique() > 1 or catalog.dataset == FOLDER
        named = [f"{catalog.dataset} {center}" if several else catalog.dataset for center in catalog.table["center"]]
        if any(set(named) & set(other["center"]) for other in chosen):
            named = [f"{name} ({root})" for name in named]
        chosen.append(catalog.table.assign(source=named, center=named, root=root, row=range(len(named))))
    samples = _with_pixels(pd.concat(chosen, ignore_index=True), stores, warnings)
    samples = samples.assign(role=None, split=None)
    samples = samples.sort_values(["center", "sample"], ignore_index=True)
    classes = tuple(sorted(samples["label"].dropna().unique()))
    nothing = audit.near_duplicates(np.zeros((0, 2, 32, 32), np.uint8), [])
    return Hospitals(samples, catalogs, stores, nothing, audit.leaks(samples[:0], nothing), classes, tuple(warnings))


def _thumbs(samples: pd.DataFrame, stores: Mapping[tuple[str, str], Store]) -> list[np.ndarray]:
    """(2, 32, 32) uint8 of every sample, see :attr:`Store.thumbs`."""
    rows = samples[["dataset", "root", "row"]].itertuples(index=False)
    return [stores[dataset, root].thumbs[row] for dataset, root, row in rows]


def _near_duplicates(thumbs: np.ndarray, pixels_sha256: list[str]) -> pd.DataFrame:
    """Compared once for the same pictures and the same code; the time grows with the square of their number."""
    code = "".join(inspect.getsource(module) for module in (audit, alignment, fingerprint)).encode()
    key = hashlib.sha256(code + thumbs.tobytes() + "".join(pixels_sha256).encode()).hexdigest()
    kept = cache_folder() / "pairs" / f"{key[:16]}.parquet"
    if not kept.is_file():
        write_atomic(kept, audit.near_duplicates(thumbs, pixels_sha256).to_parquet())
    return pd.read_parquet(kept)


def _groups_at_home(samples: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """The groups that every source has by itself, near-duplicates at others not looked at."""
    sources = samples["source"].to_numpy()
    within = sources[pairs["i"].to_numpy(np.int64)] == sources[pairs["j"].to_numpy(np.int64)]
    return audit.join_groups(list(samples["group"]), list(samples["sample"]), pairs[within])


def _trained_twice(samples: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """A warning for every two hospitals that train with the same pictures: these count twice."""
    first, second = (samples.iloc[pairs[side].to_numpy(np.int64)] for side in ("i", "j"))
    places = np.sort(np.stack([first["center"].to_numpy(str), second["center"].to_numpy(str)]), axis=0)
    both = (first["split"].to_numpy() == "train") & (second["split"].to_numpy() == "train") & (places[0] != places[1])
    counts = Counter((str(one), str(other)) for one, other in places.T[both])
    return [
        f"{one} and {other} train with the same pictures, {count} pairs of them, which count twice"
        for (one, other), count in sorted(counts.items())
    ]


def _labelled_twice(samples: pd.DataFrame, pairs: pd.DataFrame) -> list[str]:
    """A warning where the very same pixels are listed with one label and with another."""
    exact = pairs[pairs["kind"] == "exact"]
    first, second = (samples.iloc[exact[side].to_numpy(np.int64)] for side in ("i", "j"))
    labels = zip(first["sample"], first["label"], second["sample"], second["label"], strict=True)
    odd = [(a, one, b, other) for a, one, b, other in labels if not (pd.isna(one) or pd.isna(other) or one == other)]
    return [
        f"{len(odd)} pairs of the same picture have different labels, e.g. {a} is {one} and {b} {other}"
        for a, one, b, other in odd[:1]
    ]


def _without_test(samples: pd.DataFrame, warnings: list[str]) -> pd.DataFrame:
    """Leave out of training what is also tested on; near-duplicates share a group, so the group decides."""
    test = samples["split"] == "test"
    out = ~test & samples["group"].isin(samples["group"][test])
    for center, own in samples[out].groupby("center"):
        warnings.append(f"{center}: {len(own)} images left out of training, their pictures or groups are tested on")
    return samples[~out]


def _without_trained(samples: pd.DataFrame, how: str, warnings: list[str]) -> pd.DataFrame:
    """Leave out of a hospital's validation what is trained on at another one, or here by way of its pictures, unless
    ``data.audit: warn``: rounds and settings would be chosen by what was learnt by heart. A published split that does
    so within a hospital is told."""
    train, val = (samples[samples["split"] == part] for part in ("train", "val"))
    again = val[val["group"].isin(train["group"])]
    here = pd.MultiIndex.from_frame(again[["center", "home"]]).isin(pd.MultiIndex.from_frame(train[["center", "home"]]))
    own = here & (again["group"].map(train.groupby("group")["center"].nunique()) == 1)
    done = "count all the same" if how == "warn" else "left out"
    for part, text in ((again[own], "here, as the split says"), (again[~own], f"at another hospital; {done}")):
        warnings += [
            f"{center}: {len(images)} of its validation images, or others of their groups, are trained on {text}"
            for center, images in part.groupby("center")
        ]
    return samples if how == "warn" else samples.drop(again[~own].index)


def in_store(samples: pd.DataFrame) -> pd.Series:
    """Which samples of a plan, maybe of another day or machine, have their pictures in the store still; (N,) bool."""
    there = {store: bool(store) and (Path(store) / "thumbs.npy").is_file() for store in samples["store"].unique()}
    return samples["store"].map(there).astype(bool)


def seen_before(held: Hospitals, split: str, earlier: pd.DataFrame) -> int:
    """How many samples of a split are among those of another plan, or others of their groups are.

    They are recognised by name, by group, by pixels, and as near-duplicates of what is :func:`in_store`.
    """
    own = held.samples[held.samples["split"] == split]
    known = {*earlier["sample"], *earlier.get("pixels_sha256", ())}
    groups = {*earlier["group"], *(held.groups[picture] for picture in known & held.groups.keys())}
    ours = _thumbs(own, held.stores)
    there = earlier.loc[in_store(earlier), ["store", "row"]].itertuples(index=False)
    thumbs = [*(store_at(store).thumbs[row] for store, row in there), *ours]
    if thumbs:
        begin = len(thumbs) - len(ours)
        pairs = _near_duplicates(np.stack(thumbs), [*map(str, range(len(thumbs)))])
        across = pairs[(pairs["i"] < begin) & (pairs["j"] >= begin)]
        groups |= {*own["group"].iloc[across["j"] - begin]}
    return int(own["group"].isin(groups).sum())


def unfound(scenario: Scenario, samples: pd.DataFrame) -> list[str]:
    """A warning for every center whose validation or test images show nothing to be found."""
    if _labelled(scenario):
        return []
    return [
        f"{center}: its {len(own)} {name} image(s) show nothing to be found and have no score"
        for split, name in (("val", "validation"), ("test", "test"))
        for center, own in samples[samples["split"] == split].groupby("center")
        if not (own["area_px"] > 0).any()
    ]


def unlearnt(scenario: Scenario, samples: pd.DataFrame) -> list[str]:
    """A warning for every center whose test images show classes that no hospital trains: each counts as an error."""
    if not _labelled(scenario):
        return []
    trained, tested = (samples[samples["split"] == part] for part in ("train", "test"))
    odd = tested[~tested["label"].isin(trained["label"])]
    translate = "; data.labels translates the classes of several datasets" if not scenario.data.labels else ""
    return [
        f"{center}: {len(own)} of its {(tested['center'] == center).sum()} test images show classes that no hospital "
        f"trains, though the network has an output for each: {', '.join(sorted(own['label'].unique())[:5])}{translate}"
        for center, own in odd.groupby("center")
    ]


def classes_spelt_alike(classes: Mapping[str, Iterable[str]]) -> list[str]:
    """A warning for classes that differ by their spelling alone; classes: those of every center."""
    at: dict[str, list[str]] = {}
    for center, names in classes.items():
        for name in names:
            at.setdefault(name, []).append(center)
    alike = [" and ".join(f"{name} ({', '.join(at[name][:3])})" for name in names) for names in spelt_alike(at)]
    return [
        f"{names} are different classes by their spelling alone; write them alike if they are one" for names in alike
    ]


def _labelled(scenario: Scenario) -> bool:
    return scenario.task == "classification"


def _read_all(scenario: Scenario, data_dir: Path | None, progress: Progress | None) -> dict[str, Catalog]:
    """The catalog of every scenario center; centers of the same root share one."""
    read: dict[tuple[str, str], Catalog] = {}
    catalogs = {}
    for name, center in scenario.data.centers.items():
        dataset = find_dataset(center.dataset)
        options = options_of(scenario, center.dataset)
        if dataset.prepare and center.root:
            raise UserError(f"data.centers.{name}.root: {center.dataset} is rendered and lies nowhere; take it out")
        if dataset.prepare:
            root = dataset.prepare(partial(progress, "rendering") if progress else None, **options)
            options = {}
        else:
            root = find_root(dataset, data_dir, center.root or scenario.data.roots.get(center.dataset))
        key = (center.dataset, str(root))
        if key not in read:
            read[key] = dataset.read(root, **options)
        catalogs[name] = read[key]
    return _told_apart(catalogs)


def _told_apart(catalogs: dict[str, Catalog]) -> dict[str, Catalog]:
    """Of a user's own datasets whose samples begin alike, samples and groups get in front the name that the root first
    comes under: their files and patients may be called alike as well."""
    first: dict[tuple[str, Path], str] = {}
    beginnings = Counter[str]()
    for name, catalog in catalogs.items():
        place = catalog.dataset, catalog.root.resolve()
        if catalog.dataset in OWN and place not in first:
            first[place] = name
            beginnings[_beginning(catalog)] += 1
    found = {}
    for name, catalog in catalogs.items():
        if catalog.dataset in OWN and beginnings[_beginning(catalog)] > 1:
            table, front = catalog.table, f"{first[catalog.dataset, catalog.root.resolve()]}/"
            groups = [group and front + group for group in table["group"]]
            catalog = replace(catalog, table=table.assign(sample=front + table["sample"], group=groups))
        found[name] = catalog
    return found


def _beginning(catalog: Catalog) -> str:
    return str(catalog.table["sample"].iloc[0]).partition("/")[0]


def options_of(scenario: Scenario, name: str) -> dict[str, Any]:
    """The scenario's options of a dataset, of the types that its reader takes. Raises UserError for others, by key."""
    dataset, options = find_dataset(name), dict(scenario.data.options.get(name, {}))
    parameters = inspect.signature(dataset.prepare or dataset.read).parameters.values()
    allowed = {parameter.name: parameter for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    for key, value in options.items():
        where = f"data.options.{name}.{key}"
        if key not in allowed:
            near = did_you_mean(key, list(allowed))
            raise UserError(f"{where}: unknown option{near}; allowed: {', '.join(allowed) or 'none'}")
        try:
            options[key] = TypeAdapter(allowed[key].annotation).validate_python(value)
        except ValidationError as error:
            why = error.errors()[0]["msg"]
            raise UserError(f"{where} = {value!r}: {why[0].lower()}{why[1:]}, e.g. {allowed[key].default!r}") from error
    return options


def _mask_classes(catalogs: dict[str, Catalog]) -> tuple[str, ...]:
    (first, one), *others = ((name, catalog.mask_classes) for name, catalog in catalogs.items())
    for name, other in others:
        if other != one:
            what = [f"{', '.join(classes[:3])}{', ...' if len(classes) > 3 else ''}" for classes in (one, other)]
            raise UserError(
                f"data.centers: masks of {first} show {what[0]}, those of {name} {what[1]}; train on one kind"
            )
    return one


def _choose(scenario: Scenario, name: str, catalog: Catalog, warnings: list[str]) -> pd.DataFrame:
    """The rows of a catalog that a scenario center takes; ``row`` is their place in the store."""
    center, here = scenario.data.centers[name], f"data.centers.{name}"
    table = catalog.table.assign(row=range(len(catalog.table)), source=name, root=str(catalog.root))
    if center.center is not None:
        known = sorted(table["center"].dropna().unique())
        table = table[table["center"] == center.center]
        if table.empty:
            near = did_you_mean(center.center, known)
            raise UserError(
                f"{here}: {center.dataset} has no center {center.center!r}{near}; it has {', '.join(known)}"
            )
    table = table[table["label"].notna()] if _labelled(scenario) else table[table["mask"].notna() | table["empty"]]
    if table.empty:
        kind = "label" if _labelled(scenario) else "mask"
        raise UserError(f"{here}: no image with a {kind}; `fedkvasir data card {center.dataset}` shows what there is")
    if scenario.data.labels and _labelled(scenario):
        label, more = translate(find_space(scenario.data.labels), table["label"])
        warnings += [f"{here}: {text}" for text in more]
        table = table.assign(label=label)[label.notna()]
        if table.empty:
            raise UserError(f"{here}: no image with a label in {scenario.data.labels}")
    if center.role == "holdout" and (center.split != "group" or center.partition):
        ignored = "split" if center.split != "group" else "partition"
        warnings.append(f"{here}: a holdout is tested on all of it, its {ignored} has no say")
    if center.role == "train" and center.split != "group" and not scenario.data.split_file:
        table = _published(here, center, catalog, table, warnings)
    if alone := int(table["group"].isna().sum()):
        apart = ", so that one may lie on both sides of a split" if center.role == "train" else ""
        warnings.append(
            f"{here}: {alone} of {len(table)} images name no patient or video{apart}; only near-duplicates are kept "
            "together, and intervals are too short where a patient has several"
        )
    return table


def _published(here: str, center: Center, catalog: Catalog, table: pd.DataFrame, warnings: list[str]) -> pd.DataFrame:
    """``table`` with the published split that the center names; what it does not list is left out and counted."""
    _, named, split = center.split.partition(":")
    if named:
        if split not in catalog.splits:
            known = ", ".join(catalog.splits) or "none"
            raise UserError(
                f"{here}: {center.dataset} has no published split {split!r}"
                f"{did_you_mean(split, list(catalog.splits))}; here: {known}"
            )
        table = table.assign(official_split=table["sample"].map(catalog.splits[split]))
    whole = [*catalog.splits[split].values()] if named else catalog.table["official_split"].tolist()
    if "test" not in whole:  # train and val alone: val is what the field tests on
        table = table.assign(official_split=table["official_split"].replace("val", "test"))
    elif not (table["official_split"] == "test").any():
        warnings.append(f"{here}: the published split tests nothing of it")
    listed = table["official_split"].notna()
    if not listed.any():
        raise UserError(f"{here}: {center.dataset} has no official split here; use split: group")
    if not listed.all():
        warnings.append(f"{here}: {(~listed).sum()} images are not in the published split and left out")
    return table[listed]


def _one_holder(scenario: Scenario, chosen: pd.DataFrame) -> None:
    twice = chosen[chosen.duplicated("sample", keep=False)]
    if twice.empty:
        return
    named = [f"{name} ({scenario.data.centers[name].role})" for name in twice["source"].unique()[:2]]
    raise UserError(
        f"data.centers: {' and '.join(named)} hold the same {twice['sample'].nunique()} samples, "
        f"e.g. {twice['sample'].iloc[0]}; a picture belongs to one center"
    )


def _open(catalog: Catalog, image_size: int, skip_unreadable: bool, progress: Progress | None) -> Store:
    watch = partial(progress, f"decoding and hashing {catalog.dataset}") if progress else None
    return open_store(catalog, image_size, skip_unreadable, watch)


def _with_pixels(chosen: pd.DataFrame, stores: dict[tuple[str, str], Store], warnings: list[str]) -> pd.DataFrame:
    """``chosen`` with :data:`PIXEL_FACTS` out of the stores, unreadable samples left out and named."""
    parts = []
    for (dataset, root), own in chosen.groupby(["dataset", "root"], sort=False):
        facts = stores[dataset, root].table.iloc[own["row"]]
        assert facts["sample"].tolist() == own["sample"].tolist()  # else these are pixels of other samples
        parts.append(own.assign(**{column: facts[column].to_numpy() for column in PIXEL_FACTS}))
    samples = pd.concat(parts, ignore_index=True)
    bad = samples[samples["error"].notna()]
    warnings += [
        f"{source}: {len(own)} samples left out, they cannot be used: {own['error'].iloc[0]}"
        for source, own in bad.groupby("source")
    ]
    return samples[samples["error"].isna()].reset_index(drop=True)
