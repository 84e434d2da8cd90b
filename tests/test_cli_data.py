"""`fedkvasir data ...`: what a person types, sees, and is told when something is wrong."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from tests.conftest import Command, Miniatures


@pytest.fixture
def data(command: Command) -> Command:
    """``fedkvasir data ...``"""
    return partial(command, "data")


def test_a_card_says_where_a_dataset_comes_from_and_what_is_odd(data: Command) -> None:
    done = data("card", "polypgen")
    for word in ("syn45200214", "CC BY 4.0", "Alexandria", "options (data.options.polypgen): parts", "- "):
        assert word in done.stdout
    assert data("card", "polypgenn").returncode == 2


def test_a_miniature_is_written_checked_and_looked_at(data: Command, tmp_path: Path) -> None:
    assert "rendered pictures, real layout" in data("miniature", "verse", tmp_path / "tiny", "--per-center", 2).stdout
    checked = data("check", "verse", tmp_path / "tiny")
    assert (
        checked.returncode == 0 and "center: ge-medical-systems" in checked.stdout and "counts differ" in checked.stdout
    )
    assert "tables (`fedkvasir data table`): centroids" in checked.stdout
    done = data("table", "verse", tmp_path / "tiny", "centroids", tmp_path / "c.csv")
    assert done.returncode == 0 and {"scan", "label", "x", "y", "z"} <= set(pd.read_csv(tmp_path / "c.csv"))
    assert "did you mean 'centroids'" in data("table", "verse", tmp_path, "centroid", tmp_path / "d.csv").stderr


def test_a_wrong_place_is_told_apart(data: Command, miniatures: Miniatures, tmp_path: Path) -> None:
    """A level too deep, a file, an archive not unpacked, two copies, nothing at all: one sentence each."""
    root = miniatures("etis-larib", 4)
    picture = next(root.rglob("*.tif"))
    assert "lies inside the dataset; give the folder above it" in data("check", "etis-larib", picture.parent).stderr
    assert "is a file, not a folder" in data("check", "etis-larib", picture).stderr
    (tmp_path / "kvasir-seg.zip").write_bytes(b"PK half")
    told = data("check", "kvasir-seg", tmp_path)
    assert told.returncode == 2 and "kvasir-seg.zip is not unpacked: `fedkvasir data unpack" in told.stderr
    assert "is an archive; `fedkvasir data unpack" in data("check", "kvasir-seg", tmp_path / "kvasir-seg.zip").stderr
    assert "half-downloaded" in data("unpack", tmp_path / "kvasir-seg.zip", tmp_path / "out").stderr
    for place in ("one", "two"):
        data("miniature", "kvasir-sessile", tmp_path / place, "--per-center", 2)
    assert "two copies" in data("check", "kvasir-sessile", tmp_path).stderr


def test_a_split_is_frozen_and_used_again(data: Command, tiny: Path, tmp_path: Path) -> None:
    done = data("split", tiny, "--freeze", tmp_path / "split.csv")
    assert done.returncode == 0 and "edinburgh" in done.stdout and len(pd.read_csv(tmp_path / "split.csv")) == 80
    assert data("split", tiny, f"data.split_file={tmp_path / 'split.csv'}").stdout in done.stdout


def test_where_nothing_can_be_written_is_told_before_anything_is_done(data: Command, tiny: Path) -> None:
    (tiny.parent / "file").write_text("")
    out = tiny.parent / "file" / "out"
    for words in (("miniature", "etis-larib", out), ("audit", tiny, "--out", out), ("stats", tiny, "--out", out)):
        done = data(*words)
        assert (done.returncode, done.stdout) == (2, "") and f"{out} cannot be written (Not a directory)" in done.stderr


def test_a_frozen_split_is_not_written_over(data: Command, tiny: Path, tmp_path: Path) -> None:
    """The same again is no other one."""
    path = tmp_path / "split.csv"
    for overrides, code in (((), 0), ((), 0), (("data.split_seed=1",), 2)):
        done = data("split", tiny, *overrides, "--freeze", path)
        assert done.returncode == code
    assert f"{path} is there and holds something else; name another file, or remove it" in done.stderr
    done = data("split", tiny, "--freeze", tmp_path)
    assert (done.returncode, done.stdout) == (2, "") and "is a folder; name a file" in done.stderr


def test_an_audit_shows_the_pictures_on_both_sides_and_ends_with_two(data: Command, tmp_path: Path) -> None:
    """Oslo trains on six pictures; the holdout has one of them, re-encoded at another size, beside five of its own."""
    rng, centers = np.random.default_rng(0), {}
    for center in ("oslo", "lyon"):
        for number in range(6):
            coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
            (tmp_path / center).mkdir(exist_ok=True)
            coarse.resize((120, 90), Image.Resampling.BICUBIC).save(tmp_path / center / f"{number}.jpg")
        rows = [f"{number}.jpg," for number in range(6)]
        (tmp_path / center / "samples.csv").write_text("\n".join(["image,mask", *rows]))
        centers[center] = {"dataset": "folder", "root": str(tmp_path / center)}
    centers["lyon"]["role"] = "holdout"
    centers["oslo"]["test"] = 0.0
    with Image.open(tmp_path / "oslo" / "3.jpg") as picture:
        picture.resize((100, 75)).save(tmp_path / "lyon" / "0.jpg", quality=60)
    scenario = tmp_path / "s.yaml"
    scenario.write_text(yaml.safe_dump({"data": {"image_size": 32, "centers": centers}, "model": {"name": "unet"}}))
    done = data("audit", scenario, "--out", tmp_path / "audit")
    assert done.returncode == 2 and "picture: oslo/3.jpg (train) = lyon/0.jpg (test)" in done.stdout
    page = next((tmp_path / "audit").glob("*.html")).read_text()
    assert "oslo/3.jpg" in page and "data:image/jpeg;base64," in page
    assert data("audit", scenario, "data.audit=drop").returncode == 0


def test_statistics_are_a_page_and_its_pictures(
    data: Command, tiny: Path, miniatures: Miniatures, tmp_path: Path
) -> None:
    done = data("stats", miniatures("kvasir-v2", 4), miniatures("etis-larib", 4), "--out", tmp_path / "stats")
    assert done.returncode == 0
    page = (tmp_path / "stats" / "index.html").read_text()
    assert "kvasir-v2" in page and "etis-larib" in page and list((tmp_path / "stats").glob("*.png"))
    assert data("stats", tiny, "--out", tmp_path / "hospitals").returncode == 0
    assert "exists already" in data("stats", tiny, "--out", tmp_path / "hospitals").stderr
