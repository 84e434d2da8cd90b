"""The rendered hospitals: repeatable, alike within a patient, unlike between hospitals, and learnable."""

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from sklearn.ensemble import RandomForestClassifier

from fedkvasir.data.synthetic import CLASSES, HEALTHY, LOOKS, Look, render, render_tree

ALTA = LOOKS["alta"]
SCALE = 0.25


def tiny(picture: np.ndarray, side: int = 12) -> np.ndarray:
    """The picture's middle, (side * side * 3,): no margin, inset or text that would give a hospital away."""
    height, width = picture.shape[:2]
    middle = picture[height // 6 : -height // 6, width // 6 : -width // 6]
    return cv2.resize(middle, (side, side), interpolation=cv2.INTER_AREA).reshape(-1).astype(float)


@pytest.mark.parametrize("label", [*CLASSES, HEALTHY])
def test_same_key_same_pixels(label: str) -> None:
    first, second = (render(ALTA, label, 5, 3, 1, SCALE) for _ in range(2))
    assert np.array_equal(first[0], second[0])
    assert np.array_equal(first[1], second[1])


@pytest.mark.parametrize("other", [(6, 3, 1), (5, 4, 1), (5, 3, 2)], ids=["seed", "patient", "frame"])
def test_other_key_other_pixels(other: tuple[int, int, int]) -> None:
    assert not np.array_equal(render(ALTA, "polyps", 5, 3, 1, SCALE)[0], render(ALTA, "polyps", *other, SCALE)[0])


def test_frames_of_a_patient_are_alike() -> None:
    def likeness(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.corrcoef(tiny(a), tiny(b))[0, 1])

    frames = [[render(ALTA, "polyps", 0, p, f, SCALE)[0] for f in (1, 2)] for p in range(12)]
    within = [likeness(one, two) for one, two in frames]
    between = [likeness(a[0], b[1]) for a, b in pairwise(frames)]
    assert np.mean(within) > np.mean(between) + 0.1


@pytest.mark.parametrize("look", LOOKS.values(), ids=LOOKS)
def test_mask_fits_the_picture(look: Look) -> None:
    picture, mask = render(look, "polyps", 0, 0)
    assert picture.shape == (look.height, look.width, 3)
    assert mask.shape == (look.height, look.width)
    assert picture.dtype == mask.dtype == np.uint8
    assert set(np.unique(mask)) == {0, 255}


def test_polyps_come_in_all_sizes() -> None:
    areas = [(render(ALTA, "polyps", 0, p, 1, SCALE)[1] > 0).mean() for p in range(80)]
    assert min(areas) > 0.004
    assert np.quantile(areas, 0.1) < 0.03
    assert np.quantile(areas, 0.95) > 0.2
    assert max(areas) < 0.6


@pytest.mark.parametrize("label", [*(label for label in CLASSES if label != "polyps"), HEALTHY])
def test_only_polyps_have_a_mask(label: str) -> None:
    assert not render(ALTA, label, 0, 0, 1, SCALE)[1].any()


def test_polyp_is_not_a_threshold() -> None:
    """No cut through any colour channel finds the polyps of all patients, however well it is chosen."""
    pairs = [render(ALTA, "polyps", 0, p, 1, SCALE) for p in range(30)]

    def dice(channel: int, cut: int, above: bool) -> float:
        found = [(picture[..., channel] > cut) == above for picture, _ in pairs]
        truth = [mask > 0 for _, mask in pairs]
        return float(np.mean([2 * (f & t).sum() / (f.sum() + t.sum()) for f, t in zip(found, truth, strict=True)]))

    assert max(dice(c, cut, above) for c in range(3) for cut in range(20, 250, 10) for above in (True, False)) < 0.4


def test_hospitals_look_different() -> None:
    assert len({(look.width, look.height) for look in LOOKS.values()}) == len(LOOKS)
    tones = {
        name: np.mean([tiny(render(look, HEALTHY, 0, p, 1, SCALE)[0], 1) for p in range(8)], axis=0)
        for name, look in LOOKS.items()
    }
    names = list(LOOKS)
    gaps = {(a, b): np.linalg.norm(tones[a] - tones[b]) for i, a in enumerate(names) for b in names[i + 1 :]}
    assert min(gaps.values()) > 8, gaps


def test_classes_can_be_told_apart() -> None:
    def sample(patients: range) -> tuple[np.ndarray, list[str]]:
        labels = [CLASSES[p % len(CLASSES)] for p in patients]
        pictures = [render(ALTA, label, 0, p, 1, SCALE)[0] for label, p in zip(labels, patients, strict=True)]
        return np.array([tiny(picture) for picture in pictures]), labels

    forest = RandomForestClassifier(200, random_state=0).fit(*sample(range(160)))
    assert forest.score(*sample(range(160, 224))) > 0.5  # chance: 0.125


def test_segmentation_tree(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    render_tree(
        tmp_path, "segmentation", 12, 0, 0.1, ["alta", "dresden"], lambda done, total: seen.append((done, total))
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["alta", "dresden"]
    names = [f"p{patient:03d}-{frame}" for patient in range(12) for frame in (1, 2)]
    for center in ("alta", "dresden"):
        assert sorted(p.name for p in (tmp_path / center / "images").iterdir()) == [f"{n}.jpg" for n in names]
        masks = sorted((tmp_path / center / "masks").iterdir())
        assert [p.name for p in masks] == [f"{n}.png" for n in names]
        pixels = [np.array(Image.open(path)) for path in masks]
        assert all(m.ndim == 2 and set(np.unique(m)) <= {0, 255} for m in pixels)
        assert sum(not m.any() for m in pixels) == 2  # both frames of one patient in twelve
    assert Image.open(tmp_path / "dresden/images/p000-1.jpg").size == (29, 24)
    assert seen[-1] == (48, 48)


def test_classification_tree(tmp_path: Path) -> None:
    render_tree(tmp_path, "classification", 16, 0, 0.1, ["bergen"])
    assert tuple(sorted(p.name for p in (tmp_path / "bergen").iterdir())) == CLASSES
    assert {len(list(folder.iterdir())) for folder in (tmp_path / "bergen").iterdir()} == {4}
    assert (tmp_path / "bergen" / CLASSES[3] / "p003-1.jpg").is_file()


@pytest.mark.parametrize(
    ("task", "centers", "sentence"),
    [("detection", ["alta"], "Unknown task 'detection'"), ("segmentation", ["oslo"], "Unknown centers oslo")],
)
def test_mistakes_are_named(tmp_path: Path, task: str, centers: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        render_tree(tmp_path, task, 1, 0, 0.1, centers)
    with pytest.raises(ValueError, match="image scale"):
        render_tree(tmp_path, "segmentation", 1, 0, 3.0)
    with pytest.raises(ValueError, match="Unknown label 'cat'"):
        render(ALTA, "cat", 0, 0)
