"""A report says what the records say, in a file that needs nothing else."""

import base64
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedkvasir.evaluation.intervals import intervals
from fedkvasir.evaluation.protocol import summarise
from fedkvasir.files import write_atomic
from fedkvasir.metrics.classification import expected_calibration_error
from fedkvasir.plan import UNCHECKED
from fedkvasir.report import build_report, centers, sections
from fedkvasir.report.centers import NONE, Uncertainty, uncertainty
from fedkvasir.report.charts import Mark, Marks, estimates_chart
from fedkvasir.report.sections import run_tables
from fedkvasir.report.tables import MINUS, Estimate, Interval, csv_text, latex, markdown
from fedkvasir.runs import Run
from tests.conftest import Command
from tests.evaluation.records import classification
from tests.report.crafted import CENTERS, CLASSES, HOLDOUT, QUESTION, TRAINING, make_plan, make_run, page


@pytest.fixture(scope="module", params=["segmentation", "classification"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp(request.param), make_plan(request.param))


def test_the_same_folder_gives_the_same_bytes(finished: Run) -> None:
    first = build_report(finished).read_bytes()
    (finished.folder / "report.html").unlink()
    assert build_report(Run(finished.folder)).read_bytes() == first
    assert len(first) < 8_000_000


def test_page_stands_alone_and_is_well_formed(finished: Run) -> None:
    shown = page(finished)
    assert not shown.tags & {"link", "iframe", "object", "embed"}
    assert len(shown.scripts) == 1 and shown.scripts[0].count("\n") <= 42
    assert all(value.startswith("data:image/jpeg;base64,") for tag, value in shown.references if tag == "img")
    assert len(shown.images) == 3 * len(CENTERS)
    assert all(image["alt"] for image in shown.images)
    assert shown.headings[0] == 1 and shown.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(shown.headings, shown.headings[1:], strict=False))


def test_names_and_questions_are_escaped(finished: Run) -> None:
    shown = page(finished)
    assert QUESTION in shown.text
    assert "disk <full>" in shown.text
    assert "<worst>" in shown.text
    assert not shown.tags & {"i", "full", "worst"}


def test_table_holds_the_numbers_of_the_records(finished: Run) -> None:
    shown, table = page(finished), finished.table()
    for _, row in table.iterrows():
        cells = shown.row(row["center"])
        assert cells[1:4] == ["holdout" if row["role"] == "holdout" else "trains", "8", "4"]
        metrics = [name for name in ("dice", "iou", "dice_images", "macro_f1", "accuracy", "recall") if name in table]
        assert all(f"{row[name]:.3f}" in cells for name in metrics)
    summary = summarise(table, finished.plan.scenario.task)
    assert f"{summary.seen:.3f}" in shown.row("Seen")
    assert f"{summary.unseen:.3f}" in shown.row("Unseen")
    assert f"{summary.gap:.3f}" in [cell.replace("\u2212", "-") for cell in shown.row("Gap")]
    assert f"{summary.worst:.3f}" in shown.row(f"Worst: {summary.worst_center}")


def test_every_headline_number_carries_its_interval(finished: Run) -> None:
    shown, found = page(finished), intervals([finished.samples])
    heads, told = {"seen": "Seen, mean", "unseen": "Unseen, mean", "gap": "Gap"}, {}
    for row in found.itertuples():
        assert f"[{row.low:.3f}, {row.high:.3f}]".replace("-", MINUS) in shown.row(row.center or heads[row.scope])
        told[row.scope] = f"{row.score:.2f} [{row.low:.2f}, {row.high:.2f}]".replace("-", MINUS)
    assert len(found) == len(CENTERS) + 3
    answer = f"{told['seen']} at hospitals that trained, {told['unseen']} at dijon, which took no part: a gap of "
    assert answer + told["gap"] in shown.text
    assert shown.text.count("fewer than 15 groups (aalborg 4, bergen 4, cadiz 4, dijon 4)") == 1


@pytest.mark.parametrize(
    ("gap", "says"),
    [
        ((0.10, 0.02, 0.18), "a gap of 0.10 [0.02, 0.18]; worst"),
        ((0.10, -0.02, 0.22), "a gap of 0.10 [\u22120.02, 0.22], which may be chance; worst"),
        ((-0.10, -0.18, -0.02), "no gap, 0.10 [0.02, 0.18] better than at home; worst"),
        ((-0.10, -0.22, 0.02), "no gap, 0.10 [\u22120.02, 0.22] better than at home, which may be chance; worst"),
        ((0.0, -0.04, 0.03), "a gap of 0.00 [\u22120.04, 0.03]; worst"),
    ],
)
def test_gap_is_told_with_what_it_may_be(gap: tuple[float, float, float], says: str) -> None:
    table = pd.DataFrame({"center": ["a", "b"], "role": ["train", "holdout"], "dice": [0.6, 0.6 - gap[0]]})
    assert says in centers.answer(table, "segmentation", Uncertainty({("gap", ""): Interval(*gap[1:])}))


def test_a_gap_between_centers_that_show_other_classes_is_none_for_better_or_worse() -> None:
    table = pd.DataFrame({"center": ["a", "b"], "role": ["train", "holdout"], "macro_f1": [0.7, 0.8]})
    sure = Uncertainty({("gap", ""): Interval(-0.2, -0.05)}, other_classes=True)
    said = centers.answer(table, "classification", sure)
    told = "\u22120.10 [\u22120.20, \u22120.05] apart, but not all of them show the same classes; worst"
    assert told in said and "better" not in said
    both = pd.concat([classification(name, range(40), [0, 1] * 20, [0] * 40) for name in ("oslo", "rome")])
    assert not uncertainty(both).other_classes
    both.loc[both["center"] == "rome", "label"] = "class-2"
    assert uncertainty(both).other_classes


def test_what_was_not_looked_for_is_not_said_to_be_absent(tmp_path: Path) -> None:
    unchecked = "what imagenet.pth was trained on is not known"
    text = page(make_run(tmp_path, make_plan("segmentation", warnings=(UNCHECKED + unchecked,)))).text
    assert "As far as was looked, nothing lies on both sides of train and test." in text and unchecked in text
    assert "No picture, near-duplicate or group" not in text


def test_over_real_sites_the_machine_is_said_to_be_the_coordinators(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_plan("segmentation"))
    assert "Machine" in dict(sections.environment(run))
    path = run.folder / "environment.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"engine": "sites"}))
    names = [name for name, _ in sections.environment(run)]
    assert names == [
        "Coordinator's machine", "Coordinator's system", "Computed on", "Engine", "Coordinator's Python",
        "Coordinator's packages",
    ]  # fmt: skip


def test_diverged_run_has_a_report_that_says_why_there_is_no_interval(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_plan("classification"))
    samples = run.samples
    samples.loc[samples["center"] == "bergen", "p_polyp"] = np.nan
    write_atomic(run.folder / "samples.parquet", samples.to_parquet(index=False))
    assert "Intervals: none, the run: 8 images of bergen have NaN as prediction" in page(run).text


def test_misses_and_sizes_are_counted_from_the_pixels(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_plan("segmentation"))
    samples = run.samples
    best = samples.index[(samples["checkpoint"] == "best") & (samples["center"] == "bergen")]
    # Three polyps missed, one of them large; two images without a polyp, one of them with an alarm.
    samples.loc[best[:3], ["tp", "fn"]] = [[0, 300], [0, 300], [0, 20_000]]
    samples.loc[best[3:5], ["tp", "fp", "fn"]] = [[0, 40, 0], [0, 0, 0]]
    write_atomic(run.folder / "samples.parquet", samples.to_parquet(index=False))
    tables = run_tables(run)
    misses = next(row for row in tables["alarms"].rows if row.head == "bergen")
    assert misses.cells[1:] == (6, 3, 0.5, 2, 1, 0.5)
    sizes = next(row for row in tables["sizes"].rows if row.head == "bergen")
    assert tables["sizes"].titles[1::2] == ("Under 100x100 px: images", "100x100 to 200x200 px: images")
    assert (sizes.cells[1], sizes.cells[3], sizes.cells[4]) == (5, 1, 0.0)
    nowhere = next(row for row in tables["sizes"].rows if row.head == "aalborg")
    assert nowhere.cells[3] == 0 and np.isnan(nowhere.cells[4])


def test_confusion_counts_every_test_image_once(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_plan("classification"))
    tables, best = run_tables(run), run.samples[run.samples["checkpoint"] == "best"]
    for scope, role in (("seen", "train"), ("unseen", "holdout")):
        counts = np.array([row.cells for row in tables[f"confusion-{scope}"].rows])
        own = best[best["role"] == role]
        assert counts.sum(axis=1).tolist() == own["label"].value_counts().reindex(CLASSES).tolist()
        right = (
            own["label"].to_numpy() == np.array(CLASSES)[own[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(1)]
        )
        assert counts.trace() == right.sum()
    assert "What was taken for what" in page(run).text


def test_every_table_and_figure_carries_its_numbers_as_csv(finished: Run) -> None:
    html, tables = build_report(finished).read_text(encoding="utf-8"), run_tables(finished)
    links = re.findall(r'<a class="csv" download="(\S+)\.csv" href="data:text/csv;base64,(\S+)"', html)
    assert all(base64.b64decode(data).decode() == csv_text(tables[name]) for name, data in links)
    assert {name for name, _ in links} == set(tables)
    # Each stands right below what it belongs to, before anything else of the kind begins.
    below = re.findall(r'<table|<svg class="chart"|<a class="csv"', html)
    assert below[1::2] == ['<a class="csv"'] * len(links) and '<a class="csv"' not in below[::2]


def test_calibration_has_seen_and_unseen_centers_in_the_bins_of_the_calibration_error(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_plan("classification"))
    table, best = run_tables(run)["calibration"], run.samples[run.samples["checkpoint"] == "best"]
    assert len(table.rows) == 15 and table.rows[-1].head == "0.933 to 1.000"
    for first, scope, role in ((0, "seen", "train"), (4, "unseen", "holdout")):
        own = best[best["role"] == role]
        probabilities = own[[f"p_{name}" for name in CLASSES]].to_numpy()
        confidence, right = probabilities.max(axis=1), own["label"] == np.array(CLASSES)[probabilities.argmax(axis=1)]
        assert [row.cells[first] for row in table.rows] == np.histogram(confidence, 15, (0, 1))[0].tolist()
        filled = np.array([row.cells[first : first + 4] for row in table.rows if row.cells[first]])
        assert filled[:, 0] @ filled[:, 1] == pytest.approx(confidence.sum())
        assert filled[:, 0] @ filled[:, 2] == pytest.approx(right.sum())
        error = np.mean([expected_calibration_error(part) for _, part in own.groupby("center")])
        assert table.footer[0].cells[first : first + 4] == (len(own), "", "", pytest.approx(error))
        assert f"{error:.3f} at {scope} centers" in page(run).text
    html = (run.folder / "report.html").read_text(encoding="utf-8")
    assert html.count('<polyline class="line train"') == html.count('<polyline class="line holdout"') == 1


def test_without_holdout_calibration_is_that_of_seen_centers_and_masks_have_none(tmp_path: Path) -> None:
    run = make_run(tmp_path / "classification", make_plan("classification"))
    samples = run.samples
    write_atomic(run.folder / "samples.parquet", samples[samples["role"] == "train"].to_parquet(index=False))
    assert len(run_tables(run)["calibration"].columns) == 4
    assert "at unseen centers" not in page(run).text and "at seen centers" in page(run).text
    masks = make_run(tmp_path / "segmentation", make_plan("segmentation"))
    assert "calibration" not in run_tables(masks) and "Calibration" not in page(masks).text


def test_numbers_of_the_other_figures_are_those_of_the_records(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_plan("segmentation"))
    tables, best = run_tables(run), run.samples[run.samples["checkpoint"] == "best"]
    assert tables["spread"].titles == CENTERS and len(tables["spread"].rows) == 25
    for index, center in enumerate(CENTERS):
        own = best[best["center"] == center]
        dice = 2 * own["tp"] / (2 * own["tp"] + own["fp"] + own["fn"])
        assert sum(row.cells[index] for row in tables["spread"].rows) == len(own)
        quartiles = [row.cells[index] for row in tables["spread"].footer]
        assert quartiles == pytest.approx(np.quantile(dice, [0.25, 0.5, 0.75]))
    assert tables["curve-loss"].titles == TRAINING
    assert [row.cells[1] for row in tables["curve-loss"].rows] == pytest.approx([1.1, 0.6, 1 / 3 + 0.1, 0.35])
    assert tables["curve-dice"].titles == (*TRAINING, "mean of centers")
    assert tables["curve-dice"].rows[0].cells == pytest.approx((0.4, 0.37, 0.34, 0.37))


STEPS = """
const rows = () => [...document.querySelector("tbody").rows].filter(row => !row.hidden).map(row => row.dataset.center);
const head = document.querySelectorAll("thead th")[4], field = document.querySelector("#centers"), steps = [rows()];
for (const click of [1, 2, 3]) {
  head.querySelector("button").click();
  steps.push([head.getAttribute("aria-sort"), ...rows()]);
}
field.value = "DIJ, aal";
field.dispatchEvent(new Event("input"));
document.body.innerHTML = "<pre>" + JSON.stringify([...steps, rows()]) + "</pre>";
"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here")
def test_a_click_sorts_a_table_and_words_pick_centers(finished: Run, tmp_path: Path) -> None:
    """In a browser: the headline metric ascending, descending, as it was; then two centers by parts of their names."""
    path = tmp_path / "page.html"
    html = build_report(finished).read_text(encoding="utf-8")
    path.write_text(html.replace("</body>", f"<script>{{ {STEPS} }}</script></body>"), encoding="utf-8")
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    done = subprocess.run([*browser, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=200)
    before, up, down, again, picked = json.loads(re.findall("<pre>(.*)</pre>", done.stdout)[0])
    table = finished.table()
    metric = "dice" if "dice" in table else "macro_f1"
    orders = [list(table.sort_values(metric, ascending=up, kind="stable")["center"]) for up in (True, False)]
    assert before == again[1:] == list(CENTERS) and again[0] is None
    assert [up, down] == [["ascending", *orders[0]], ["descending", *orders[1]]]
    assert picked == ["aalborg", "dijon"]


def test_the_mean_of_centers_is_not_that_of_those_alone_that_were_heard_of(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", make_plan("segmentation"), rounds=3)
    rounds = run.rounds
    unheard = (rounds["round"] == 2) & (rounds["phase"] == "val") & (rounds["center"] == "bergen")
    rounds[~unheard].to_parquet(run.folder / "rounds.parquet", index=False)
    curve = run_tables(Run(run.folder))["curve-dice"]
    means = [row.cells[curve.titles.index("mean of centers")] for row in curve.rows]
    assert [pd.notna(value) for value in means] == [True, False, True]


@pytest.mark.parametrize("format", ["markdown", "latex", "csv"])
def test_every_table_of_the_report_in_other_formats(finished: Run, command: Command, format: str) -> None:
    done, tables = command("report", finished.folder, "--format", format), run_tables(finished)
    assert done.returncode == 0, done.stderr
    if format == "csv":
        paths = [Path(line) for line in done.stdout.split()]
        assert [path.stem for path in paths] == list(tables)
        written = pd.read_csv(paths[0]).set_index("Center")
        found = intervals([finished.samples]).set_index("center")
        for center in CENTERS:
            ends = written.loc[center, ["95 % interval, low", "95 % interval, high"]].astype(float)
            assert ends.tolist() == pytest.approx(found.loc[center, ["low", "high"]].tolist(), rel=1e-5)
    else:  # for a paper or a README, without the numbers of the figures
        shown = {
            name for name, table in tables.items() if (latex if format == "latex" else markdown)([table]) in done.stdout
        }
        assert shown == set(run_tables(finished, figures=False)) and "curve-loss" not in shown


def test_unknown_format_is_told(finished: Run, command: Command) -> None:
    done = command("report", finished.folder, "--format", "pdf")
    assert (done.returncode, done.stderr) == (2, "fedkvasir: --format pdf: use html, markdown, latex or csv\n")


def test_cost_counts_an_evaluation_once(finished: Run) -> None:
    # Four rounds of one training and one validation, then a test: 2 s and 4 MB down each, though an evaluation stands
    # in three rows.
    cells = [cells for cells in page(finished).rows if cells[0] == "aalborg"][-3]
    assert cells == ["aalborg", "trains", "12", "8.0", "10.0", "36.0", "16.0", "512"]


def test_speed_is_that_of_the_test_and_of_the_network_alone(finished: Run) -> None:
    """Eight test images a center in 2 s, half a second of it in the network."""
    cells = [cells for cells in page(finished).rows if cells[0] == "aalborg"][-2]
    assert cells == ["aalborg", "trains", "8", "4.0", "16.0", "512"]
    assert run_tables(finished)["speed"].footer[0].cells == ("", 32, 4.0, 16.0, 512.0)


def test_finished_run_names_rule_round_data_and_weights(finished: Run) -> None:
    text = page(finished).text
    assert "train-val : the round with the highest" in text and "Here: round 3." in text
    assert "Rendered data" in text and "patient images" not in text
    assert finished.result["weights_sha256"] in text
    assert "No picture, near-duplicate or group lies on both sides" in text
    assert "Not finished" not in text


@pytest.mark.parametrize("rounds", [0, 1, 2])
def test_unfinished_run_says_so_and_shows_what_is_there(tmp_path: Path, rounds: int) -> None:
    shown = page(make_run(tmp_path, make_plan("segmentation"), rounds, finish=False))
    assert f"Not finished: {rounds} of 4 rounds so far" in shown.text
    assert ("Training loss" in shown.text) == (rounds > 0)
    assert "which took no part" not in shown.text and "sha256 of the last" not in shown.text
    assert "Who holds what" in shown.text


def test_real_data_leaks_warnings_and_oracle_are_told(tmp_path: Path) -> None:
    warnings = ("LEAKAGE: 2 pictures lie on both sides", "kvasir-seg: 1 image(s) without a mask")
    run = make_run(tmp_path, make_plan("segmentation", "kvasir-seg", warnings, select="oracle"))
    shown = page(run)
    assert "this report contains patient images (Kvasir-SEG)" in shown.text
    assert "An upper bound, not a result" in shown.text
    assert "Holdout test Dice, rounds 1 to 4. At the end: dijon 0.600." in (run.folder / "report.html").read_text()
    assert all(text.removeprefix("LEAKAGE: ") in shown.text for text in warnings)
    assert "No picture, near-duplicate" not in shown.text
    links = [value for tag, value in shown.references if tag == "a" and not value.startswith("data:")]
    assert links == ["https://datasets.simula.no/kvasir-seg/"]
    assert "had a say" not in page(make_run(tmp_path / "leaking", make_plan("segmentation", warnings=warnings))).text
    exported = run_tables(run)["centers"].warnings
    assert exported[0] == "Test and training data overlap: 2 pictures lie on both sides."
    assert exported[1].startswith("An upper bound, not a result: ")


@pytest.mark.parametrize(
    ("roles", "dice", "says"),
    [
        ("tth", (0.8, 0.7, 0.5), "Dice 0.75 at hospitals that trained, 0.50 at c2, which took no part: a gap of 0.25"),
        (
            "thh",
            (0.8, 0.6, 0.5),
            "0.55 on average at c1 and c2, which took no part: a gap of 0.25; worst center c2 0.50",
        ),
        ("th", (0.6, 0.7), "which took no part: no gap, 0.10 better than at home; worst center c0 0.60"),
        ("th", (0.6, 0.601), "which took no part: a gap of 0.00; worst center"),
        ("tt", (0.6, 0.7), "Dice 0.65 at hospitals that trained; no hospital was held out"),
        ("th", (0.6, np.nan), "Dice 0.60 at hospitals that trained; no held-out image can be scored."),
        ("h", (0.6,), "Dice 0.60 at c0, which took no part; no training center has a score."),
        ("th", (np.nan, np.nan), "No test image can be scored"),
    ],
)
def test_answer_is_one_sentence_for_every_kind_of_run(roles: str, dice: tuple[float, ...], says: str) -> None:
    role = ["train" if letter == "t" else "holdout" for letter in roles]
    table = pd.DataFrame({"center": [f"c{index}" for index in range(len(roles))], "role": role, "dice": dice})
    said = centers.answer(table, "segmentation", Uncertainty())
    assert says in said and "nan" not in said


def test_gallery_stays_within_the_size_of_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, make_plan("segmentation"))
    one = sum(len(path.read_bytes()) for path in (run.folder / "gallery").glob("aalborg-*.jpg")) * 4 / 3
    monkeypatch.setattr(sections, "GALLERY_BYTES", int(2.5 * one))
    shown = page(run)
    assert len(shown.images) == 6
    assert "Left out to keep the report small: cadiz, dijon" in shown.text


def test_charts_of_many_centers_show_how_they_are_spread_and_the_lowest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (sections, centers):
        monkeypatch.setattr(module, "MANY", 2)
        monkeypatch.setattr(module, "LOWEST", 2)
    run = make_run(tmp_path, make_plan("segmentation"))
    shown, tables, scores = page(run), run_tables(run), run.table().set_index("center")["dice"]
    assert "Dice of the 2 lowest of 4 centers, each with its 95 % interval" in shown.text
    assert tables["spread"].titles == ("seen: 3 centers", "unseen: 1 center")
    middle = next(line for line in tables["spread"].footer if line.head == "Median")
    assert middle.cells == pytest.approx((scores[list(TRAINING)].median(), scores[HOLDOUT]))
    tenths = ("lowest tenth of centers", "median center", "highest tenth of centers")
    assert tables["curve-loss"].titles == tenths
    assert tables["curve-dice"].titles == (*tenths, "mean of centers")
    first = run.rounds.query("round == 1 and phase == 'train' and metric == 'loss'")["value"]
    assert tables["curve-loss"].rows[0].cells == pytest.approx(tuple(first.quantile([0.1, 0.5, 0.9])))


def test_center_without_a_score_is_a_dash(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_plan("segmentation"))
    samples = run.samples
    samples.loc[samples["center"] == HOLDOUT, ["tp", "fp", "fn"]] = 0
    write_atomic(run.folder / "samples.parquet", samples.to_parquet(index=False))
    shown = page(run)
    assert shown.row(HOLDOUT)[4] == "–"
    assert "nan" not in shown.text.lower().split()


@pytest.mark.parametrize(
    ("seen", "unseen"), [(0.184, 0.107), (0.208, 0.061), (0.5, 0.45), (0.45, 0.5), (0.95, 0.9), (0.9, 0.95), (0.9, 0.1)]
)
def test_no_line_of_a_mean_runs_through_the_label_of_the_other(seen: float, unseen: float) -> None:
    means = [
        (f"{name} {mean:.3f}", Mark(role, Estimate(mean, *NONE)))
        for name, role, mean in (("seen", "train", seen), ("unseen", "holdout", unseen))
    ]
    chart = estimates_chart([Marks("oslo", "train", (means[0][1],))], "Dice", (0, 0.25, 0.5, 0.75, 1), means)
    lines = {role: float(at) for role, at in re.findall(r'class="mean (\w+)" x1="([\d.]+)"', chart)}
    found = re.findall(r'class="label (\w+)" x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)"', chart)
    before = {"start": 0, "middle": 45, "end": 90}  # of the 90 that a label is wide
    labels = {role: (float(y), float(x) - before[anchor]) for role, x, y, anchor in found}
    (_, upper), (_, lower) = sorted((row, role) for role, (row, _) in labels.items())
    assert not labels[lower][1] < lines[upper] < labels[lower][1] + 90
