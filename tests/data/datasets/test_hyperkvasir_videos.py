"""HyperKvasir labeled-videos: frames at a stated rate, the video as group, the folder as class."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from fedkvasir.data import formats
from fedkvasir.data.datasets import find_dataset, find_root
from fedkvasir.data.datasets.hyperkvasir_videos import read
from fedkvasir.data.miniatures import miniature
from fedkvasir.data.miniatures.hyperkvasir_videos import TREE
from fedkvasir.errors import UserError

DATASET = find_dataset("hyperkvasir-videos")
A, B, C = (f"{letter * 8}-0000-4000-8000-000000000000" for letter in "abc")
POLYPS = "lower-gi-tract/pathological-findings/polyps"
BBPS = "lower-gi-tract/quality-of-mucosal-view/BBPS-2-3"
HEADER = "Video file,Organ,Finding 1,Classification 1,Detailed description of finding,Finding 2,Classification 2\n"


def video(path: Path, frames: int = 25, rate: float = 10.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), rate, (32, 24))
    for number in range(frames):
        writer.write(np.full((24, 32, 3), 5 * number, np.uint8))
    writer.release()


def small(folder: Path) -> Path:
    root = folder / "labeled-videos"
    video(root / POLYPS / f"{A}.avi")
    video(root / BBPS / f"{B}.AVI")
    return root


def warnings(root: Path) -> list[str]:
    return [text for text in read(root).warnings if not text.startswith("counts differ")]


def test_a_video_becomes_a_frame_a_second(tmp_path: Path) -> None:
    catalog = read(small(tmp_path))
    rows = catalog.table[["sample", "group", "image", "item", "label"]].to_numpy().tolist()
    assert rows[:3] == [
        [f"hyperkvasir-videos/{A}/{frame:06d}", f"hyperkvasir-videos/{A}", f"{POLYPS}/{A}.avi", str(frame), "polyps"]
        for frame in (0, 10, 20)
    ]
    assert catalog.classes == ("bbps-2-3", "polyps") and len(rows) == 6
    assert catalog.warnings == (
        "counts differ from the published ones (here, of): videos 2 of 374, "
        "lower-gi-tract 2 of 314, upper-gi-tract 0 of 60",
    )


@pytest.mark.parametrize(
    ("rate", "frames"),
    [
        (2, [0, 5, 10, 15, 20]),
        (4, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]),
        (0.1, [0]),
        (10, [*range(25)]),
        (99, [*range(25)]),
    ],
)
def test_the_rate_is_an_option_and_never_above_the_videos_own(tmp_path: Path, rate: float, frames: list[int]) -> None:
    table = read(small(tmp_path), frames_per_second=rate).table
    assert list(table["item"][table["label"] == "polyps"]) == [str(frame) for frame in frames]


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), "1", True, None])
def test_a_rate_that_is_none_is_refused(tmp_path: Path, rate: float) -> None:
    with pytest.raises(UserError, match=r"option frames_per_second is .* must be a number above 0"):
        read(tmp_path, frames_per_second=rate)


def test_a_class_is_its_folder_by_alias_else_as_it_is_called(tmp_path: Path) -> None:
    for number, folder in enumerate(("polyp", "GAVE", "barrett's oesophagus", "Self-expanding stent", "ERCP")):
        video(tmp_path / "upper-gi-tract" / "x" / folder / f"{A[:-1]}{number}.avi", 1)
    labels = ("barretts", "ercp", "gastric-antral-vascular-ectasia", "polyps", "self-expanding-stent")
    assert read(tmp_path).classes == labels


def test_everything_odd_is_counted(tmp_path: Path) -> None:
    root = small(tmp_path)
    shutil.copy(root / POLYPS / f"{A}.avi", root / BBPS)
    (root / BBPS / "polypp 5.mpg").write_bytes(b"no video")
    (root / BBPS / "notes.txt").touch()
    (root / BBPS / f"._{A}.avi").touch()
    (root / f"{C}.avi").touch()
    assert warnings(root) == [
        f"1 other files ignored under {root}, e.g. notes.txt",
        f"1 videos left out, they lie in no class folder, e.g. {C}.avi",
        f"1 videos stand in two folders, e.g. {A}: all kept, as one group",
        "1 file names are not UUIDs, e.g. polypp 5",
        f"1 videos left out, OpenCV cannot open them, e.g. {BBPS}/polypp 5.mpg",
    ]
    table = read(root).table
    twice = table[table["group"] == f"hyperkvasir-videos/{A}"]
    assert set(twice["label"]) == {"polyps", "bbps-2-3"}
    assert f"hyperkvasir-videos/{BBPS}/{A}/000010" in set(twice["sample"])


class TestVideoLabels:
    """video-labels.csv adds nothing; its first finding is checked against the folder."""

    def write(self, folder: Path, text: str | bytes) -> Path:
        root = small(folder)
        (root / "video-labels.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
        return root

    def test_agrees_whatever_its_encoding(self, tmp_path: Path) -> None:
        rows = f"{A},Lower GI,polyps,Pathological findings,¨,,\n{B},Lower GI,BBPS 2-3,Quality of mucosal views,,,\n"
        assert warnings(self.write(tmp_path, (HEADER + rows).encode("latin-1"))) == []

    def test_columns_may_stand_in_any_order_with_blanks_around(self, tmp_path: Path) -> None:
        text = "Finding 1,Finding 2 ,Classification 2,Classification 1,Organ,Video file\n"
        assert warnings(self.write(tmp_path, text + f"polyps,,,,,{A}.avi\nBBPS 2-3,,,,,{B}\n")) == []

    def test_disagrees(self, tmp_path: Path) -> None:
        rows = f"{A},Lower GI,colitis,,,,\n{C},Lower GI,polyps,,,,\n"
        assert warnings(self.write(tmp_path, HEADER + rows)) == [
            f"1 rows have no video here: video-labels.csv, e.g. {C}",
            f"1 videos have no row in video-labels.csv, e.g. {B}",
            f"1 videos lie in a folder of another class than in video-labels.csv, e.g. {A} in polyps",
        ]

    def test_lacks_a_column(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="has the columns Video file, Organ; needed, separated by ','"):
            read(self.write(tmp_path, "Video file,Organ\n"))


def test_a_root_without_videos_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not hold a class folder with videos"):
        read(tmp_path)
    (tmp_path / POLYPS).mkdir(parents=True)
    (tmp_path / POLYPS / f"{A}.avi").touch()
    with pytest.raises(UserError, match="no image found"):
        read(tmp_path)


def test_the_root_is_known_by_its_list_or_its_tree(tmp_path: Path) -> None:
    root = small(tmp_path / "hyper-kvasir-videos")
    assert find_root(DATASET, tmp_path, None) == root
    assert DATASET.recognise(root.rename(tmp_path / "renamed"))
    stills = tmp_path / "labeled-images" / POLYPS
    stills.mkdir(parents=True)
    (stills / f"{A}.jpg").touch()
    assert not DATASET.recognise(tmp_path / "labeled-images")


def test_the_miniature_reads_like_the_real_one(tmp_path: Path) -> None:
    assert sum(len(classes) for tree in TREE.values() for classes in tree.values()) == 30
    root = miniature("hyperkvasir-videos", tmp_path, 2)
    assert find_root(DATASET, tmp_path, None) == root
    assert warnings(root) == []
    catalog = read(root)
    assert len(catalog.classes) == 29  # polyps stand in both tracts
    assert catalog.table.groupby("label")["group"].nunique().min() == 2
    assert len(catalog.table) == 60 * 3
    frames = catalog.table[catalog.table["group"] == catalog.table["group"][0]]
    pixels = list(formats.pictures(root / frames["image"].iloc[0], list(frames["item"])))
    assert len(pixels) == 3 and all(pixel.dtype == np.uint8 and pixel.ndim == 3 for pixel in pixels)
    assert np.abs(pixels[0].astype(int) - pixels[2]).mean() > 1


def test_the_same_call_renders_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"upper-gi-tract": {"anatomical-landmarks": ("z-line",)}}
    monkeypatch.setattr("fedkvasir.data.miniatures.hyperkvasir_videos.TREE", tree)
    first, second = (miniature("hyperkvasir-videos", tmp_path / name, 2) for name in "ab")
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert len(files) == 4
    assert all((first / file).read_bytes() == (second / file).read_bytes() for file in files)
