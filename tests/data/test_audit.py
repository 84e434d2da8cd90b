"""Near-duplicates are found by content, joined into groups, and never allowed on both sides."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedkvasir.data.audit import join_groups, leaks, near_duplicates
from fedkvasir.data.datasets import cvc_clinicdb, find_dataset, find_root, kvasir_seg
from fedkvasir.data.store import open_store, perceptual_hash
from fedkvasir.errors import UserError
from fedkvasir.plan import make_plan
from fedkvasir.scenario import parse


def fingerprint(pictures: list[np.ndarray]) -> tuple[list[str], np.ndarray]:
    thumbs = [cv2.resize(picture, (32, 32), interpolation=cv2.INTER_AREA) for picture in pictures]
    return [perceptual_hash(picture) for picture in pictures], np.stack(thumbs)


def test_a_reencoded_and_a_resized_copy_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(1)
    pictures = [cv2.resize(rng.integers(0, 256, (9, 9), dtype=np.uint8), (200, 160), interpolation=3) for _ in range(6)]
    copy = cv2.imdecode(cv2.imencode(".jpg", pictures[2], [1, 60])[1], cv2.IMREAD_GRAYSCALE)
    small = cv2.resize(pictures[4], (90, 110), interpolation=cv2.INTER_AREA)
    assert near_duplicates(*fingerprint([*pictures, copy, small])) == [(2, 6), (4, 7)]


def test_pairs_join_groups_transitively() -> None:
    groups = ["video-1", None, None, "video-2", None]
    joined = join_groups(groups, list("abcde"), [(0, 1), (1, 2), (2, 3)])
    assert len(set(joined[:4])) == 1 and joined[4] == "e"


def test_a_leak_is_a_picture_or_a_group_on_both_sides_and_validation_counts_as_training() -> None:
    table = pd.DataFrame(
        {"sample": list("abcd"), "group": ["g", "h", "g", "i"], "split": ["train", "val", "test", "test"]}
    )
    found = leaks(table, [(1, 3), (0, 1), (2, 3)])
    assert found.to_dict("records") == [
        {"kind": "picture", "train": "b", "test": "d"},
        {"kind": "group", "train": "g", "test": "g"},
    ]


def hospital(root: Path, pictures: dict[str, np.ndarray]) -> Path:
    lines = ["image,mask"]
    root.mkdir()
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(root / f"{name}.jpg", quality=85)
        lines.append(f"{name}.jpg,")
    (root / "samples.csv").write_text("\n".join(lines) + "\n")
    return root


def scenario_of(ours: Path, theirs: Path, **data: object) -> dict:
    return {
        "name": "leak",
        "data": {
            "image_size": 32,
            "centers": {
                "ours": {"dataset": "folder", "root": str(ours), "test": 0.0, "val": 0.3},
                "theirs": {"dataset": "folder", "root": str(theirs), "role": "holdout"},
            },
            **data,
        },
        "model": {"name": "unet", "encoder": "resnet18"},
    }


def test_a_scenario_that_shares_a_picture_between_train_and_holdout_is_refused_with_the_pair(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    random = [cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), (80, 64), interpolation=3) for _ in range(12)]
    ours = hospital(tmp_path / "ours", {f"o{i}": random[i] for i in range(8)})
    theirs = hospital(tmp_path / "theirs", {"t0": random[8], "copy": cv2.resize(random[3], (120, 100))})
    raw = scenario_of(ours, theirs)
    with pytest.raises(UserError, match=r"1 pictures or groups lie on both sides .*ours/o3.jpg = theirs/copy.jpg"):
        make_plan(parse(raw, "test"))
    plan = make_plan(parse(scenario_of(ours, theirs, audit="warn"), "test"))
    assert any(text.startswith("LEAKAGE") for text in plan.warnings)


@pytest.mark.real
def test_real_kvasir_seg_has_its_known_pairs_and_none_with_barcelona(real_data: Path) -> None:
    stores = [
        open_store(module.read(find_root(find_dataset(name), real_data, None)), 128)
        for name, module in (("kvasir-seg", kvasir_seg), ("cvc-clinicdb", cvc_clinicdb))
    ]
    table = pd.concat([store.table for store in stores], ignore_index=True)
    thumbs = np.concatenate([store.thumbs for store in stores])
    pairs = [(table["sample"][i], table["sample"][j]) for i, j in near_duplicates(list(table["phash"]), thumbs)]
    kvasir = [pair for pair in pairs if all(name.startswith("kvasir-seg/") for name in pair)]
    assert ("kvasir-seg/cju30bmab08bi0835mvlr6e0r", "kvasir-seg/cju77k828z46w0871r0avuoo9") in kvasir
    assert 3 <= len(kvasir) <= 5, kvasir
    assert not [pair for pair in pairs if pair[0].split("/")[0] != pair[1].split("/")[0]]
