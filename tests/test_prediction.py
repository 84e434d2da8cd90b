"""Predictions for pictures and videos outside any scenario: what is written, what is averaged, what is refused."""

import os
import re
import shutil
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.special import expit, softmax

from fedkvasir.data.datasets.synthetic import prepare
from fedkvasir.data.synthetic import render
from fedkvasir.data.synthetic.looks import LOOKS
from fedkvasir.errors import UserError
from fedkvasir.export import export
from fedkvasir.frames import find_sources
from fedkvasir.models.network import native_mask
from fedkvasir.prediction import OUTLINE, fuse, predict_images
from fedkvasir.runs import Run
from fedkvasir.simulation import run_scenario
from tests.conftest import TINY, Command, Miniatures

THRESHOLD = 0.46
"""After one round a network finds something and not everything at this probability."""
CHANGES = ("training.optimizer=adam", "training.lr=0.01", "federation.rounds=1", f"evaluation.threshold={THRESHOLD}")
PLAIN = [lambda maps: maps]
FLIPS = [*PLAIN, lambda maps: maps[..., ::-1], lambda maps: maps[..., ::-1, :], lambda maps: maps[..., ::-1, ::-1]]
"""Views of (..., H, W); each is its own inverse."""


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Run]:
    """``train("seed=1", ...)``: the tiny scenario, run for a round."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "tiny.yaml").write_text(TINY)
    return lambda *changes: run_scenario(
        folder / "tiny.yaml", (*CHANGES, *changes), out=folder / "runs", engine="local"
    )


@pytest.fixture(scope="module")
def one(train: Callable[..., Run]) -> Run:
    return train()


@pytest.fixture(scope="module")
def two(train: Callable[..., Run]) -> Run:
    """Another network, which sees pictures at a size that its stride does not divide."""
    return train("seed=1", "data.image_size=40")


@pytest.fixture(scope="module")
def classifier(train: Callable[..., Run]) -> Run:
    options = "data.options.synthetic={task: classification, patients_per_center: 16, image_scale: 0.1}"
    return train("task=classification", "model={name: lcnet_050}", "training.loss=cross-entropy", options)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six rendered pictures of three sizes, in subfolders."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, center in enumerate(["alta", "bergen", "edinburgh"] * 2):
        path = folder / f"ward-{number // 3}" / f"{center}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(render(LOOKS[center], "polyps", 7, number, scale=0.25)[0]).save(path)
    return folder


network = cache(Run.model)


def independent(runs: list[Run], path: Path, views: list[Callable] = PLAIN) -> np.ndarray:
    """(H, W) or (K,) mean of probabilities, float64, by OpenCV and numpy where the product uses torch."""
    pixels, found = cv2.imread(str(path))[..., ::-1], []
    for run in runs:
        size = run.plan.scenario.data.image_size
        small = cv2.resize(pixels, (size, size), interpolation=cv2.INTER_AREA).transpose(2, 0, 1) / np.float32(255)
        for view in views:
            with torch.inference_mode():
                logits = network(run)(torch.from_numpy(view(small)[None].copy()))[0].numpy()
            if run.plan.scenario.task == "classification":
                found.append(softmax(logits.astype(np.float64)))
            else:
                back = np.ascontiguousarray(view(logits)[0])
                found.append(expit(cv2.resize(back, pixels.shape[1::-1], interpolation=cv2.INTER_LINEAR)).astype(float))
    return np.mean(found, axis=0)


def mask(out: Path, name: str) -> np.ndarray:
    values = np.asarray(Image.open(out / name))
    assert values.dtype == np.uint8 and values.ndim == 2 and set(np.unique(values)) <= {0, 255}
    return values > 0


def differing(table: pd.DataFrame, out: Path, runs: list[Run], views: list[Callable]) -> int:
    """Pixels outside what rounding explains where masks are not the independent mean's; checks areas and scores."""
    different = 0
    for row in table.itertuples():
        found, expected = mask(out, row.mask), independent(runs, Path(row.image), views)
        assert found.shape == expected.shape
        different += np.count_nonzero((found != (expected > THRESHOLD)) & (abs(expected - THRESHOLD) > 1e-5))
        assert row.area_px == found.sum() and row.area_share == pytest.approx(found.mean())
        assert row.score == pytest.approx(expected[found].mean(), abs=1e-4) if found.any() else np.isnan(row.score)
    return different


# ---- what is written


def test_masks_carry_the_names_and_sizes_of_their_pictures(one: Run, pictures: Path, tmp_path: Path) -> None:
    table = predict_images([one], [pictures], tmp_path)
    assert list(table.columns) == ["image", "frame", "class", "mask", "area_px", "area_share", "score"]
    assert list(table["mask"]) == [f"ward-{n}/{c}.png" for n in (0, 1) for c in ("alta", "bergen", "edinburgh")]
    assert set(table["class"]) == {"polyp"} and table["frame"].isna().all() and table["area_px"].gt(0).any()
    for row in table.itertuples():
        assert mask(tmp_path, row.mask).shape == cv2.imread(row.image).shape[:2]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "predictions.csv"), table, check_dtype=False)
    assert {path.suffix for path in tmp_path.rglob("*") if path.is_file()} == {".png", ".csv"}


def test_masks_are_those_that_evaluation_scored(one: Run, tmp_path: Path) -> None:
    records = one.samples[one.samples["checkpoint"] == "best"].query("center == 'edinburgh'").set_index("sample")
    assert len(records) == 20
    images = prepare(patients_per_center=10, image_scale=0.2) / "edinburgh" / "images"
    table = predict_images([one], [images], tmp_path, batch_size=one.plan.scenario.training.batch_size)
    for row in table.itertuples():
        record = records.loc[f"synthetic/edinburgh/{Path(row.image).stem}"]
        assert row.area_px == record["tp"] + record["fp"]
        truth = np.asarray(Image.open(images.with_name("masks") / Path(row.mask).name)) > 127
        assert (mask(tmp_path, row.mask) & truth).sum() == record["tp"]


def test_overlays_are_the_pictures_with_an_outline(one: Run, pictures: Path, tmp_path: Path) -> None:
    table = predict_images([one], [pictures / "ward-0"], tmp_path, overlays=True)
    assert table["area_px"].gt(0).any()
    for row in table.itertuples():
        drawn = np.asarray(Image.open(tmp_path / "overlays" / Path(row.mask).with_suffix(".jpg"))).astype(int)
        plain, shown = cv2.imread(row.image)[..., ::-1].astype(int), mask(tmp_path, row.mask).astype(np.uint8)
        edge = shown - cv2.erode(shown, np.ones((3, 3)), borderValue=0) == 1
        far = cv2.dilate(edge.astype(np.uint8), np.ones((19, 19))) == 0  # JPEG smears within 8 pixels
        assert abs(drawn - plain)[far].mean() < 8
        assert not edge.any() or abs(drawn[edge].mean(axis=0) - OUTLINE).max() < 60


def test_several_classes_are_numbers_in_one_mask_and_rows_in_the_table(
    train: Callable[..., Run], miniatures: Miniatures, pictures: Path, tmp_path: Path
) -> None:
    root = miniatures("verse")
    centers = f"{{one: {{dataset: verse, root: '{root}', val: 0.2, test: 0.2}}}}"
    options = "data.options={verse: {plane: sagittal, every: 8, labels: vertebrae}}"
    run = train(f"data.centers={centers}", options)
    classes = list(run.plan.classes)
    assert len(classes) > 2
    table = predict_images([run], [pictures / "ward-0"], tmp_path)
    assert list(table["class"]) == classes * 3
    for name, rows in table.groupby("mask"):
        values = np.asarray(Image.open(tmp_path / str(name)))
        assert list(rows["area_px"]) == [np.count_nonzero(values == n) for n in range(1, len(classes) + 1)]


# ---- what is averaged


@pytest.mark.parametrize("tta", [None, "flips"])
def test_an_ensemble_is_the_mean_of_probabilities_over_runs_and_views(
    one: Run, two: Run, pictures: Path, tmp_path: Path, tta: str | None
) -> None:
    views = FLIPS if tta else PLAIN
    both = predict_images([one, two], [pictures], tmp_path / "both", tta=tta)
    assert differing(both, tmp_path / "both", [one, two], views) == 0
    assert differing(predict_images([two], [pictures], tmp_path / "one", tta=tta), tmp_path / "one", [two], views) == 0
    assert both["area_share"].between(0.1, 0.9).any()


def test_flips_change_something_and_turn_with_the_picture(one: Run, pictures: Path, tmp_path: Path) -> None:
    """Averaged over all flips, the mirror image has the mirrored mask."""
    turned = tmp_path / "turned"
    turned.mkdir()
    for path in (pictures / "ward-0").iterdir():
        cv2.imwrite(str(turned / path.name), cv2.imread(str(path))[:, ::-1])
    plain = predict_images([one], [pictures / "ward-0"], tmp_path / "a")
    straight = predict_images([one], [pictures / "ward-0"], tmp_path / "b", tta="flips")
    predict_images([one], [turned], tmp_path / "c", tta="flips")
    assert not plain["score"].equals(straight["score"])
    for name in straight["mask"]:
        assert np.mean(mask(tmp_path / "b", name) != mask(tmp_path / "c", name)[:, ::-1]) < 1e-3


def test_one_at_a_time_is_all_at_once_to_the_last_bit(one: Run, two: Run, pictures: Path, tmp_path: Path) -> None:
    tables = [
        predict_images([one, two], [pictures], tmp_path / str(slow), batch_size=4, one_at_a_time=slow)
        for slow in (False, True)
    ]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    for name in tables[0]["mask"]:
        assert (tmp_path / "False" / name).read_bytes() == (tmp_path / "True" / name).read_bytes()


def test_an_ensemble_run_holds_one_member_at_a_time_as_well(
    train: Callable[..., Run], pictures: Path, tmp_path: Path
) -> None:
    member = "{name: unet, decoder_channels: [16, 8, 8, 4, 4]}"
    run = train(f"model={{name: ensemble, encoder: tu-lcnet_050, members: [{member}, {member}]}}")
    tables = [predict_images([run], [pictures], tmp_path / str(slow), one_at_a_time=slow) for slow in (False, True)]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert differing(tables[1], tmp_path / "True", [run], PLAIN) == 0


def test_the_size_of_a_batch_changes_nothing(one: Run, pictures: Path, tmp_path: Path) -> None:
    tables = [predict_images([one], [pictures], tmp_path / str(size), batch_size=size) for size in (1, 16)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-5)
    for name in tables[0]["mask"]:
        assert np.mean(mask(tmp_path / "1", name) != mask(tmp_path / "16", name)) < 1e-4


def test_a_classifier_gives_labels_and_mean_probabilities(classifier: Run, pictures: Path, tmp_path: Path) -> None:
    table = predict_images([classifier, classifier], [pictures], tmp_path, tta="flips")
    names = list(classifier.plan.classes)
    columns = [f"p_{name}" for name in names]
    assert list(table.columns) == ["image", "frame", "label", *columns]
    found = table[columns].to_numpy()
    expected = [independent([classifier], Path(path), FLIPS) for path in table["image"]]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert list(table["label"]) == [names[index] for index in found.argmax(axis=1)]
    assert [path.name for path in tmp_path.iterdir()] == ["predictions.csv"]


def test_a_pixel_at_the_threshold_is_background_and_of_equal_classes_the_first_wins() -> None:
    assert not native_mask(torch.zeros(1, 4, 4), (7, 5), 0.5).any()
    assert native_mask(torch.full((2, 4, 4), 0.1), (7, 5), 0.5).tolist() == [[1] * 5] * 7


@given(st.integers(1, 7), st.floats(0.05, 0.95), st.integers(0, 2**32 - 1))
def test_networks_of_one_mind_have_the_mask_of_one_however_sure_they_are(
    count: int, threshold: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    logits = torch.from_numpy(rng.choice([-300, -5, -0.1, 0.1, 5, 300], (2, 4, 5)).astype(np.float32))
    found, mean = fuse([logits] * count, (4, 5), threshold)
    expected = expit(logits.double().numpy())
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    assert mean.max() <= 1
    near = (abs(expected - threshold) < 1e-5).any(axis=0)
    assert np.array_equal(found[~near], native_mask(logits, (4, 5), threshold)[~near])


# ---- where pictures come from


def test_patterns_folders_and_files_may_be_mixed_and_twice_is_once(one: Run, tmp_path: Path) -> None:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("x[1].png", "deep/y.png", "deep/z.png"):
        Image.new("RGB", (20, 20)).save(tmp_path / "in" / name)
    sources = [tmp_path / "in" / name for name in ("x[1].png", "**/y*", "deep")]
    table = predict_images([one], sources, tmp_path / "out")
    assert list(table["mask"]) == ["x[1].png", "y.png", "z.png"]
    assert list(table["image"]) == [str(tmp_path / "in" / name) for name in ("x[1].png", "deep/y.png", "deep/z.png")]


def stop_at_the_end(runs: list[Run], sources: list[Path], out: Path, **options: bool) -> None:
    """As Ctrl-C before the table is written: the masks are there."""

    def stop(done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        predict_images(runs, sources, out, progress=stop, **options)
    assert not (out / "predictions.csv").exists()


def test_hidden_files_other_files_and_own_masks_are_no_pictures(one: Run, pictures: Path, tmp_path: Path) -> None:
    for name in (".hidden.png", "deep/er/a.PNG", ".git/b.png", "notes.txt", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes((pictures / "ward-0" / "alta.png").read_bytes())
    for _ in range(2):
        stop_at_the_end([one], [tmp_path], tmp_path / "masks")
        assert (tmp_path / "masks" / "deep" / "er" / "a.png").is_file()
    table = predict_images([one], [tmp_path], tmp_path / "masks")
    assert list(table["mask"]) == ["deep/er/a.png"]


def test_folders_may_lie_as_deep_as_they_can(tmp_path: Path) -> None:
    levels = [tmp_path / "in"]
    for _ in range(1100):
        levels.append(levels[-1] / "d")
    for level in levels:
        level.mkdir()
    picture = levels[-1] / "last.png"
    picture.touch()
    assert [*find_sources(levels[:1], tmp_path / "out", Counter()).values()] == [picture]
    picture.unlink()
    for level in reversed(levels):  # what takes folders away would go as deep as Python cannot
        level.rmdir()


def test_linked_folders_are_searched_and_links_that_lead_nowhere_are_named(
    one: Run, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "linked").symlink_to(pictures / "ward-0")
    (tmp_path / "in" / "circle").symlink_to(tmp_path)
    (tmp_path / "in" / "gone.png").symlink_to(tmp_path / "not-fetched.png")
    with pytest.raises(UserError, match=r"1 of 4 files could not be read to the end: .*gone\.png \(.*No such file"):
        predict_images([one], [tmp_path / "in"], tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert list(table["mask"]) == [f"linked/{center}.png" for center in ("alta", "bergen", "edinburgh")]


def test_a_folder_that_may_not_be_read_is_named_and_the_others_are_predicted(
    one: Run, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    locked = tmp_path / "in" / "lost+found"  # as every disk has it
    locked.mkdir(parents=True)
    (tmp_path / "in" / "ward").symlink_to(pictures / "ward-0")
    monkeypatch.setattr(os, "access", lambda path, mode: path != locked)
    with pytest.raises(UserError, match=r"1 of 4 files could not be read to the end: .*lost\+found \(a folder"):
        predict_images([one], [tmp_path / "in"], tmp_path / "out")
    assert len(pd.read_csv(tmp_path / "out" / "predictions.csv")) == 3


def test_what_would_overwrite_something_is_refused_before_anything_is_written(
    one: Run, pictures: Path, tmp_path: Path
) -> None:
    a, b, c = (tmp_path / name for name in ("a/x.png", "b/x.jpg", "b/x/000002.png"))
    for path in (a, b, c):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (20, 20)).save(path)
    video = record(tmp_path / "b" / "x.avi", [np.zeros((24, 32, 3), np.uint8)] * 3)
    for sources, sentence in (
        ([a, b], "would write the same mask"),
        ([a.parent, b.parent], "would write the same mask"),
        ([c.parents[1], video], "would lie in one folder"),
    ):
        with pytest.raises(UserError, match=sentence):
            predict_images([one], sources, tmp_path / "out")
    with pytest.raises(UserError, match=r"the mask of .*x\.png would overwrite it"):
        predict_images([one], [a], tmp_path / "a")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "predictions.csv").write_text("image\n")
    with pytest.raises(UserError, match=r"used holds predictions already; name another folder for --out"):
        predict_images([one], [a], tmp_path / "used")
    assert (tmp_path / "used" / "predictions.csv").read_text() == "image\n"
    assert not (tmp_path / "out").exists() and np.asarray(Image.open(a)).shape == (20, 20, 3)


def test_true_masks_are_not_overwritten_and_a_prediction_that_was_stopped_is_made_again(
    one: Run, pictures: Path, film: list[np.ndarray], tmp_path: Path
) -> None:
    """Someone's masks beside the pictures, under the pictures' names; frames of a video; overlays of one's own."""
    clip = record(tmp_path / "clip.avi", film)
    sources = [pictures / "ward-0", clip]
    for name, more, sentence in (
        ("alta.png", {}, r"out/alta\.png is there already and would be overwritten; name another folder for --out"),
        ("clip/000003.png", {}, r"out/clip is there already"),
        ("overlays/alta.jpg", {"overlays": True}, r"out/overlays/alta\.jpg is there already"),
    ):
        truth = tmp_path / "out" / name
        truth.parent.mkdir(parents=True)
        truth.write_bytes(b"drawn by hand")
        with pytest.raises(UserError, match=sentence):
            predict_images([one], sources, tmp_path / "out", **more)
        assert [path for path in (tmp_path / "out").rglob("*") if path.is_file()] == [truth]
        assert truth.read_bytes() == b"drawn by hand"
        shutil.rmtree(tmp_path / "out")
    for _ in range(2):
        stop_at_the_end([one], sources, tmp_path / "out", overlays=True)
    (tmp_path / "out" / "bergen.jpg").write_bytes(b"no mask of a picture")
    table = predict_images([one], sources, tmp_path / "out", overlays=True)
    assert len(table) == 23 and not list((tmp_path / "out").glob(".*"))
    stop_at_the_end([one], [clip], tmp_path / "half")
    (tmp_path / "half" / "alta.png").write_bytes(b"drawn by hand")
    with pytest.raises(UserError, match=r"half/alta\.png is there already"):
        predict_images([one], sources, tmp_path / "half")


def test_memory_holds_two_batches_whatever_the_number_of_pictures(one: Run, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for number in range(40):
        Image.new("RGB", (600, 500), (number, 0, 0)).save(tmp_path / "many" / f"{number}.png")
    picture_bytes = 600 * 500 * 3
    tracemalloc.start()
    try:
        predict_images([one], [tmp_path / "many"], tmp_path / "out", batch_size=2)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 20 * picture_bytes  # of 40: batches of two, their masks and what decoding takes


# ---- videos


def record(path: Path, frames: list[np.ndarray], codec: str = "MJPG") -> Path:
    """Frames are RGB."""
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), 25.0, (width, height))
    for pixels in frames:
        writer.write(np.ascontiguousarray(pixels[..., ::-1]))
    writer.release()
    return path


@pytest.fixture(scope="module")
def film() -> list[np.ndarray]:
    """A camera that pans over a rendered polyp: 20 frames of 96 x 80."""
    wide = render(LOOKS["alta"], "polyps", 3, 1, scale=0.4)[0]
    return [wide[40:120, 3 * n : 3 * n + 96] for n in range(20)]


@pytest.mark.parametrize(("suffix", "codec"), [(".avi", "MJPG"), (".mp4", "mp4v"), (".MKV", "MJPG")])
def test_every_frame_of_a_video_gets_a_mask(
    one: Run, film: list[np.ndarray], pictures: Path, tmp_path: Path, suffix: str, codec: str
) -> None:
    clip = record(tmp_path / f"clip{suffix}", film, codec)
    table = predict_images([one], [clip, pictures / "ward-0"], tmp_path / "out", batch_size=8)
    assert list(table["mask"][:20]) == [f"clip/{n:06d}.png" for n in range(20)] and len(table) == 23
    assert list(table["frame"][:20]) == list(range(20)) and table["frame"][20:].isna().all()
    assert all(mask(tmp_path / "out", name).shape == (80, 96) for name in table["mask"][:20])
    some = predict_images([one], [clip], tmp_path / "some", every=6)
    assert list(some["frame"]) == [0, 6, 12, 18]
    np.testing.assert_allclose(some["score"], table["score"][[0, 6, 12, 18]], rtol=1e-4)
    assert len(list((tmp_path / "some" / "clip").iterdir())) == 4


def test_a_frame_is_predicted_like_the_same_picture(one: Run, film: list[np.ndarray], tmp_path: Path) -> None:
    record(tmp_path / "clip.avi", film, "FFV1")  # lossless
    cv2.imwrite(str(tmp_path / "frame.png"), film[7][..., ::-1])
    table = predict_images([one], [tmp_path / "clip.avi", tmp_path / "frame.png"], tmp_path / "out", every=7)
    assert np.mean(mask(tmp_path / "out", "clip/000007.png") != mask(tmp_path / "out", "frame.png")) < 0.01
    assert table["score"].iloc[1] == pytest.approx(table["score"].iloc[-1], abs=0.01)


# ---- bad pictures


def test_pictures_of_every_kind_get_masks_of_their_size(one: Run, pictures: Path, tmp_path: Path) -> None:
    colour = Image.open(pictures / "ward-0" / "alta.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "in").mkdir()
    deep = np.asarray(colour.convert("L")).astype(np.uint16) * 257
    for name, picture, options in (
        ("colour.png", colour, {}),
        ("grey.png", colour.convert("L"), {}),
        ("grey-alpha.png", colour.convert("LA"), {}),
        ("rgba.png", colour.convert("RGBA"), {}),
        ("palette.png", colour.quantize(255), {}),
        ("bits16.png", Image.fromarray(deep), {}),
        ("cmyk.jpg", colour.convert("CMYK"), {"quality": 98, "subsampling": 0}),
        ("turned.png", colour.transpose(Image.Transpose.ROTATE_90), {"exif": exif}),
        ("pixel.png", Image.new("RGB", (1, 1)), {}),
        ("line.png", Image.new("RGB", (301, 1)), {}),
    ):
        picture.save(tmp_path / "in" / name, **options)
    table = predict_images([one], [tmp_path / "in"], tmp_path / "out").set_index("mask")
    shapes = {name: mask(tmp_path / "out", name).shape for name in table.index}
    assert (shapes.pop("pixel.png"), shapes.pop("line.png")) == ((1, 1), (1, 301))
    assert len(shapes) == 8 and set(shapes.values()) == {colour.size[::-1]}
    same, grey = table["score"]["colour.png"], table["score"]["grey.png"]
    assert table["score"]["rgba.png"] == table["score"]["turned.png"] == same
    assert table["score"]["grey-alpha.png"] == table["score"]["bits16.png"] == grey
    assert table["score"][["cmyk.png", "palette.png"]].to_numpy() == pytest.approx(same, abs=0.02)


def test_what_cannot_be_read_is_named_when_the_rest_is_done(
    command: Command, one: Run, pictures: Path, film: list[np.ndarray], tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    clip = record(folder / "clip.avi", film)
    clip.write_bytes(clip.read_bytes()[: clip.stat().st_size * 2 // 3])
    for name in ("a.png", "cut.png", "z.png"):
        (folder / name).write_bytes((pictures / "ward-0" / "alta.png").read_bytes())
    (folder / "cut.png").write_bytes((folder / "cut.png").read_bytes()[:900])
    (folder / "text.jpg").write_text("no picture")
    done = command("predict", one.folder, folder, "--out", tmp_path / "out", "--batch-size", 2)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "3 of 5 files could not be read to the end: " in done.stderr
    for name in ("cut.png (", "text.jpg ("):
        assert f"in/{name}" in done.stderr
    (number,) = re.findall(r"clip\.avi \(ends after (\d+) of 20 frames\)", done.stderr)
    table = pd.read_csv(tmp_path / "out" / "predictions.csv")
    assert 0 < int(number) < 20 and list(table["frame"].dropna()) == list(range(int(number)))
    assert list(table["mask"][table["frame"].isna()]) == ["a.png", "z.png"]
    assert all((tmp_path / "out" / name).is_file() for name in table["mask"])
    assert f"{2 + int(number)} pictures predicted" in done.stdout


def test_where_nothing_could_be_read_the_folder_is_free_for_the_next_try(
    command: Command, one: Run, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture")
    call = ("predict", one.folder, "--out", tmp_path / "out")
    assert command(*call, tmp_path / "text.png").returncode == 2
    assert command(*call, pictures / "ward-0" / "alta.png").returncode == 0


def test_what_is_passed_over_in_folders_is_counted_in_the_end(
    command: Command, one: Run, pictures: Path, tmp_path: Path
) -> None:
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    page = Image.open(pictures / "ward-0" / "alta.png")
    for name in ("a.png", "anim.GIF", "deeper/b.gif", "c.webp"):
        page.save(tmp_path / "in" / name)
    page.save(tmp_path / "in" / "pages.tif", save_all=True, append_images=[page, page])
    page.save(tmp_path / "in" / "page.tif")
    (tmp_path / "in" / "README").touch()
    (tmp_path / "in" / "round").symlink_to("round")  # leads nowhere
    done = command("predict", one.folder, tmp_path / "in", "--out", tmp_path / "in" / "out", "--quiet")
    others, paged, last = done.stdout.splitlines()
    assert others == "files that are no picture or video that can be read: 4 (.gif 2, .webp 1, without suffix 1)"
    assert paged == f"files with several pages, of which the first was taken: 1 ({tmp_path}/in/pages.tif)"
    assert done.returncode == 0 and last.startswith("3 pictures predicted")
    done = command("predict", one.folder, tmp_path / "in" / "deeper", "--out", tmp_path / "none")
    assert done.returncode == 2 and "and files that are no picture or video that can be read: 1 (.gif 1)" in done.stderr


# ---- the command


def test_the_command_ends_with_what_it_did_and_how_fast(
    command: Command, one: Run, two: Run, pictures: Path, tmp_path: Path
) -> None:
    options = ("--tta", "flips", "--overlays", "--one-at-a-time", "--device", "cpu", "--quiet")
    done = command("predict", one.folder, two.folder, pictures, "--out", "masks", *options, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    line = r"6 pictures predicted in [\d.]+ s, [\d.]+ frames a second, peak memory \d+ MiB, in masks\n"
    assert re.fullmatch(line, done.stdout)
    assert (tmp_path / "masks" / "overlays" / "ward-1" / "bergen.jpg").is_file()


def test_runs_that_do_not_agree_are_refused(one: Run, two: Run, classifier: Run, train: Callable[..., Run]) -> None:
    other = train("evaluation.threshold=0.4")
    for run, sentence in (
        (classifier, "one task: .* has segmentation, .* has classification"),
        (other, "one evaluation.threshold: .* has 0.46, .* has 0.4"),
    ):
        with pytest.raises(UserError, match=sentence):
            predict_images([one, two, run], [Path()], Path("out"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["RUN"], "no picture, video or folder"),
        (["PICTURES"], "no run folder"),
        (["RUN", "nowhere"], "nowhere does not exist"),
        (["RUN", "no*where"], "no*where matches no file"),
        (["RUN", "EMPTY"], "no picture and no video in"),
        (["RUN", "PICTURES", "--tta", "flop"], "--tta flop: use flips"),
        (["RUN", "PICTURES", "--device", "tpu"], "--device tpu: use auto, cpu or cuda"),
        (["CLASSIFIER", "PICTURES", "--overlays"], "a classifier makes none"),
        (["CLASSIFIER", "PICTURES", "--out", "FILE"], "cannot be written (Not a directory); name another folder"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(
    command: Command, one: Run, classifier: Run, pictures: Path, tmp_path: Path, words: list[str], sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    known = {"RUN": one.folder, "CLASSIFIER": classifier.folder, "PICTURES": pictures}
    known |= {"EMPTY": tmp_path / "empty", "FILE": tmp_path / "file"}
    done = command("predict", "--out", "masks", *(known.get(word, word) for word in words), cwd=tmp_path)
    assert done.returncode == 2 and sentence in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "masks").exists()


def test_a_run_that_is_not_finished_is_not_applied(one: Run, pictures: Path, tmp_path: Path) -> None:
    shutil.copytree(one.folder, tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    for use in (lambda run: predict_images([run], [pictures], tmp_path / "out"), lambda run: export(run, "onnx")):
        with pytest.raises(UserError, match="run is not finished; `fedkvasir run` with the same scenario goes on"):
            use(Run(tmp_path / "run"))
        with pytest.raises(UserError, match="nowhere is not a run folder"):
            use(Run(tmp_path / "nowhere"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_cuda_without_a_gpu_is_refused(one: Run, pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="torch sees no GPU here"):
        predict_images([one], [pictures], tmp_path, device="cuda")
