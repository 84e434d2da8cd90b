"""Labels and clusters that the hospitals' classifiers give to images nobody has labelled."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fedkvasir.baselines.base import Classifier, Method
from fedkvasir.baselines.clusters import Clusters
from fedkvasir.baselines.descriptor import describe
from fedkvasir.baselines.features import TABLE, Pixels, Published, choose_features, combine
from fedkvasir.baselines.hospitals import fit_hospitals, mean_probabilities
from fedkvasir.data import formats
from fedkvasir.data.catalog import Dataset, list_images
from fedkvasir.data.datasets import DATASETS, find_root
from fedkvasir.data.hospitals import Progress
from fedkvasir.data.store import square
from fedkvasir.errors import UserError
from fedkvasir.files import unread
from fedkvasir.metrics.classification import PREFIX
from fedkvasir.plan import Plan


@dataclass(frozen=True)
class Pictures:
    """Images without labels: those of a dataset, or of a folder."""

    root: Path
    table: pd.DataFrame
    """One row an image: sample, image (path under the root), item (a frame of it; null = the whole file)."""
    dataset: Dataset | None = None


def find_pictures(where: str, data_dir: Path | None = None) -> Pictures:
    """A dataset by name (looked for under ``data_dir``), a dataset's root, or any folder of pictures."""
    folder = Path(where).expanduser()
    if where in DATASETS and not folder.is_dir():
        folder = find_root(DATASETS[where], data_dir, None)
    if not folder.is_dir():
        raise UserError(
            f"--unlabeled {where}: neither a folder nor a dataset; `fedkvasir data list` names the datasets"
        )
    dataset = next((known for known in DATASETS.values() if known.recognise(folder)), None)
    if dataset:
        return Pictures(folder, dataset.read(folder).table[["sample", "image", "item"]], dataset)
    names = [path.name for path in list_images(folder).values()]
    if not names:
        raise UserError(f"--unlabeled {where}: no picture in it")
    return Pictures(folder, pd.DataFrame({"sample": names, "image": names, "item": None}))


def label_images(
    plan: Plan, method: Method, pictures: Pictures, data_dir: Path | None = None, progress: Progress | None = None
) -> tuple[pd.DataFrame, str, dict[Path, str]]:
    """The mean of the hospitals' probabilities for every picture, which features they rest on, and what cannot be read.

    One row a picture that can be: image, label, for k-means ``cluster_<hospital>`` (every hospital numbers its own),
    ``p_<class>``. Published features serve where hospitals and pictures have the same; else both are computed from the
    pixels. Files that cannot be read come with the reason.
    Raises UserError where no picture can be read.
    """
    features, seen = choose_features(plan, method, data_dir, progress), np.empty((len(pictures.table), 0))
    table, broken = pictures.table, dict[Path, str]()
    if isinstance(features, Published):
        try:
            seen = _published(pictures, features.table)
        except UserError as error:
            features = Pixels(progress, str(error))
    if isinstance(features, Pixels):
        described = _describe(pictures, plan.scenario.data.image_size, progress)
        for image, why in zip(table["image"], described, strict=True):
            if isinstance(why, str):
                broken[pictures.root / image] = why
        table = table[[not isinstance(row, str) for row in described]]
        if table.empty:
            raise unread(broken, len(broken))
        seen = np.array([row for row in described if not isinstance(row, str)], dtype=np.float64)
    classifiers = fit_hospitals(plan, method, features)
    probabilities = mean_probabilities(classifiers.values(), table["sample"].tolist(), seen)
    labels = np.array(plan.classes, dtype=object)[probabilities.argmax(axis=1)]
    named = pd.DataFrame({"image": table["image"].to_numpy(), "label": labels, **_clusters(classifiers, seen)})
    columns = [PREFIX + name for name in plan.classes]
    return named.join(pd.DataFrame(probabilities, columns=columns)), features.kind, broken


def _clusters(classifiers: Mapping[str, Classifier], seen: np.ndarray) -> dict[str, np.ndarray]:
    return {
        f"cluster_{center}": classifier.nearest(seen)
        for center, classifier in classifiers.items()
        if isinstance(classifier, Clusters)
    }


def _published(pictures: Pictures, hospitals: pd.DataFrame) -> np.ndarray:
    """(N, D) published features, of the hospitals' kind. Raises UserError where there are none such."""
    if pictures.dataset is None or TABLE not in pictures.dataset.tables:
        raise UserError(f"no features are published with {pictures.root}")
    samples = pictures.table["sample"]
    whole = combine([hospitals, pictures.dataset.tables[TABLE](pictures.root)], samples)
    return whole.loc[samples].to_numpy(dtype=np.float64)


def _describe(pictures: Pictures, size: int, progress: Progress | None) -> list[np.ndarray | str]:
    """(D,) features of each picture, resized as the store resizes; the reason where it cannot be read."""

    def one(image: str, item: str | None) -> np.ndarray | str:
        try:
            pixels = next(formats.pictures(pictures.root / image, [item]))
        except (OSError, SyntaxError, ValueError) as error:
            return str(error)
        return describe(square(pixels, size))

    found: list[np.ndarray | str] = []
    with ThreadPoolExecutor() as pool:
        for row in pool.map(one, pictures.table["image"], pictures.table["item"]):
            found.append(row)
            if progress:
                progress("describing unlabeled pictures", len(found), len(pictures.table))
    return found
