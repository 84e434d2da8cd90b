"""Miniature of HyperKvasir unlabeled-images: all kinds of pictures, no label; features and clusters beside them.

The ARFF files are as WEKA writes them, their features named as those of Kvasir: how the real ones look is not known.
"""

from pathlib import Path

from fedkvasir.data.datasets.kvasir_v2 import FEATURES
from fedkvasir.data.miniatures import kvasir_v2, paint
from fedkvasir.data.miniatures.hyperkvasir_labeled import SIZES
from fedkvasir.data.miniatures.hyperkvasir_segmented import uuid_name
from fedkvasir.data.synthetic import CLASSES, HEALTHY

PATIENTS = 8000
TISSUES = (*CLASSES, HEALTHY)


def render(out: Path, per_center: int) -> Path:
    root = out / "unlabeled-images"
    patients = range(PATIENTS, PATIENTS + per_center)
    for patient in patients:
        pixels = paint.frame(*SIZES[patient % len(SIZES)], TISSUES[patient % len(TISSUES)], patient)[0]
        paint.save(pixels, root / "images" / f"{uuid_name(patient)}.jpg")
    paint.write(root / ".DS_Store", "Bud1")
    write_arff(out / "clustering_experiments", patients)
    return root


def write_arff(folder: Path, patients: range) -> None:
    """``features.arff`` and ``clusters.arff``; the clusters are the tissues."""
    columns = [f"{name}_{number}" for name, length in FEATURES.items() for number in range(length)]
    features = ["@relation features", "", "@attribute filename string"]
    features += [f"@attribute {column} numeric" for column in columns]
    clusters = ["@relation features_clustered", "", "@attribute Instance_number numeric", "@attribute filename string"]
    clusters += [f"@attribute Cluster {{{','.join(f'cluster{number}' for number in range(len(TISSUES)))}}}"]
    for listing in (features, clusters):
        listing += ["", "@data"]
    for number, patient in enumerate(patients):
        name, tissue = f"'{uuid_name(patient)}.jpg'", patient % len(TISSUES)
        features.append(",".join([name, *map(str, kvasir_v2.drawn(tissue, patient))]))
        clusters.append(f"{number},{name},cluster{tissue}")
    paint.write(folder / "features.arff", "\n".join(features) + "\n")
    paint.write(folder / "clusters.arff", "\n".join(clusters) + "\n")
