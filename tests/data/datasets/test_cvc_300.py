"""CVC-300: 60 frames of CVC-ColonDB's source."""

from pathlib import Path

import pytest

from fedkvasir.data.datasets import cvc_300, find_dataset, find_root
from fedkvasir.data.miniatures import miniature
from fedkvasir.errors import UserError


def plain(root: Path, *names: str) -> Path:
    for part in ("images", "masks"):
        (root / part).mkdir(parents=True)
        for name in names:
            (root / part / name).touch()
    return root


@pytest.mark.parametrize("name", ["CVC-300", "cvc-300", "CVC_300"])
def test_the_folders_name_tells_it(tmp_path: Path, name: str) -> None:
    root = plain(tmp_path / "archive" / name, "149.png", "208.png")
    assert find_root(find_dataset("cvc-300"), tmp_path, None) == root


def test_inside_a_pranet_bundle_it_is_left_to_the_dataset_pranet(tmp_path: Path) -> None:
    root = plain(tmp_path / "TestDataset" / "CVC-300", "149.png")
    with pytest.raises(UserError, match="is read by the dataset pranet"):
        find_root(find_dataset("cvc-300"), root, None)


def test_its_60_names_are_three_of_colondbs_sequences(tmp_path: Path) -> None:
    catalog = cvc_300.read(plain(tmp_path / "CVC-300", *(f"{number}.png" for number in range(149, 209))))
    sizes = catalog.table.groupby("group").size().to_dict()
    assert sizes == {"cvc-colondb/seq07": 7, "cvc-colondb/seq09": 48, "cvc-colondb/seq10": 5}
    assert not catalog.warnings and set(catalog.table["center"]) == {"barcelona"}


def test_surprises_are_counted(tmp_path: Path) -> None:
    root = plain(tmp_path / "CVC-300", "149.png", "x.png")
    (root / "images" / "150.png").touch()
    (root / "masks" / "notes.txt").touch()
    orphan, stray, odd, counts = cvc_300.read(root).warnings
    assert "masks/notes.txt" in stray
    assert "1 image(s) without a mask" in orphan and "1 image names are not a frame number" in odd
    assert "images 2 of 60" in counts


def test_what_is_not_the_dataset_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cvc-300: .* does not hold images/N.png"):
        cvc_300.read(tmp_path)


def test_its_miniature_shares_pictures_with_colondbs(tmp_path: Path) -> None:
    ours, colondb = miniature("cvc-300", tmp_path, 3), miniature("cvc-colondb", tmp_path, 3)
    assert list(cvc_300.read(ours).table["image"]) == ["images/149.png", "images/156.png", "images/204.png"]
    assert (ours / "images/149.png").read_bytes() == (colondb / "images/149.png").read_bytes()
