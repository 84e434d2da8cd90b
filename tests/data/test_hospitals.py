"""Hospitals out of datasets: what a scenario's centers take, what is left out and told, what is refused."""

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from fedkvasir.data.hospitals import gather, survey
from fedkvasir.errors import UserError
from fedkvasir.plan import make_plan
from fedkvasir.scenario import Scenario, parse
from tests.conftest import Miniatures


def pictures(folder: Path, names: list[str], seed: int = 0) -> Path:
    """Pictures that differ, with a mask each."""
    rng = np.random.default_rng(seed)
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for name in names:
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC).save(folder / "images" / f"{name}.jpg")
        mask = np.zeros((48, 64), np.uint8)
        mask[10:30, 10:40] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{name}.jpg")
    return folder


def scenario(centers: dict, **data: object) -> Scenario:
    raw = {"name": "t", "data": {"image_size": 32, "centers": centers, **data}, "model": {"name": "unet"}}
    return parse(raw, "test")


@pytest.fixture
def kvasir(tmp_path: Path) -> Path:
    root = pictures(tmp_path / "Kvasir-SEG", [f"k{n:02d}" for n in range(20)])
    (root / "train.txt").write_text("\n".join(f"k{n:02d}" for n in range(12)))
    (root / "val.txt").write_text("\n".join(f"k{n:02d}" for n in range(12, 18)))
    return root


def test_what_a_published_split_does_not_list_is_left_out_and_counted(kvasir: Path) -> None:
    held = gather(scenario({"baerum": {"dataset": "kvasir-seg", "split": "official"}}), kvasir)
    assert len(held.samples) == 18 and (held.samples["split"] == "test").sum() == 6
    assert "data.centers.baerum: 2 images are not in the published split and left out" in held.warnings


def test_a_published_split_is_named_with_the_nearest_spelling(kvasir: Path) -> None:
    with pytest.raises(UserError, match="kvasir-seg has no published split '3-fold'"):
        gather(scenario({"baerum": {"dataset": "kvasir-seg", "split": "official:3-fold"}}), kvasir)
    for name in ("train", "val"):
        (kvasir / f"{name}.txt").unlink()
    with pytest.raises(
        UserError, match=r"data\.centers\.baerum: kvasir-seg has no official split here; use split: group"
    ):
        gather(scenario({"baerum": {"dataset": "kvasir-seg", "split": "official"}}), kvasir)


def test_drop_leaves_out_of_training_what_is_tested_on(kvasir: Path, tmp_path: Path) -> None:
    """Four of the holdout's pictures are the training hospital's, re-encoded."""
    other = pictures(tmp_path / "other", [f"o{n}" for n in range(8)], seed=1)
    for n in range(4):
        with Image.open(kvasir / "images" / f"k{n:02d}.jpg") as picture:
            picture.resize((96, 72)).save(other / "images" / f"o{n}.jpg", quality=70)
        Image.new("L", (96, 72)).save(other / "masks" / f"o{n}.jpg")
    rows = [f"images/o{n}.jpg,masks/o{n}.jpg" for n in range(8)]
    (other / "samples.csv").write_text("\n".join(["image,mask", *rows]))
    centers = {
        "baerum": {"dataset": "kvasir-seg", "root": str(kvasir), "test": 0.0},
        "other": {"dataset": "folder", "root": str(other), "role": "holdout"},
    }
    leaking = gather(scenario(centers))
    assert len(leaking.leaks) == 4 and len(leaking.pairs) == 4
    held = gather(scenario(centers, audit="drop"))
    assert held.leaks.empty and len(held.samples) == 24 and "kvasir-seg/k00" not in set(held.samples["sample"])
    assert "baerum: 4 images left out of training, their pictures or groups are tested on" in held.warnings


def test_a_hospital_is_split_alike_whoever_else_takes_part(kvasir: Path, tmp_path: Path) -> None:
    """A picture that another one has, too, gives its group another name, and must not deal every group anew: a real
    hospital, which knows its own pictures alone, has the split of the simulation."""
    other = pictures(tmp_path / "aaa", ["o0"])
    with Image.open(kvasir / "images" / "k07.jpg") as picture:
        picture.save(other / "images" / "o0.jpg", quality=60)
    (other / "samples.csv").write_text("image,mask\nimages/o0.jpg,masks/o0.jpg\n")
    centers = {"baerum": {"dataset": "kvasir-seg", "root": str(kvasir)}}
    centers["other"] = {"dataset": "folder", "root": str(other), "role": "holdout"}
    both = gather(scenario(centers, audit="warn")).samples
    assert both["group"][both["sample"] == "kvasir-seg/k07"].tolist() == ["aaa/images/o0.jpg"]
    alone = gather(scenario({"baerum": centers["baerum"]})).samples
    here = both[both["center"] == "baerum"]
    assert here.set_index("sample")["split"].to_dict() == alone.set_index("sample")["split"].to_dict()


def test_images_that_name_no_patient_are_counted_where_they_are_split(kvasir: Path) -> None:
    center = {"dataset": "kvasir-seg", "root": str(kvasir)}
    (told,) = (text for text in gather(scenario({"a": center})).warnings if "no patient or video" in text)
    assert told.startswith("data.centers.a: 20 of 20 images name no patient or video, so that one may lie on both")
    published = {
        "a": center | {"split": "official"},
        "b": {"dataset": "synthetic", "center": "alta", "role": "holdout"},
    }
    few = {"synthetic": {"patients_per_center": 2, "image_scale": 0.2}}
    (told,) = (t for t in gather(scenario(published, options=few)).warnings if "no patient or video" in t)
    assert told.startswith("data.centers.a: ") and "intervals are too short where" in told


def test_the_same_pixels_under_two_labels_are_told(tmp_path: Path) -> None:
    root = pictures(tmp_path / "ours", [f"{n}" for n in range(12)])
    (root / "images" / "again.jpg").write_bytes((root / "images" / "3.jpg").read_bytes())
    rows = [f"images/{n}.jpg,{('normal', 'polyp')[n % 2]}" for n in range(12)]
    (root / "samples.csv").write_text("\n".join(["image,label", *rows, "images/again.jpg,normal"]))
    raw = {"name": "t", "task": "classification", "model": {"name": "resnet18"}}
    raw["data"] = {"image_size": 32, "centers": {"a": {"dataset": "folder", "root": str(root)}}}
    (told,) = (text for text in gather(parse(raw, "test")).warnings if "different labels" in text)
    assert told.startswith("1 pairs of the same picture") and "ours/images/3.jpg is polyp" in told


def test_a_center_without_a_published_test_list_is_not_tested_on_its_validation(miniatures: Miniatures) -> None:
    """Of the published split as a whole there is one; of Kvasir-SEG, which publishes train and val alone, val tests."""
    root = miniatures("camelyon17-wilds", 20)
    center = {"dataset": "camelyon17-wilds", "center": "hospital-0", "split": "official", "root": str(root)}
    raw = {"name": "t", "task": "classification", "data": {"image_size": 32, "centers": {"a": center}}}
    held = gather(parse({**raw, "model": {"name": "resnet18"}}, "test"))
    assert set(held.samples["split"]) == {"train", "val"}
    assert "data.centers.a: the published split tests nothing of it" in held.warnings
    assert any(
        "a: 2 of its validation images, or others of their groups, are trained on here" in t for t in held.warnings
    )


def test_validation_holds_nothing_that_another_hospital_trains(kvasir: Path, tmp_path: Path) -> None:
    """Two hospitals have the same pictures, re-encoded: rounds would be chosen by what was learnt by heart."""
    twin = tmp_path / "twin"
    for kind in ("images", "masks"):
        (twin / kind).mkdir(parents=True)
        for path in (kvasir / kind).iterdir():
            with Image.open(path) as picture:
                picture.save(twin / kind / path.name, quality=60)
    rows = [f"images/k{n:02d}.jpg,masks/k{n:02d}.jpg" for n in range(20)]
    (twin / "samples.csv").write_text("\n".join(["image,mask", *rows]))
    centers = {
        "a": {"dataset": "kvasir-seg", "root": str(kvasir), "test": 0.0, "val": 0.25},
        "b": {"dataset": "folder", "root": str(twin), "test": 0.0, "val": 0.25},
    }
    held = gather(scenario(centers))
    train, val = (held.samples[held.samples["split"] == part] for part in ("train", "val"))
    assert len(train) == 30 and not val["group"].isin(train["group"]).any()
    assert any(text.startswith("a: ") and "trained on at another hospital; left out" in text for text in held.warnings)
    both = train["group"].value_counts().eq(2).sum()
    assert any(f"a and b train with the same pictures, {both} pairs of them" in text for text in held.warnings)
    warned = gather(scenario(centers, audit="warn"))
    assert len(warned.samples) == 40 and any("count all the same" in text for text in warned.warnings)


def test_validation_holds_nothing_that_is_trained_here_by_way_of_another_hospital(tmp_path: Path) -> None:
    """Two pictures of a, too far apart to be one, with a picture of b between them that is like either."""
    rng = np.random.default_rng(0)
    one, other, *more = (cv2.resize(rng.integers(0, 255, (8, 8, 3), np.uint8), (64, 64)) for _ in range(22))
    mixed = {
        name: cv2.addWeighted(one, 1 - share, other, share, 0)
        for name, share in {"x1": 0, "y": 0.08, "x2": 0.16}.items()
    }
    centers = {}
    for number, (name, chained) in enumerate({"a": ("x1", "x2"), "b": ("y",)}.items()):
        root = tmp_path / name
        root.mkdir()
        pictures = {key: mixed[key] for key in chained} | {f"{n}": more[10 * number + n] for n in range(10)}
        for key, picture in pictures.items():
            Image.fromarray(picture).save(root / f"{key}.png")
        lines = ["image,mask,group", *(f"{key}.png,," for key in pictures)]
        (root / "samples.csv").write_text("\n".join(lines) + "\n")
        centers[name] = {"dataset": "folder", "root": str(root), "test": 0.0, "val": 0.3}
    seen = set()
    for seed in range(40):
        held = gather(scenario(centers, split_seed=seed))
        place = dict(zip(held.samples["sample"], held.samples["split"], strict=True))
        parts = tuple(place.get(name) for name in ("a/x1.png", "a/x2.png", "b/y.png"))
        train, val = (held.samples[held.samples["split"] == part] for part in ("train", "val"))
        assert not val["group"].isin(train["group"]).any(), (seed, parts)
        seen.add(parts)
    assert ("train", None, "train") in seen, "the second picture was drawn for validation, and is left out"


def test_rendered_data_have_no_root() -> None:
    with pytest.raises(UserError, match=r"data\.centers\.a\.root: synthetic is rendered and lies nowhere"):
        gather(scenario({"a": {"dataset": "synthetic", "root": "/nowhere"}}))


def test_a_holdout_of_a_hospital_that_trains_is_told(tmp_path: Path, kvasir: Path) -> None:
    """What lies in two folders, or was published twice, may be of one hospital, and of one patient."""
    roots = {}
    for number, name in enumerate(("old", "new", "unnamed")):
        root = roots[name] = pictures(tmp_path / name, [f"p{n}" for n in range(8)], seed=number + 1)
        home = "" if name == "unnamed" else "bergen"
        lines = ["image,mask,center", *(f"images/p{n}.jpg,masks/p{n}.jpg,{home}" for n in range(8))]
        (root / "samples.csv").write_text("\n".join(lines) + "\n")
    centers = {name: {"dataset": "folder", "root": str(root), "role": "holdout"} for name, root in roots.items()}
    centers["old"] |= {"role": "train"}
    centers["seg"] = {"dataset": "kvasir-seg", "root": str(kvasir)}
    (told,) = make_plan(scenario(centers)).unchecked
    assert told.startswith("old trains and new is held out, and both are of bergen, as their datasets say")


def test_classes_that_nobody_trains_are_told(miniatures: Miniatures) -> None:
    centers = {
        "h": {"dataset": "hyperkvasir-labeled", "root": str(miniatures("hyperkvasir-labeled"))},
        "k": {"dataset": "kvasir-v2", "root": str(miniatures("kvasir-v2")), "role": "holdout"},
    }
    task = {"task": "classification", "training": {"loss": "cross-entropy"}, "model": {"name": "resnet18"}}
    raw = {"name": "t", "data": {"image_size": 32, "centers": centers, "audit": "drop"}, **task}
    plan = make_plan(parse(raw, "test"))
    (told,) = (text for text in plan.warnings if text.startswith("k: ") and "no hospital trains" in text)
    assert "normal-cecum" in told and "data.labels translates the classes" in told
    raw["data"] |= {"labels": "kvasir-8", "audit": "warn"}  # what is the same picture would be left out of training
    assert not any("no hospital trains" in text for text in make_plan(parse(raw, "test")).warnings)


def test_classes_that_are_spelt_in_two_ways_are_told(tmp_path: Path) -> None:
    centers = {}
    for seed, (name, classes) in enumerate({"a": ("Z_Line", "polyp"), "b": ("z-line", "polyp")}.items()):
        root = pictures(tmp_path / name, [f"{n}" for n in range(12)], seed)
        rows = [f"images/{n}.jpg,{classes[n % 2]}" for n in range(12)]
        (root / "samples.csv").write_text("\n".join(["image,label", *rows]))
        centers[name] = {"dataset": "folder", "root": str(root)}
    task = {"task": "classification", "model": {"name": "resnet18"}}
    plan = make_plan(parse({"name": "t", "data": {"image_size": 32, "centers": centers}, **task}, "test"))
    told = "Z_Line (a) and z-line (b) are different classes by their spelling alone; write them alike if they are one"
    assert [text for text in plan.warnings if "spelling" in text] == [told]


def test_a_holdout_says_that_its_split_has_no_say(kvasir: Path) -> None:
    there = pictures(kvasir.parent / "there", [f"{n}" for n in range(8)], seed=2)
    rows = [f"images/{n}.jpg,masks/{n}.jpg" for n in range(8)]
    (there / "samples.csv").write_text("\n".join(["image,mask", *rows]))
    centers = {
        "here": {"dataset": "kvasir-seg", "role": "holdout", "split": "official"},
        "there": {"dataset": "folder", "root": str(there)},
    }
    held = gather(scenario(centers), kvasir)
    assert "data.centers.here: a holdout is tested on all of it, its split has no say" in held.warnings


def test_folders_that_are_called_alike_are_hospitals_of_their_own(tmp_path: Path) -> None:
    for seed, name in enumerate(("oslo", "bergen")):
        root = pictures(tmp_path / name / "images", [f"{n}" for n in range(6)], seed)
        rows = [f"images/{n}.jpg,masks/{n}.jpg,patient-{n // 2}" for n in range(6)]
        (root / "samples.csv").write_text("\n".join(["image,mask,group", *rows]))
    centers = {
        "oslo": {"dataset": "folder", "root": str(tmp_path / "oslo" / "images")},
        "bergen": {"dataset": "folder", "root": str(tmp_path / "bergen" / "images"), "role": "holdout"},
    }
    held = gather(scenario(centers))
    assert held.leaks.empty and len(held.samples) == 12
    assert {"oslo/images/images/0.jpg", "bergen/images/images/0.jpg"} <= set(held.samples["sample"])
    assert held.samples["group"].nunique() == 6
    alone = gather(scenario({"oslo": centers["oslo"]}))  # nothing to be told apart from
    assert "images/images/0.jpg" in set(alone.samples["sample"])
    seen = survey([tmp_path], 32).samples["center"].value_counts()
    assert sorted(seen) == [6, 6] and all("images" in name for name in seen.index)


def test_links_called_alike_lead_to_hospitals_of_their_own(tmp_path: Path) -> None:
    for seed, name in enumerate(("oslo", "bergen")):
        root = pictures(tmp_path / "disk" / name, [f"{n}" for n in range(6)], seed)
        rows = [f"images/{n}.jpg,masks/{n}.jpg,patient-{n // 2}" for n in range(6)]
        (root / "samples.csv").write_text("\n".join(["image,mask,group", *rows]))
        (tmp_path / name).mkdir()
        (tmp_path / name / "data").symlink_to(root)
    centers = {
        name: {"dataset": "folder", "root": str(tmp_path / name / "data"), "role": role}
        for name, role in (("oslo", "train"), ("bergen", "holdout"))
    }
    held = gather(scenario(centers))
    assert held.leaks.empty and held.samples["group"].nunique() == 6
    assert {"oslo/images/0.jpg", "bergen/images/0.jpg"} <= set(held.samples["sample"])


def test_projects_whose_patients_are_numbered_alike_are_hospitals_of_their_own(
    miniatures: Miniatures, tmp_path: Path
) -> None:
    """Two exports of Supervisely; in both the patients are 0 to 5."""
    polyps = sorted((miniatures("supervisely") / "segmented-images" / "img").iterdir())
    for number, name in enumerate(("bergen", "cadiz")):
        root = tmp_path / name
        for part in ("img", "ann"):
            (root / "ward" / part).mkdir(parents=True)
        shutil.copy(miniatures("supervisely") / "meta.json", root)
        for place, image in enumerate(polyps[6 * number : 6 * number + 6]):
            shutil.copy(image, root / "ward" / "img" / f"{place}.jpg")
            annotation = json.loads((image.parents[1] / "ann" / f"{image.name}.json").read_text())
            annotation["tags"] = [{"name": "patient", "value": str(place)}]
            (root / "ward" / "ann" / f"{place}.jpg.json").write_text(json.dumps(annotation))
    cadiz = {"dataset": "supervisely", "root": str(tmp_path / "cadiz"), "role": "holdout"}
    held = gather(scenario({"bergen": {"dataset": "supervisely", "root": str(tmp_path / "bergen")}, "cadiz": cadiz}))
    assert held.leaks.empty and held.samples["group"].nunique() == 12
    assert "cadiz/supervisely/ward/0.jpg" in set(held.samples["sample"])


def test_a_folder_is_the_same_from_within(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = pictures(tmp_path / "ward", [f"{n}" for n in range(6)])
    (root / "samples.csv").write_text("\n".join(["image,mask", *(f"images/{n}.jpg,masks/{n}.jpg" for n in range(6))]))
    named = make_plan(scenario({"ours": {"dataset": "folder"}}), root)
    monkeypatch.chdir(root)
    assert make_plan(scenario({"ours": {"dataset": "folder"}}), Path()).hash == named.hash


def test_two_datasets_in_one_folder_keep_their_own_pictures(miniatures: Miniatures, tmp_path: Path) -> None:
    """As two archives lie that were unpacked side by side."""
    for name in ("bkai-neopolyp", "pranet"):
        shutil.copytree(miniatures(name), tmp_path, dirs_exist_ok=True)
    centers = {
        "hanoi": {"dataset": "bkai-neopolyp", "root": str(tmp_path)},
        "baerum": {"dataset": "pranet", "center": "kvasir", "root": str(tmp_path), "role": "holdout"},
    }
    held, seen = gather(scenario(centers)), survey([tmp_path], 32)
    assert set(seen.samples["dataset"]) >= {"bkai-neopolyp", "pranet"}
    for samples in (held.samples, seen.samples):
        for sample in samples.itertuples():
            with Image.open(tmp_path / sample.image) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            assert sample.pixels_sha256 == hashlib.sha256(pixels.tobytes()).hexdigest()
    plan = make_plan(scenario(centers)).samples
    assert plan.groupby("dataset")["store"].nunique().tolist() == [1, 1] and plan["store"].nunique() == 2


def test_one_folder_under_two_names_is_no_two_hospitals(tmp_path: Path) -> None:
    root = pictures(tmp_path / "ward", [f"{n}" for n in range(6)])
    (root / "samples.csv").write_text("\n".join(["image,mask", *(f"images/{n}.jpg,masks/{n}.jpg" for n in range(6))]))
    (tmp_path / "x").mkdir()
    places = {"a": str(root), "b": str(tmp_path / "x" / ".." / "ward")}
    with pytest.raises(UserError, match="hold the same 6 samples"):
        gather(scenario({name: {"dataset": "folder", "root": place} for name, place in places.items()}))


def test_pairs_and_pictures_speak_of_positions_in_samples(kvasir: Path) -> None:
    with Image.open(kvasir / "images" / "k03.jpg") as picture:
        picture.save(kvasir / "images" / "k04.jpg", quality=60)
    held = gather(scenario({"baerum": {"dataset": "kvasir-seg"}}), kvasir)
    (pair,) = held.pairs.itertuples()
    assert set(held.samples["sample"].iloc[[pair.i, pair.j]]) == {"kvasir-seg/k03", "kvasir-seg/k04"}
    assert held.samples["group"].iloc[pair.i] == held.samples["group"].iloc[pair.j]
    difference = held.picture(pair.i).astype(int) - held.picture(pair.j)
    assert np.abs(difference).mean() < 8
    mask = held.mask(pair.i)
    assert mask is not None and mask.shape == (32, 32) and mask.any()


def test_a_survey_takes_every_dataset_below_a_folder(kvasir: Path) -> None:
    held = survey([kvasir.parent], 32)
    assert set(held.samples["center"]) == {"kvasir-seg"} and len(held.samples) == 20
    with pytest.raises(UserError, match="no dataset found under"):
        survey([kvasir / "images"], 32)
    with pytest.raises(UserError, match="is a file, not a folder"):
        survey([kvasir / "train.txt"], 32)


def test_a_hospital_below_its_minimum_is_refused_in_one_sentence(kvasir: Path) -> None:
    partition = {"kind": "iid", "parts": 3, "minimum": 9}
    with pytest.raises(UserError, match=r"data.centers.baerum: a hospital would be left with .* partition.minimum"):
        gather(scenario({"baerum": {"dataset": "kvasir-seg", "partition": partition}}), kvasir)
