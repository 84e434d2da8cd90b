"""PraNet's TrainDataset and TestDataset: five sources, tested one by one."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedkvasir.data.catalog import Catalog
from fedkvasir.data.datasets import DATASETS, cvc_clinicdb, find_dataset, find_root, kvasir_seg, pranet
from fedkvasir.data.miniatures import miniature
from fedkvasir.errors import UserError

KVASIR = "cju0qkwl35piu0993l0dewei2"
COUNTS = {"CVC-300": 60, "CVC-ClinicDB": 62, "CVC-ColonDB": 380, "ETIS-LaribPolypDB": 196, "Kvasir": 100}


def pairs(place: Path, *names: str, folders: tuple[str, str] = ("images", "masks")) -> None:
    for folder in folders:
        (place / folder).mkdir(parents=True, exist_ok=True)
        for name in names:
            (place / folder / name).touch()


def bundle(root: Path) -> Path:
    pairs(root / "TrainDataset", "2.png", "30.png", f"{KVASIR}.png", folders=("image", "mask"))
    pairs(root / "TestDataset" / "CVC-ClinicDB", "1.png", "612.png")
    pairs(root / "TestDataset" / "CVC-300", "149.png")
    pairs(root / "TestDataset" / "CVC-ColonDB", "149.png", "380.png")
    pairs(root / "TestDataset" / "ETIS-LaribPolypDB", "1.png")
    pairs(root / "TestDataset" / "Kvasir", "cju1.png")
    return root


def warned(catalog: Catalog, words: str) -> bool:
    return any(words in text for text in catalog.warnings)


def test_each_source_is_a_center_and_the_two_parts_are_the_split(tmp_path: Path) -> None:
    catalog = pranet.read(bundle(tmp_path))
    rows = catalog.table.set_index("sample")[["center", "group", "official_split"]].T.to_dict("list")
    assert rows == {
        "pranet/test/cvc-300/149": ["cvc-300", "cvc-colondb/seq07", "test"],
        "pranet/test/cvc-clinicdb/001": ["cvc-clinicdb", "cvc-clinicdb/seq01", "test"],
        "pranet/test/cvc-clinicdb/612": ["cvc-clinicdb", "cvc-clinicdb/seq29", "test"],
        "pranet/test/cvc-colondb/149": ["cvc-colondb", "cvc-colondb/seq07", "test"],
        "pranet/test/cvc-colondb/380": ["cvc-colondb", None, "test"],
        "pranet/test/etis-larib/001": ["etis-larib", None, "test"],
        "pranet/test/kvasir/cju1": ["kvasir", None, "test"],
        "pranet/train/cvc-clinicdb/002": ["cvc-clinicdb", "cvc-clinicdb/seq01", "train"],
        "pranet/train/cvc-clinicdb/030": ["cvc-clinicdb", "cvc-clinicdb/seq02", "train"],
        f"pranet/train/kvasir/{KVASIR}": ["kvasir", None, "train"],
    }
    assert catalog.splits == {"pranet": {sample: row[2] for sample, row in rows.items()}}
    masks = dict(zip(catalog.table["image"], catalog.table["mask"], strict=True))
    assert masks["TrainDataset/image/2.png"] == "TrainDataset/mask/2.png"
    assert masks["TestDataset/CVC-300/images/149.png"] == "TestDataset/CVC-300/masks/149.png"


def test_sequences_on_both_sides_are_counted(tmp_path: Path) -> None:
    catalog = pranet.read(bundle(tmp_path))
    assert warned(catalog, "1 of 3 sequences of CVC-ClinicDB have frames in both train and test")


def test_the_complete_benchmark_differs_in_nothing(tmp_path: Path) -> None:
    names = [f"cju{number:022d}.png" for number in range(900)] + [f"{number}.png" for number in range(1, 551)]
    pairs(tmp_path / "TrainDataset", *names, folders=("image", "mask"))
    for name, count in COUNTS.items():
        pairs(tmp_path / "TestDataset" / name, *(f"{number}.png" for number in range(551, 551 + count)))
    assert [text for text in pranet.read(tmp_path).warnings if "both train and test" not in text] == []


@pytest.mark.parametrize("masks", ["masks", "mask"])
def test_copies_are_doubled_and_mix_the_names_of_folders(tmp_path: Path, masks: str) -> None:
    root = tmp_path / "polyps"
    pairs(root / "TestDataset" / "TestDataset" / "CVC-300", "150.png", ".DS_Store", folders=("images", masks))
    pairs(root / "TrainDataset" / "TrainDataset", "5.png", folders=("images", masks))
    assert find_root(find_dataset("pranet"), tmp_path, None) == root
    assert set(pranet.read(root).table["mask"]) == {
        f"TestDataset/TestDataset/CVC-300/{masks}/150.png",
        f"TrainDataset/TrainDataset/{masks}/5.png",
    }


@pytest.mark.parametrize("part", ["TrainDataset", "TestDataset/CVC-ColonDB"])
def test_one_part_alone_is_read_and_the_rest_is_missed(tmp_path: Path, part: str) -> None:
    pairs(tmp_path / part, "5.png")
    assert find_root(find_dataset("pranet"), tmp_path, None) == tmp_path
    catalog = pranet.read(tmp_path)
    assert len(catalog.table) == 1 and warned(catalog, "kvasir train 0 of 900")


def test_surprises_are_counted(tmp_path: Path) -> None:
    root = bundle(tmp_path)
    pairs(root / "TrainDataset", "613.png", "img_1.png", folders=("image", "mask"))
    pairs(root / "TrainDataset", "9.png", "notes.txt", folders=("image", "image"))
    pairs(root / "TestDataset" / "BKAI", "1.png")
    catalog = pranet.read(root)
    assert len(catalog.table) == 10
    assert warned(catalog, "2 images of TrainDataset left out, their names are neither CVC-ClinicDB's nor Kvasir-SEG's")
    assert warned(catalog, "1 image(s) without a mask left out")
    assert warned(catalog, "1 files or folders among the images are no images, e.g. image/notes.txt")
    assert warned(catalog, "1 folders of TestDataset are none of the five test sets, e.g. BKAI")
    assert warned(catalog, "images 10 of 2248")


def test_what_is_not_the_benchmark_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"pranet: .* does not hold TrainDataset/image/\*.png"):
        pranet.read(tmp_path)
    root = bundle(tmp_path)
    with pytest.raises(UserError, match="lies inside the dataset; give the folder above it"):
        find_root(find_dataset("pranet"), root / "TestDataset", None)


def test_a_bundle_is_nobody_elses(tmp_path: Path) -> None:
    root = miniature("pranet", tmp_path, 2)
    folders = [root, *(path for path in root.rglob("*") if path.is_dir())]
    claims = {(name, path) for name, dataset in DATASETS.items() for path in folders if dataset.recognise(path)}
    assert claims == {("pranet", root)}


def test_the_miniature_repeats_the_miniatures_of_its_sources(tmp_path: Path) -> None:
    root = miniature("pranet", tmp_path, 5)
    catalog = pranet.read(root)
    sizes = catalog.table.groupby(["official_split", "center"]).size()
    assert sizes["train"].to_dict() == {"cvc-clinicdb": 5, "kvasir": 5}
    assert sizes["test"].to_dict() == {"cvc-300": 5, "cvc-clinicdb": 2, "cvc-colondb": 5, "etis-larib": 5, "kvasir": 2}
    assert warned(catalog, "1 of 6 sequences of CVC-ClinicDB have frames in both")
    clinic = miniature("cvc-clinicdb", tmp_path, 5)
    for image in cvc_clinicdb.read(clinic).table["image"]:
        assert (clinic / image).read_bytes() == (root / "TrainDataset" / "image" / Path(image).name).read_bytes()
    polyp = kvasir_seg.read(miniature("kvasir-seg", tmp_path, 2)).table["sample"][0].removeprefix("kvasir-seg/")
    mask = np.asarray(Image.open(root / "TrainDataset" / "mask" / f"{polyp}.png"))
    assert mask.ndim == 2 and len(np.unique(mask)) > 2
