"""Near-duplicates are found by content, joined into groups, and never allowed on both sides."""

import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from fedkvasir.data.alignment import aligned_correlation
from fedkvasir.data.audit import join_groups, leaks, near_duplicates
from fedkvasir.data.datasets import cvc_clinicdb, find_dataset, find_root, kvasir_seg
from fedkvasir.data.fingerprint import content_box, fingerprint
from fedkvasir.errors import UserError
from fedkvasir.plan import UNCHECKED, make_plan
from fedkvasir.scenario import parse
from tests.data.test_fingerprint import bordered, recompressed, scene


def found(pictures: list[np.ndarray], hashes: list[str] | None = None) -> list[tuple[int, int, str]]:
    thumbs = np.stack([fingerprint(picture) for picture in pictures])
    pairs = near_duplicates(thumbs, hashes or [str(number) for number in range(len(pictures))])
    assert pairs["correlation"].between(0.99, 1).all()
    return list(zip(pairs["i"], pairs["j"], pairs["kind"], strict=True))


def joined(*pairs: tuple[int, int]) -> pd.DataFrame:
    i, j = zip(*pairs, strict=True)
    return pd.DataFrame({"i": i, "j": j, "kind": "near", "correlation": 0.995})


def field(number: int) -> np.ndarray:
    """An endoscope's picture: eight corners, and an inset that the recorder blacked out."""
    picture = scene(number)
    across, down = np.abs(np.arange(300) - 149.5) / 150, np.abs(np.arange(240) - 119.5) / 120
    picture[down[:, None] + across > 1.6] = 0
    picture[160:, :95] = 0
    return picture


def test_copies_are_found_whatever_was_done_to_them_and_others_are_not() -> None:
    pictures = [scene(number) for number in range(8)]
    copies = {
        0: recompressed(pictures[0], 60),
        1: cv2.resize(pictures[1], (90, 110), interpolation=cv2.INTER_AREA),
        2: recompressed(bordered(pictures[2], 5, 30, 120, 20)),
        3: recompressed(pictures[3][:, ::-1]),
        4: cv2.resize(pictures[4][::-1], (200, 200), interpolation=cv2.INTER_AREA),
        5: recompressed(bordered(pictures[5][:, ::-1], 0, 0, 100, 40)),
        6: pictures[6][6:-6, 8:-8],
        7: pictures[7][:, :-12],
    }
    kinds = ["near", "near", "crop", "mirror", "mirror", "mirror", "crop", "crop"]
    assert found([*pictures, *copies.values()]) == [(number, number + 8, kinds[number]) for number in range(8)]


def test_a_frame_is_found_under_another_border_and_with_its_inset_blacked_out() -> None:
    full = bordered(field(1), 14, 14, 34, 48, level=8)
    full[14 + 160 : 14 + 240, 30:129] = (20, 160, 130)
    assert found([field(1)[4:-3, 6:], full, field(2), field(3)]) == [(0, 1, "crop")]


def test_pictures_that_share_only_the_shape_of_the_field_are_not_the_same() -> None:
    assert found([field(number) for number in range(40)]) == []


def test_the_same_pixels_are_exact_whatever_they_show() -> None:
    black = np.zeros((64, 64, 3), np.uint8)
    assert found([scene(1), black, scene(1), black, black], ["a", "b", "a", "b", "c"]) == [
        (0, 2, "exact"),
        (1, 3, "exact"),
    ]


def test_nothing_to_compare_gives_an_empty_table() -> None:
    pairs = near_duplicates(np.zeros((0, 2, 32, 32), np.uint8), [])
    assert list(pairs.columns) == ["i", "j", "kind", "correlation"] and pairs.empty


def test_thumbnails_are_laid_over_each_other_only_where_both_show_tissue() -> None:
    whole, other = fingerprint(scene(1))[0], fingerprint(scene(2))[0]
    moved = fingerprint(scene(1)[8:, 12:-4])[0].copy()
    moved[22:, :11] = 0
    correlation = aligned_correlation(np.stack([whole, whole, whole]), np.stack([moved, other, np.zeros_like(whole)]))
    assert correlation[0] > 0.99 and correlation[1] < 0.9 and correlation[2] == 0


def test_pairs_join_groups_transitively() -> None:
    groups = ["video-1", None, float("nan"), "video-2", None]
    names = join_groups(groups, list("abcde"), joined((0, 1), (1, 2), (2, 3)))
    assert len(set(names[:4])) == 1 and names[4] == "e"


def test_a_leak_is_a_picture_or_a_group_on_both_sides_and_validation_counts_as_training() -> None:
    table = pd.DataFrame(
        {
            "sample": list("abcd"),
            "center": ["oslo", "oslo", "paris", "paris"],
            "group": ["g", "h", "g", "i"],
            "split": ["train", "val", "test", "test"],
        }
    )
    rows = leaks(table, joined((1, 3), (0, 1), (2, 3))).to_dict("records")
    assert rows[0] == {
        "kind": "picture",
        "train": "b",
        "test": "d",
        "train_center": "oslo",
        "test_center": "paris",
        "match": "near",
        "correlation": 0.995,
    }
    assert [(row["kind"], row["train"], row["test"]) for row in rows[1:]] == [("group", "g", "g")]
    assert leaks(table.assign(split="train"), joined((1, 3))).empty


@pytest.mark.slow
def test_22424_pictures_are_compared_in_five_seconds() -> None:
    """As many as HyperKvasir's labelled, Kvasir's and PolypGen's, with as many proposals as Kvasir-SEG and CVC have."""
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(32, 1 / 32), np.fft.fftfreq(32, 1 / 32)))
    frequency[0, 0] = 1
    noise = np.fft.fft2(np.random.default_rng(0).standard_normal((22424, 32, 32)).astype(np.float32))
    tissue = np.fft.ifft2(noise / frequency**2).real
    tissue /= tissue.std((1, 2), keepdims=True)
    views = np.clip(110 + 40 * tissue, 30, 255).astype(np.uint8) * (fingerprint(field(0))[0] > 24)
    thumbs, hashes = np.stack([views, views], axis=1), [str(number) for number in range(22424)]
    seconds = []
    for _ in range(2):
        began = time.perf_counter()
        assert near_duplicates(thumbs, hashes).empty
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 5, seconds


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
    ours = hospital(tmp_path / "ours", {f"o{number}": scene(number, 64, 80) for number in range(8)})
    copy = cv2.resize(scene(3, 64, 80)[:, ::-1], (120, 100))
    theirs = hospital(tmp_path / "theirs", {"t0": scene(8, 64, 80), "copy": copy})
    raw = scenario_of(ours, theirs)
    found = r"1 pictures or groups lie on both sides .*ours/o3.jpg = theirs/copy.jpg; say data.audit=drop to leave"
    with pytest.raises(UserError, match=found):
        make_plan(parse(raw, "test"))
    plan = make_plan(parse(scenario_of(ours, theirs, audit="warn"), "test"))
    assert any(text.startswith("LEAKAGE") for text in plan.warnings)


def test_what_weights_were_trained_on_is_found_by_content_also_where_it_is_left_out_here(tmp_path: Path) -> None:
    ours = hospital(tmp_path / "ours", {f"o{number}": scene(number, 64, 80) for number in range(8)})
    others = hospital(tmp_path / "others", {"t0": scene(8, 64, 80), "copy": scene(3, 64, 80)[:, ::-1]})
    raw = scenario_of(ours, others, audit="drop")
    beside = scenario_of(ours, hospital(tmp_path / "beside", {"b0": scene(9, 64, 80)}))
    make_plan(parse(beside, "test")).save(tmp_path / "run")
    (tmp_path / "run" / "best.safetensors").touch()
    weights = {"weights": str(tmp_path / "run" / "best.safetensors")}
    with pytest.raises(UserError, match="1 of 2 pictures tested here"):
        make_plan(parse({**raw, "model": {**raw["model"], **weights}}, "test"))


def test_what_weights_were_trained_on_is_found_under_other_names(tmp_path: Path) -> None:
    """The folder was copied since, under another name."""
    ours = hospital(tmp_path / "ours", {f"o{number}": scene(number, 64, 80) for number in range(8)})
    beside = hospital(tmp_path / "beside", {f"b{number}": scene(10 + number, 64, 80) for number in range(8)})
    make_plan(parse(scenario_of(ours, beside), "test")).save(tmp_path / "run")
    (tmp_path / "run" / "best.safetensors").touch()
    shutil.copytree(ours, tmp_path / "copied")
    raw = scenario_of(beside, tmp_path / "copied")
    raw["model"]["weights"] = str(tmp_path / "run" / "best.safetensors")
    with pytest.raises(UserError, match=r"8 of 8 pictures tested here, .*trained or chose the weights of .*run"):
        make_plan(parse(raw, "test"))


def test_what_weights_were_trained_on_is_found_re_encoded_while_its_store_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Kvasir-SEG is HyperKvasir's segmented images: the same pictures, written again under other names."""
    monkeypatch.setenv("FEDKVASIR_CACHE", str(tmp_path / "cache"))
    ours = hospital(tmp_path / "ours", {f"o{number}": scene(number, 64, 80) for number in range(8)})
    beside = hospital(tmp_path / "beside", {f"b{number}": scene(10 + number, 64, 80) for number in range(8)})
    make_plan(parse(scenario_of(ours, beside), "test")).save(tmp_path / "run")
    (tmp_path / "run" / "best.safetensors").touch()
    again = hospital(tmp_path / "again", {f"a{n}": cv2.resize(scene(n, 64, 80), (120, 100)) for n in range(8)})
    raw = scenario_of(beside, again)
    raw["model"]["weights"] = str(tmp_path / "run" / "best.safetensors")
    with pytest.raises(UserError, match=r"8 of 8 pictures tested here, .*trained or chose the weights of .*run"):
        make_plan(parse(raw, "test"))
    shutil.rmtree(tmp_path / "cache" / "stores")
    (warning,) = [text for text in make_plan(parse(raw, "test")).warnings if "model.weights" in text]
    assert warning.startswith(f"{UNCHECKED}model.weights: 8 of 8 pictures that trained") and "re-encoded" in warning


def test_validation_images_that_trained_the_weights_are_told(tmp_path: Path) -> None:
    """Dealt anew, what was learnt by heart would choose."""
    ours = hospital(tmp_path / "ours", {f"o{number}": scene(number, 64, 80) for number in range(8)})
    raw = scenario_of(ours, hospital(tmp_path / "other", {f"t{n}": scene(20 + n, 64, 80) for n in range(4)}))
    first = make_plan(parse(raw, "test"))
    first.save(tmp_path / "run")
    (tmp_path / "run" / "best.safetensors").touch()
    raw["model"]["weights"] = str(tmp_path / "run" / "best.safetensors")
    assert not any("model.weights" in text for text in make_plan(parse(raw, "test")).warnings)
    again = make_plan(parse({**raw, "data": {**raw["data"], "split_seed": 1}}, "test"))
    trained = first.samples.loc[first.samples["split"] == "train", "sample"]
    val = again.samples.loc[again.samples["split"] == "val", "sample"]
    (told,) = [text for text in again.warnings if text.startswith("model.weights")]
    assert f"{val.isin(trained).sum()} of {len(val)} validation images" in told


@dataclass(frozen=True)
class Real:
    names: list[str]
    files: list[Path]
    thumbs: np.ndarray
    pairs: pd.DataFrame
    sequences: list[str | None]
    groups: np.ndarray
    """Sequences, and pictures joined by their pairs."""


FROZEN = {
    ("cju30bmab08bi0835mvlr6e0r", "cju77k828z46w0871r0avuoo9"),
    ("cju76lsehyia10987u54vn8rb", "cju772304yw5t0818vbw8kkjf"),
    ("cju886ryxnsl50801r93jai7q", "cju8amfdtqi4x09871tygrgqe"),
}
"""One frozen picture, saved twice within seconds: only the clock printed into it differs."""
NEIGHBOURS = {("cju5fydrud94708507vo6oy21", "cju7avvi51iox0817ym55y6tt")}
"""Two frames of one scene, a second apart."""
CROPPED = {
    ("cju13hp5rnbjx0835bf0jowgx", "cjyzu9th0qt4r0a46pyl4zik0"),
    ("cju1dfeupuzlw0835gnxip369", "cjyzul1qggwwj07216mhiv5sy"),
    ("cju1g20bdwq6u0835e16xugcd", "cjyzurzvohqnr0794es1itzek"),
    ("cju2i6acqvo6l0799u20fift8", "cjz14qsk2wci60794un9ozwmw"),
    ("cju33za6l2qy70988jhrlp2ev", "cjyzjzssvd8pq0838f4nolj5l"),
    ("cju3tp94kfstl08181awh6z49", "cjyzk8qieoboa0848ogj51wwm"),
    ("cju45jpvfn6c809873pv1i34s", "cjyzkmjy8evns070165gf9dmq"),
    ("cju5ddda9bkkt0850enzwatb1", "cjyzkpsbjdsjq07211dfi4sru"),
    ("cju5jx7jzf7c90871c2i9aiov", "cjyzl833ndne80838pzuq6ila"),
    ("cju5y4hgqmk0i08180rjhbwvp", "cjyzlw7f9faqr070129au64sq"),
    ("cju77g99iyxc00817zqi2ppor", "cjyztzaqtrv430848l8xgcerw"),
    ("cju7b10ce1mnm08011c5bwyr4", "cjyzu3reghjya0794w7pwoi50"),
    ("cju7ehljc2or70871261br8ai", "cjyzufihqquiw0a46jatrbwln"),
    ("cju7fnfv02tt90801djnix9m8", "cjyzuio1qgh040763k56deohv"),
}
"""One frame with and without the recorder's border, text and inset; thirteen of them cross train.txt and val.txt."""


@pytest.fixture(scope="module")
def real(real_data: Path) -> Real:
    """Kvasir-SEG and CVC-ClinicDB."""
    roots = (("kvasir-seg", kvasir_seg), ("cvc-clinicdb", cvc_clinicdb))
    catalogs = [module.read(find_root(find_dataset(name), real_data, None)) for name, module in roots]
    table = pd.concat([catalog.table for catalog in catalogs], ignore_index=True)
    files = [catalog.root / path for catalog in catalogs for path in catalog.table["image"]]
    thumbs = prints(files)
    pairs = near_duplicates(thumbs, list(table["sample"]))
    groups = np.array(join_groups(list(table["group"]), list(table["sample"]), pairs))
    return Real(list(table["sample"]), files, thumbs, pairs, list(table["group"]), groups)


def prints(files: list[Path], change: str = "none") -> np.ndarray:
    def changed(path: Path) -> np.ndarray:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        if change == "small":
            pixels = recompressed(cv2.resize(pixels, (352, 352), interpolation=cv2.INTER_AREA))
        elif change == "mirror":
            pixels = recompressed(pixels[:, ::-1])
        elif change == "border":
            top, bottom, left, right = content_box(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY))
            pixels = recompressed(pixels[top:bottom, left:right])
        elif change == "edge":
            height, width = pixels.shape[:2]
            pixels = pixels[round(0.02 * height) : round(0.98 * height), round(0.02 * width) : round(0.98 * width)]
        return fingerprint(pixels)

    with ThreadPoolExecutor() as pool:
        return np.stack(list(pool.map(changed, files)))


def matched(real: Real, places: range, change: str) -> tuple[float, float, set[str]]:
    """Share of changed copies matched to the picture at their place, share of pairs of two groups, kinds."""
    copies = prints([real.files[place] for place in places], change)
    source = np.concatenate([np.arange(len(real.names)), places])
    pairs = near_duplicates(np.concatenate([real.thumbs, copies]), [str(number) for number in range(len(source))])
    i, j = source[pairs["i"]], source[pairs["j"]]
    false = real.groups[i] != real.groups[j]
    return len(set(i[i == j])) / len(places), false.mean(), set(pairs["kind"][i == j])


@pytest.mark.real
def test_real_kvasir_seg_has_its_known_pairs_and_none_with_barcelona(real: Real) -> None:
    ends: dict[str, set] = {"near": set(), "crop": set()}
    for i, j, kind in zip(real.pairs["i"], real.pairs["j"], real.pairs["kind"], strict=True):
        (dataset, first), (other, second) = (real.names[place].split("/") for place in (i, j))
        assert dataset == other
        if dataset == "kvasir-seg":
            ends[kind].add(tuple(sorted((first, second))))
    assert ends == {"near": FROZEN | NEIGHBOURS, "crop": CROPPED}


@pytest.mark.real
def test_real_pairs_of_clinicdb_lie_inside_a_sequence(real: Real) -> None:
    inside = [
        real.sequences[i] == real.sequences[j]
        for i, j in zip(real.pairs["i"], real.pairs["j"], strict=True)
        if real.names[i].startswith("cvc-clinicdb/")
    ]
    assert len(inside) > 10 and all(inside)


@pytest.mark.real
def test_real_pictures_are_matched_to_small_recompressed_copies_and_to_nothing_else(real: Real) -> None:
    share, false, kinds = matched(real, range(1000), "small")
    assert share >= 0.995 and false <= 0.001 and kinds == {"near"}


@pytest.mark.real
@pytest.mark.parametrize(
    ("change", "places", "kind", "least"),
    [
        ("mirror", range(0, 1000, 10), "mirror", 1),
        ("border", range(1000, 1600, 6), "crop", 1),  # CVC-ClinicDB has borders
        ("edge", range(0, 1000, 10), "crop", 0.9),
    ],
)
def test_real_pictures_are_matched_to_changed_copies(
    real: Real, change: str, places: range, kind: str, least: float
) -> None:
    """100 pictures mirrored, without their black border, or with 2 % cut off on every side."""
    share, false, kinds = matched(real, places, change)
    assert share >= least and false == 0 and kind in kinds
