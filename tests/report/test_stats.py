"""The statistics page: what it counts, what it shows, what it says about the pictures in it."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedkvasir.errors import UserError
from fedkvasir.report import stats
from fedkvasir.report.stats import build_stats

SIDE = 24


def hospitals(labelled: bool = False) -> pd.DataFrame:
    """oslo-2 and oslo-10 train, <rome> $x$ is held out; eight images each, two a patient, each fourth without polyp."""
    rows = []
    for center, role in (("<rome> $x$", "holdout"), ("oslo-10", "train"), ("oslo-2", "train")):
        for index in range(8):
            area = 0.0 if index % 4 == 3 else 300.0 * (index + 1)
            rows.append(
                {
                    "sample": f"{center}/{index}",
                    "dataset": "folder",
                    "center": center,
                    "role": role,
                    "split": "test" if role == "holdout" else ("train", "val")[index % 4 == 0],
                    "group": f"{center}/p{index // 2}",
                    "label": ("polyps", "cecum", "z-line")[index % 3] if labelled else None,
                    "width": 200 if index < 5 else 100,
                    "height": 100,
                    "area_px": np.nan if labelled else area,
                }
            )
    return pd.DataFrame(rows)


def picture(position: int) -> np.ndarray:
    """Left half black, right half of one colour."""
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[:, SIDE // 2 :] = (180, 90 + position, 60)
    return pixels


def disc(position: int) -> np.ndarray | None:
    y, x = np.mgrid[:SIDE, :SIDE]
    return ((y - 12) ** 2 + (x - 16) ** 2 < (0 if position % 4 == 3 else 16 + position)).astype(np.uint8)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_stats(tmp_path_factory.mktemp("stats") / "out", hospitals(), picture, disc, "Two & one", real=True)


def test_every_picture_of_the_page_is_there_and_every_file_is_shown(page: Path) -> None:
    shown = re.findall(r'<img src="([^"]+)"', page.read_text())
    assert sorted(shown) == sorted(path.name for path in page.parent.glob("*.png"))
    assert set(shown) == {
        "splits.png", "holdings.png", "sizes.png", "areas.png", "places.png", "channels.png", "hues.png",
        "samples-01.png", "samples-02.png", "samples-03.png",
    }  # fmt: skip
    for name in shown:
        with Image.open(page.parent / name) as image:
            assert image.width in (1040, 780)
    assert len(list(page.parent.iterdir())) == len(shown) + 1


def test_the_page_says_whose_pictures_it_holds(page: Path) -> None:
    text = page.read_text()
    assert "contains patient images" in text and "drawn by a program" not in text
    assert "Two &amp; one" in text and "&lt;rome&gt; $x$" in text and "<rome>" not in text


def test_the_table_counts_by_center_numbers_in_order_and_the_holdout_last(page: Path) -> None:
    rows = re.findall(r"<tr[^>]*><th scope=\"row\">(.*?)</th>(.*?)</tr>", page.read_text())
    table = {head: re.findall(r"<td>(.*?)</td>", cells) for head, cells in rows}
    assert list(table) == ["oslo-2", "oslo-10", "&lt;rome&gt; $x$ ◇", "all"]
    # Images, groups, train, val, test, empty masks, median polyp area (of 1.5, 3, 4.5, 7.5, 18 and 21 %), median size.
    assert table["oslo-2"] == ["8", "4", "6", "2", "0", "2", "6.0%", "200 × 100"]
    assert table["all"] == ["24", "12", "12", "4", "8", "6", "6.0%", "200 × 100"]


def test_the_same_input_gives_the_same_bytes(page: Path, tmp_path: Path) -> None:
    again = build_stats(tmp_path / "again", hospitals(), picture, disc, "Two & one", real=True)
    for path in page.parent.iterdir():
        assert path.read_bytes() == (again.parent / path.name).read_bytes(), path.name


def test_classes_have_a_balance_of_their_own_and_no_polyps(tmp_path: Path) -> None:
    samples = hospitals(labelled=True)
    samples.loc[0, "label"] = None
    page = build_stats(tmp_path / "out", samples, picture, lambda position: None, "Rendered", real=False)
    text = page.read_text()
    assert (page.parent / "classes.png").is_file() and not (page.parent / "areas.png").exists()
    assert "drawn by a program" in text and "patient images" not in text and "polyp area" not in text
    assert "&lt;rome&gt; $x$: cecum 3, no label 1, polyps 2, z-line 2" in text


def test_one_center_without_labels_masks_or_splits(tmp_path: Path) -> None:
    samples = hospitals().query("center == 'oslo-2'")
    samples = samples.assign(role=None, split=None, group=None, area_px=np.nan)
    page = build_stats(tmp_path / "out", samples, picture, lambda position: None, "Unlabelled", real=True)
    assert "not named" in page.read_text() and "no mask 8" in page.read_text()
    assert not (page.parent / "splits.png").exists()


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="exists already; choose another folder with --out"):
        build_stats(tmp_path / "out", hospitals(), picture, disc, "Again", real=True)


def test_black_borders_have_no_colour_and_a_center_is_looked_at_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "LOOKED_AT", 3)
    samples = hospitals()
    looks = stats._look(samples, stats._in_order(samples), picture, disc)
    assert looks.colours.groupby("center", sort=False)["G"].apply(list).to_dict() == {
        "oslo-2": [90 + 16, 90 + 20, 90 + 23], "oslo-10": [90 + 8, 90 + 12, 90 + 15], "<rome> $x$": [90, 94, 97],
    }  # fmt: skip
    assert looks.colours["R"].eq(180).all()
    # Of the three, two show a polyp.
    np.testing.assert_array_equal(looks.places["<rome> $x$"], (disc(0) + disc(4)) / 2)  # type: ignore[operator]


def test_samples_show_each_class_in_turn_and_a_patient_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stats, "SHOWN", 6)
    own = pd.DataFrame(
        {
            "sample": [f"s{index}" for index in range(40)],
            "group": [f"p{index // 2}" for index in range(40)],
            "label": ["rare"] * 4 + ["common"] * 36,
        }
    )
    chosen = own.loc[stats._choose(own, seed=0)]
    assert chosen["group"].is_unique and (chosen["label"] == "rare").sum() == 2
    assert stats._choose(own, seed=0) != stats._choose(own, seed=1)
