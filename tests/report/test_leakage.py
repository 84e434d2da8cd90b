"""The leakage report says what is wrong first, shows the pictures, and leaves nothing out silently."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedkvasir.data.audit import leaks
from fedkvasir.errors import UserError
from fedkvasir.report.leakage import build_leakage_report


def samples(splits: str) -> pd.DataFrame:
    """One sample a letter: t(rain), v(alidation), e(valuated on); even ones at oslo, odd ones at <paris>."""
    return pd.DataFrame(
        {
            "sample": [f"folder/{number}.jpg" for number in range(len(splits))],
            "center": ["oslo" if number % 2 == 0 else "<paris>" for number in range(len(splits))],
            "group": [f"folder/{number}.jpg" for number in range(len(splits))],
            "split": [{"t": "train", "v": "val", "e": "test"}[letter] for letter in splits],
            "width": 640,
            "height": 480,
        }
    )


def pairs(*rows: tuple[int, int, str]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["i", "j", "kind"])
    return table.assign(correlation=0.9912)


def page(out: Path, table: pd.DataFrame, found: pd.DataFrame, real: bool = False) -> str:
    path = build_leakage_report(out, table, found, leaks(table, found), noise, real)
    assert path == out / "index.html" and {entry.name for entry in out.iterdir()} == {"index.html", "pairs.csv"}
    return path.read_text()


def noise(position: int) -> np.ndarray:
    return np.random.default_rng(position).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def test_a_picture_on_both_sides_is_the_headline_and_comes_first(tmp_path: Path) -> None:
    text = page(tmp_path / "out", samples("tteev"), pairs((0, 1, "exact"), (2, 4, "crop"), (1, 3, "mirror")))
    assert '<h1 class="found">2 pictures lie on both sides of train and test.</h1>' in text
    assert text.index("On both sides</h2>") < text.index("folder/4.jpg") < text.index("On the same side</h2>")
    listing = pd.read_csv(tmp_path / "out" / "pairs.csv")
    assert listing[["kind", "both_sides", "first", "first_split", "second", "second_split"]].to_numpy().tolist() == [
        ["mirror", True, "folder/1.jpg", "train", "folder/3.jpg", "test"],
        ["crop", True, "folder/4.jpg", "val", "folder/2.jpg", "test"],
        ["exact", False, "folder/0.jpg", "train", "folder/1.jpg", "train"],
    ]
    assert text.count("data:image/jpeg;base64,") == 6 and 'width="213" height="160"' in text


def test_a_group_on_both_sides_is_listed_with_its_images(tmp_path: Path) -> None:
    table = samples("ttee").assign(group=["case", "case", "case", "other"])
    text = page(tmp_path / "out", table, pairs())
    assert "1 group lies on both sides of train and test." in text
    assert '<td class="words">&lt;paris&gt;, oslo</td><td>2</td><td>1</td>' in text


def test_without_a_leak_the_verdict_says_so(tmp_path: Path) -> None:
    text = page(tmp_path / "out", samples("tte"), pairs((0, 1, "near")))
    assert "<h1>No picture and no group lies on both sides of train and test.</h1>" in text
    assert "On both sides</h2>" not in text and "On the same side</h2>" in text
    assert "On the same side</h2>" not in page(tmp_path / "none", samples("te"), pairs())


def test_the_page_shows_200_pairs_and_says_how_many_more_there_are(tmp_path: Path) -> None:
    many = pairs(*[(0, number, "near") for number in range(1, 212)])
    text = page(tmp_path / "out", samples("t" * 212), many)
    assert text.count("data:image/jpeg;base64,") == 400 and "11 more pairs are left out" in text
    assert len(pd.read_csv(tmp_path / "out" / "pairs.csv")) == 211


def test_it_says_whether_patients_are_shown_and_needs_nothing_else(tmp_path: Path) -> None:
    real = page(tmp_path / "real", samples("te"), pairs((0, 1, "near")), real=True)
    rendered = page(tmp_path / "rendered", samples("te"), pairs((0, 1, "near")))
    assert "contains patient images" in real and "contains patient images" not in rendered
    assert "<script" not in real and "http" not in real and "<paris>" not in real
    assert rendered == page(tmp_path / "again", samples("te"), pairs((0, 1, "near")))


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="exists already"):
        page(tmp_path, samples("te"), pairs())
