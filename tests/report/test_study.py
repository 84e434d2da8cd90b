"""A study's page says what the records of its runs say, at any moment, in a file that needs nothing else."""

import base64
import json
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedkvasir.console import Screen
from fedkvasir.errors import RunFailed
from fedkvasir.evaluation.intervals import intervals
from fedkvasir.evaluation.protocol import center_table
from fedkvasir.files import write_atomic
from fedkvasir.methods import Method, of_study
from fedkvasir.plan import COLUMNS, Plan
from fedkvasir.points import cells
from fedkvasir.report import study as report
from fedkvasir.report.crossing import SHARES
from fedkvasir.report.findings import Findings, answer
from fedkvasir.report.study import build_study, outcome_of, study_tables
from fedkvasir.report.tables import MINUS, csv_text, latex, markdown
from fedkvasir.runs import Checkpoint, Run
from fedkvasir.scenario import LOCALS, Scenario, parse
from fedkvasir.study import Line, Study, best_setting, one_by_one
from fedkvasir.sweep import as_study
from tests.conftest import Command
from tests.report.crafted import CLASSES, Page, records

TRAINING, HOLDOUT = ("aalborg", "bergen", "cadiz"), "dijon"
ROUNDS, STEPS = 2, 3
SKILLS = {"fedavg": 0.72, "fedprox": 0.7, "pooled": 0.5, "local": 0.4}
QUESTION = 'Does <i>"A & B"</i> generalise?'


def make_scenario(protocol: Mapping[str, Any], roles: Mapping[str, str] | None = None, **keys: Any) -> Scenario:
    roles = roles or {**dict.fromkeys(TRAINING, "train"), HOLDOUT: "holdout"}
    dataset = keys.pop("dataset", "synthetic")
    raw = {
        "name": "crafted",
        "question": QUESTION,
        "data": {"centers": {name: {"dataset": dataset, "center": name, "role": role} for name, role in roles.items()}},
        "model": {"name": "unet"},
        "federation": {"rounds": ROUNDS},
        "protocol": protocol,
    }
    return parse({**raw, **keys}, "crafted")


def make_plan(scenario: Scenario, test: int = 24, warnings: tuple[str, ...] = ()) -> Plan:
    """test: images of every center, two a group."""
    task, counts = scenario.task, {"train": 6, "val": 4, "test": test}
    rows = [
        {
            "sample": f"synthetic/{name}/{split}-{index}",
            "dataset": center.dataset,
            "center": name,
            "role": center.role,
            "split": split,
            "group": f"synthetic/{name}/{split}-{index // 2}",
            "label": CLASSES[index % len(CLASSES)] if task == "classification" else None,
            "target": index % len(CLASSES) if task == "classification" else 0,
            "row": index,
            "store": "/nowhere",
            "width": 64,
            "height": 48,
        }
        for name, center in scenario.data.centers.items()
        for split, count in counts.items()
        if center.role == "train" or split == "test"
        for index in range(count)
    ]
    classes = CLASSES if task == "classification" else ("polyp",)
    rendered = all(center.dataset == "synthetic" for center in scenario.data.centers.values())
    samples, pixels = pd.DataFrame(rows)[list(COLUMNS)], dict.fromkeys(scenario.data.centers, "d" * 64)
    whole = Plan(scenario, samples, classes, {}, pixels, "cpu", "float32", warnings, rendered)
    alone = scenario.federation.train
    return whole.alone(alone) if alone in scenario.data.centers else whole


def make_run(out: Path, plan: Plan, steps: int = STEPS) -> Run:
    """A finished run: the better its method (SKILLS), the better it does, at home as at holdouts."""
    scenario = plan.scenario
    run = Run(out / plan.name)
    run.start(plan, "local", 1)
    train = scenario.federation.train
    method = scenario.algorithm.name if train == "each" else "local" if train in scenario.data.centers else train
    skill = SKILLS.get(method, 0.6) + 0.05 * scenario.training.lr
    training = plan.training_centers
    checkpoint = Checkpoint(0, {}, {})
    for number in range(1, ROUNDS + 1):
        rows = [
            {"round": number, "phase": "train", "center": center, "role": "train", "metric": "loss", "value": 1.0}
            | {"steps": steps * len(TRAINING) if center == "pooled" else steps, "seconds": 1.0}
            for center in training
            if train != LOCALS
        ]
        samples = records(plan, "val", tuple(scenario.data.centers), skill, 7 + scenario.seed)
        samples.insert(0, "checkpoint", str(number))
        checkpoint = Checkpoint(number, {"head.weight": np.full(2, number, np.float32)}, {}, best=number, wall_s=3.5)
        run.commit(checkpoint, pd.DataFrame(rows), samples)
    centers = plan.centers.index[plan.centers["test"] > 0]
    tested = pd.concat(
        [
            records(plan, "test", (name,), skill - 0.1 * (plan.centers.loc[name, "role"] == "holdout"), seed)
            for seed, name in enumerate(centers, 11 + 100 * scenario.seed)
        ]
    )
    both = pd.concat([tested.assign(checkpoint=name) for name in ("best", "last")], ignore_index=True)
    run.finish(checkpoint, checkpoint, pd.DataFrame(), both)
    return run


Execute = Callable[[Scenario], Run]


def carry_out(out: Path, scenario: Scenario, execute: Execute | None = None) -> Study:
    study = Study.of(scenario, out)
    study.carry_out(scenario, one_by_one(execute or (lambda own: make_run(out, make_plan(own)))))
    return study


def words(study: Study) -> Page:
    return Page(build_study(study).read_text(encoding="utf-8"))


def findings(study: Study) -> Findings:
    found = outcome_of(study).findings
    assert found is not None
    return found


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Four methods with two seeds, one of them every hospital alone."""
    protocol = {
        "kind": "holdout",
        "seeds": [0, 1],
        "algorithms": ["fedavg", "fedprox"],
        "baselines": ["pooled", "local"],
    }
    return carry_out(tmp_path_factory.mktemp("out"), make_scenario(protocol))


@pytest.fixture(scope="module")
def html(study: Study) -> str:
    return build_study(study).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def shown(html: str) -> Page:
    return Page(html)


# ---- the page


def test_page_stands_alone_and_leads_to_every_runs_own_report(study: Study, html: str, shown: Page) -> None:
    assert not shown.tags & {"link", "iframe", "object", "embed", "i", "img"} and len(shown.scripts) == 1
    links = [value for _, value in shown.references if not value.startswith("data:text/csv;base64,")]
    assert links == [f"../{name}/report.html" for name in study.index["run"]]
    assert all((study.folder / link).parent.is_dir() for link in links)
    assert shown.headings[0] == 1 and shown.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(shown.headings, shown.headings[1:], strict=False))
    assert QUESTION in shown.text and "10 of 10 runs finished" not in shown.text
    assert "nan" not in shown.text.lower().split() and "None" not in shown.text


def test_parts_stand_in_the_order_in_which_they_are_asked_for(html: str) -> None:
    assert re.findall("<h2>(.*?)</h2>", html) == [
        "Methods", "Against each other", "Ranks", "Center by center", "Trained at one hospital, tested at all",
        "Fairness", "Equal budget", "Runs", "Checks", "Environment", "To reproduce and to cite",
    ]  # fmt: skip
    first = [html.index(text) for text in (QUESTION[:5], 'class="answer"', "Rendered data", "<h2>Methods")]
    assert first == sorted(first)


def test_every_table_carries_its_numbers_as_csv(study: Study, html: str) -> None:
    links = dict(re.findall(r'<a class="csv" download="(\S+)\.csv" href="data:text/csv;base64,(\S+)"', html))
    tables = study_tables(study)
    assert list(tables) == [
        "scores",
        "centers",
        "pairs",
        "ranks",
        "fairness",
        "missed",
        "alone",
        "crossing",
        "steps",
        "runs",
    ]
    assert {name: base64.b64decode(data).decode() for name, data in links.items()} == {
        name: csv_text(table) for name, table in tables.items()
    }


# ---- what it says


def test_missed_polyps_are_counted_by_center(study: Study) -> None:
    table, counted = study_tables(study)["missed"], findings(study)
    assert [row.head for row in table.rows] == [method.name for method in counted.methods]
    for row, method in zip(table.rows, counted.methods, strict=True):
        records = pd.concat(method.samples)
        shown = records[records["tp"] + records["fn"] > 0]
        for center, percent in zip(table.titles, row.cells, strict=True):
            own = shown[shown["center"] == center]
            assert percent == pytest.approx(100 * (own["tp"] == 0).sum() / len(own))


def test_scores_are_those_of_the_statistics(study: Study, shown: Page) -> None:
    for method in of_study(study):
        found = intervals(method.samples)
        cells = shown.row(method.name)
        for scope in ("seen", "unseen", "gap"):
            row = found[found["scope"] == scope].iloc[0]
            text = f"{row['score']:.3f} [{row['low']:.3f}, {row['high']:.3f}]".replace("-", MINUS)
            assert text in cells, (method.name, scope)


def test_answer_names_the_best_method_and_what_it_is_shown_to_be_better_than(study: Study, shown: Page) -> None:
    found = findings(study)
    said = answer(found)
    assert said.startswith("fedavg has the highest Dice on unseen centers, 0.")
    assert (
        ", and is shown to be better than every other method. Against the next: fedavg is better than fedprox" in said
    )
    assert " ".join(said.split()) in shown.text.replace("\u00a0", " ")
    pairs = [replace(pair, low=-0.01) if pair.second == "fedprox" else pair for pair in found.pairs]
    said = answer(replace(found, pairs=tuple(pairs)))
    assert ", and is shown to be better than pooled and local, not than fedprox. Against the next: " in said
    # Ahead in every group, by less than the mean's interval.
    assert "Against the next: unclear: group by group fedavg is ahead of fedprox on unseen centers, p" in said


def test_one_seed_shows_no_method_to_be_better(study: Study) -> None:
    found = findings(study)
    said = answer(replace(found, pairs=tuple(replace(pair, runs=1) for pair in found.pairs)))
    assert ", but is not shown to be better than any other method. Against the next: " in said


def test_every_network_at_every_center_is_the_mean_over_seeds_of_the_runs_own_tables(study: Study, html: str) -> None:
    table, index = study_tables(study)["crossing"], study.index
    assert table.titles == (*TRAINING, HOLDOUT)
    assert [row.head for row in (*table.rows, *table.footer)] == [*TRAINING, "fedavg", "fedprox", "pooled"]
    for row in (*table.rows, *table.footer):
        own = index[(index["hospital"] == row.head) if row.head in TRAINING else (index["method"] == row.head)]
        scores = [study.run(name).table().set_index("center")["dice"] for name in own["run"]]
        assert len(scores) == 2
        np.testing.assert_allclose(
            row.cells, np.mean(scores, axis=0)[[list(scores[0].index).index(c) for c in table.titles]]
        )
        assert all(f"{score:.3f}</td>" in html for score in row.cells)
    home = [table.rows[place].cells[place] for place in range(3)]
    away = [row.cells[column] for place, row in enumerate(table.rows) for column in range(3) if column != place]
    sentence = f"{np.mean(home):.3f} at home, {np.mean(away):.3f} at the other hospitals, "
    assert sentence in html and re.findall(r'<td class="home"[^>]*>(.*?)</td>', html) == [
        f"{score:.3f}" for score in home
    ]


def test_lowest_score_has_the_least_colour_and_the_highest_the_most(html: str) -> None:
    cells = re.findall(r"--share: (\d+)%\">([\d.]+)</td>", html)
    shares = [int(share) for share, _ in sorted(cells, key=lambda cell: float(cell[1]))]
    assert shares == sorted(shares) and (shares[0], shares[-1]) == SHARES


def test_how_many_hospitals_do_better_than_alone_follows_from_their_scores(study: Study) -> None:
    def at_home(method: Method) -> pd.Series:
        tables = pd.concat([center_table(table) for table in method.samples])
        return tables[tables["role"] == "train"].groupby("center")["dice"].mean()

    scores = {method.name: at_home(method) for method in of_study(study)}
    table = study_tables(study)["alone"]
    assert [row.head for row in table.rows] == ["fedavg", "fedprox", "pooled"]
    for row in table.rows:
        beaten = scores[row.head] > scores["local"]
        worse = ", ".join(beaten.index[~beaten])
        assert row.cells == (len(beaten), beaten.sum(), pytest.approx(beaten.mean()), worse)


def test_training_alone_is_compared_over_the_seeds_that_both_have(tmp_path: Path) -> None:
    """Of FedProx one seed is there, of a hospital's own network the other one as well."""

    def execute(scenario: Scenario) -> Run:
        if scenario.algorithm.name == "fedprox" and scenario.seed == 1:
            raise RunFailed("too few")
        return make_run(tmp_path, make_plan(scenario))

    protocol = {"kind": "holdout", "seeds": [0, 1], "algorithms": ["fedavg", "fedprox"], "baselines": ["local"]}
    study = carry_out(tmp_path, make_scenario(protocol), execute)
    index = study.index[study.index["state"] == "finished"]

    def score(seed: int, center: str, **keys: str) -> float:
        rows = index[(index[list(keys)] == pd.Series(keys)).all(axis=1) & (index["seed"] == seed)]
        return float(study.run(rows["run"].item()).table().set_index("center").loc[center, "dice"])

    worse = [c for c in TRAINING if score(0, c, method="fedprox") <= score(0, c, method="local", hospital=c)]
    (row,) = (row for row in study_tables(study)["alone"].rows if row.head == "fedprox")
    assert row.cells[:2] == (3, 3 - len(worse)) and row.cells[3] == ", ".join(worse)


def test_rows_of_the_crossing_are_over_the_same_seeds(tmp_path: Path) -> None:
    def execute(scenario: Scenario) -> Run:
        if scenario.federation.train == "bergen" and scenario.seed == 1:
            raise RunFailed("too few")
        return make_run(tmp_path, make_plan(scenario))

    protocol = {"kind": "holdout", "seeds": [0, 1, 2], "algorithms": ["fedavg"], "baselines": ["local"]}
    study = carry_out(tmp_path, make_scenario(protocol), execute)
    table, index = study_tables(study)["crossing"], study.index
    assert table.caption.endswith("; seeds 0 and 2, which all have")
    for row in table.rows:
        own = index[(index["hospital"] == row.head) & index["seed"].isin([0, 2])]
        scores = [study.run(name).table().set_index("center")["dice"] for name in own["run"]]
        np.testing.assert_allclose(row.cells, pd.concat(scores).groupby("center").mean()[[*table.titles]])


def test_a_setting_that_lacks_a_seed_is_not_said_to_have_been_compared(tmp_path: Path) -> None:
    def execute(scenario: Scenario) -> Run:
        if scenario.training.lr == 1.0 and scenario.seed == 2:
            raise RunFailed("too few")
        return make_run(tmp_path, make_plan(scenario))

    protocol = {"kind": "holdout", "seeds": [0, 1, 2], "algorithms": ["fedavg"]}
    scenario = make_scenario(protocol, sweep={"grid": {"training.lr": [0.01, 1.0]}})
    text = words(carry_out(tmp_path, scenario, execute)).text
    assert "1 of 2 of fedavg" in text and "All of them ran" not in text
    assert "Of those that were finished with the most seeds the one with the best mean validation Dice" in text


@pytest.mark.parametrize("state", ["failed", "waiting"])
def test_methods_that_could_not_be_tuned_alike_are_not_said_to_be(tmp_path: Path, state: str) -> None:
    def execute(scenario: Scenario) -> Run:
        if scenario.algorithm.name == "fedprox" and scenario.training.lr > 0.01:
            raise RunFailed("too few") if state == "failed" else KeyboardInterrupt
        return make_run(tmp_path, make_plan(scenario))

    tune = {"training.lr": [0.01, 0.1, 1.0]}
    protocol = {"kind": "holdout", "seeds": [0], "algorithms": ["fedavg", "fedprox"], "tune": tune}
    scenario = make_scenario(protocol)
    with suppress(KeyboardInterrupt):
        carry_out(tmp_path, scenario, execute)
    text = words(Study.of(scenario, tmp_path)).text
    assert "Not all settings could be run, or are yet: 1 of 3 of fedprox; methods are not tuned alike" in text
    assert "same number of settings" not in text and "Those that were finished ran with seed 0" in text


def test_steps_are_those_of_the_rounds_and_said_to_be_equal(study: Study, shown: Page) -> None:
    whole, one = STEPS * ROUNDS * len(TRAINING), STEPS * ROUNDS
    cells = {(row.head, row.cells[0]): row.cells[1:] for row in study_tables(study)["steps"].rows}
    assert cells == {
        ("fedavg", "all"): (whole, whole), ("fedprox", "all"): (whole, whole), ("pooled", "all"): (whole, whole),
        ("local", "each alone"): (whole, whole), **{("local", name): (one, one) for name in TRAINING},
    }  # fmt: skip
    assert "Every method took the same number of steps" in shown.text


def test_methods_that_are_not_struck_alike_are_said_to_be_not_on_a_par(
    tmp_path: Path, study: Study, shown: Page, capsys: pytest.CaptureFixture[str]
) -> None:
    protocol = {"kind": "holdout", "seeds": [0], "algorithms": ["fedavg"], "baselines": ["pooled"]}
    faults = [{"kind": "dropout", "center": TRAINING[0], "probability": 0.5}]
    lossy = carry_out(tmp_path, make_scenario(protocol, faults=faults, federation={"rounds": ROUNDS, "quorum": 0.5}))
    Screen().study(lossy)
    said = "goes on without a hospital that fails, which loses its steps; pooled: asked again, or not struck"
    assert said in " ".join(capsys.readouterr().out.split()) and said in words(lossy).text
    assert not outcome_of(study).cautions and "Not on a par" not in shown.text


def test_page_names_rule_machine_protocol_data_and_what_a_baseline_is(shown: Page) -> None:
    assert "train-val : the round with the highest Dice on the training centers' validation" in shown.text
    assert "kind: holdout" in shown.text and "protocol: null" not in shown.text
    assert "local, 1 worker(s)" in shown.text and "one network, all images in one place" in shown.text
    assert "Rendered endoscopy" in shown.text and "contain patient images" not in shown.text


# ---- in other forms


@pytest.mark.parametrize("format", ["html", "markdown", "latex", "csv"])
def test_report_of_a_study_in_every_format(study: Study, html: str, command: Command, format: str) -> None:
    done, tables = command("report", study.folder, "--format", format), study_tables(study)
    assert done.returncode == 0, done.stderr
    if format == "html":
        assert Path(done.stdout.strip()).read_text(encoding="utf-8") == html
    elif format == "csv":
        paths = [Path(line) for line in done.stdout.split()]
        assert [path.stem for path in paths] == list(tables)
        assert all(path.read_text() == csv_text(tables[path.stem]) for path in paths)
    else:
        assert done.stdout == (latex if format == "latex" else markdown)(list(tables.values()))


def test_terminal_says_the_answer_and_shows_scores_and_crossing(
    study: Study, capsys: pytest.CaptureFixture[str]
) -> None:
    build_study(study)
    Screen().study(study)
    said = capsys.readouterr().out
    assert " ".join(answer(findings(study)).split()) in " ".join(said.split())
    for name in ("scores", "crossing", "alone"):
        table = study_tables(study)[name]
        assert all(text in said for row in (*table.rows, *table.footer) for text in (row.head, *table.texts(row)))
    assert f"report {study.folder / 'report.html'}" in said and "failed" not in said and "patient" not in said


# ---- in a browser, in light and dark


def luminance(colour: Sequence[float]) -> float:
    """Of sRGB in 0..255 (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def test_scores_are_readable_on_every_colour_in_light_and_dark() -> None:
    css = (Path(report.__file__).with_name("style.css")).read_text()
    for block in re.findall(r":root \{(.*?)\}", css, re.DOTALL)[:2]:
        hexes = dict(re.findall(r"--(page|ink|train): #(\w+)", block))
        page, ink, train = (
            np.array([int(part, 16) for part in re.findall("..", (h * 2 if len(h) == 3 else h))], float)
            for h in (hexes[name] for name in ("page", "ink", "train"))
        )
        for share in range(SHARES[0], SHARES[1] + 1):
            dark, light = sorted([luminance(ink), luminance(page + (train - page) * share / 100)])
            assert (light + 0.05) / (dark + 0.05) >= 4.5, share


MEASURE = """
const said = document.querySelector("pre"), found = [];
const measure = async width => {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width: ${width}px; height: 900px; border: 0`;
  await new Promise(done => { frame.onload = done; frame.srcdoc = page; document.body.append(frame); });
  const own = frame.contentDocument, root = own.documentElement;
  for (const details of own.querySelectorAll("details")) details.open = true;
  found.push([width, root.scrollWidth - root.clientWidth, frame.contentWindow.errors]);
  return own.querySelectorAll("th button").length;
};
(async () => {
  const buttons = [await measure(390), await measure(1440)];
  said.textContent = JSON.stringify([...found, buttons]);
})();
"""


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here")
def test_nothing_overflows_on_a_phone_or_a_desk_and_the_script_runs(html: str, tmp_path: Path) -> None:
    watched = html.replace("<head>", "<head><script>errors = []; onerror = text => errors.push(text)</script>", 1)
    page = json.dumps(watched).replace("</", "<\\/")
    path = tmp_path / "frames.html"
    path.write_text(f"<body><pre></pre><script>const page = {page};{MEASURE}</script></body>", encoding="utf-8")
    browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    command = [*browser, "--virtual-time-budget=20000", "--window-size=1500,1000", "--dump-dom", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    phone, desk, buttons = json.loads(re.findall("<pre>(.*?)</pre>", done.stdout)[0])
    assert phone == [390, 0, []] and desk == [1440, 0, []]
    assert buttons[0] == buttons[1] > 10


def test_the_same_records_give_the_same_bytes_wherever_they_lie(study: Study, html: str, tmp_path: Path) -> None:
    shutil.copytree(study.folder.parent, tmp_path / "elsewhere")
    report._outcome.cache_clear()
    copy = build_study(Study(tmp_path / "elsewhere" / study.folder.name))
    assert copy.read_text(encoding="utf-8") == html and len(html) < 8_000_000


# ---- other protocols


def test_center_left_out_in_turn_is_told_from_itself_when_it_trained(tmp_path: Path) -> None:
    scenario = make_scenario(
        {"kind": "leave-one-center-out", "seeds": [3], "baselines": ["local"]},
        dict.fromkeys(TRAINING, "train"),
    )
    shown = words(carry_out(tmp_path, scenario))
    assert "Trained at one hospital" not in shown.text
    assert [cells[1] for cells in shown.rows if cells[0] in (f"{TRAINING[0]} (seen)", TRAINING[0])][:2] == [
        "seen",
        "unseen",
    ]
    assert "over 3 centers left out in turn" in shown.text and "one seed; what another would change" in shown.text


def test_without_a_holdout_the_answer_is_about_seen_centers_and_says_so(tmp_path: Path) -> None:
    scenario = make_scenario(
        {"kind": "cross-site", "seeds": [0]},
        dict.fromkeys(TRAINING, "train"),
        task="classification",
        training={"loss": "cross-entropy"},
        model={"name": "resnet50"},
    )
    study = carry_out(tmp_path, scenario)
    said = answer(findings(study))
    assert re.match(r"(With one seed fedavg did better than local|No difference shown|Unclear).* on seen centers", said)
    assert said.endswith("; another seed might turn this; no hospital was held out, so this says nothing about others")
    table = study_tables(study)["crossing"]
    assert (len(table.rows), len(table.footer), table.titles) == (3, 1, TRAINING) and "held out" not in table.caption
    assert "Macro F1 at every center" in words(study).text


def test_one_method_has_no_other_to_be_compared_with(tmp_path: Path) -> None:
    study = carry_out(tmp_path, make_scenario({"kind": "holdout", "seeds": [0]}))
    assert "] on unseen centers with fedavg; there is no other method to compare it with." in words(study).text


def test_settings_that_were_tried_are_listed_with_the_one_that_counts(tmp_path: Path) -> None:
    tune = {"training.lr": [0.1, 1.0]}
    scenario = make_scenario({"kind": "holdout", "seeds": [0, 1], "algorithms": ["fedavg", "fedprox"], "tune": tune})
    study = carry_out(tmp_path, scenario)
    shown, table = words(study), study_tables(study)["settings"]
    assert "The same number of settings, 2, was tried of every method: training.lr at 0.1, 1.0." in shown.text
    assert "All of them ran with seed 0, and the one with the best validation Dice is what counts" in shown.text
    assert table.titles == ("Held out", "Setting", "Validation Dice", "Seeds", "Outcome") and len(table.rows) == 4
    for name in ("fedavg", "fedprox"):
        own = [row.cells for row in table.rows if row.head == name]
        assert [cells[4] for cells in own] == ["", "chosen"] and own[1][2] > own[0][2]


def test_without_a_validation_score_no_setting_is_called_chosen(tmp_path: Path) -> None:
    def execute(own: Scenario) -> Run:
        run = make_run(tmp_path, make_plan(own))
        if own.algorithm.name == "fedavg":  # nothing to be found in any of its validation images
            samples = run.samples
            samples[samples["split"] != "val"].to_parquet(run.folder / "samples.parquet", index=False)
        return run

    tune = {"training.lr": [0.1, 1.0]}
    scenario = make_scenario({"kind": "holdout", "seeds": [0], "algorithms": ["fedavg", "fedprox"], "tune": tune})
    study = carry_out(tmp_path, scenario, execute)
    assert "Where no setting of fedavg has a validation Dice, none could be chosen: the first that" in words(study).text
    outcomes = [(row.head, row.cells[4]) for row in study_tables(study)["settings"].rows]
    assert outcomes == [("fedavg", "stands, unchosen"), ("fedavg", ""), ("fedprox", ""), ("fedprox", "chosen")]


def test_centers_stand_in_the_same_order_in_every_table(tmp_path: Path) -> None:
    protocol = {"kind": "leave-one-center-out", "seeds": [0], "baselines": ["local"]}
    tables = study_tables(carry_out(tmp_path, make_scenario(protocol, dict.fromkeys(TRAINING, "train"))))
    assert tables["missed"].titles == tuple(row.head for row in tables["centers"].rows)
    assert [row.cells[0] for row in tables["steps"].rows if row.head == "local"] == ["each alone", *TRAINING]


@pytest.mark.slow
def test_what_was_drawn_from_a_grid_is_not_called_all_of_it(tmp_path: Path) -> None:
    grid = {"algorithm": ["fedavg", {"name": "fedprox", "mu": [0.01, 0.1]}], "training.lr": [0.1, 1.0]}
    for budget, said in (
        (None, ": all combinations."),
        (2, ": all combinations, or 2 drawn at random where there are more."),
    ):
        scenario = as_study(make_scenario({"kind": "holdout"}, sweep={"grid": grid, "budget": budget}))
        assert said in words(carry_out(tmp_path / str(budget), scenario)).text


# ---- what is not there, and what has to be told


def test_failed_run_is_shown_with_its_reason_and_its_seed_does_not_count(tmp_path: Path) -> None:
    def execute(own: Scenario) -> Run:
        if own.federation.train == "pooled" and own.seed == 1:
            raise RunFailed("the loss is <not> finite")
        return make_run(tmp_path, make_plan(own), STEPS + (own.federation.train == "pooled"))

    protocol = {"kind": "holdout", "seeds": [0, 1], "baselines": ["pooled"]}
    study = carry_out(tmp_path, make_scenario(protocol), execute)
    shown = words(study)
    assert "Not all runs could be made: 3 of 4 runs finished, 1 failed" in shown.text
    failed = [cells for cells in shown.rows if "failed" in cells]
    assert failed == [["pooled", HOLDOUT, "1", "failed", "the loss is <not> finite", "–", "–", "–", "–"]]
    assert "pooled has seed 0" in shown.text and "fedavg has" not in shown.text
    assert sum(value.endswith("report.html") for _, value in shown.references) == 3
    assert [row.cells for row in study_tables(study)["steps"].rows][1][1] == 2 * 3 * (STEPS + 1)
    assert "The methods did not take the same number of steps" in shown.text
    assert outcome_of(study).failures == [f"pooled, without {HOLDOUT}, seed 1: the loss is <not> finite"]


@pytest.mark.parametrize("done", [0, 1, 4])
def test_unfinished_study_shows_what_is_there(tmp_path: Path, done: int) -> None:
    protocol = {"kind": "holdout", "seeds": [0], "algorithms": ["fedavg", "fedprox"], "baselines": ["local"]}
    left = iter(range(done))

    def execute(own: Scenario) -> Run:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return make_run(tmp_path, make_plan(own))

    scenario = make_scenario(protocol)
    study = Study.of(scenario, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        study.carry_out(scenario, one_by_one(execute))
    shown = words(study)
    assert f"Not finished: {done} of 5 runs finished" in shown.text
    assert ("Nothing to compare" in shown.text) == (done == 0)
    assert ("local has none" in shown.text) == (done > 0)
    assert len([cells for cells in shown.rows if "waiting" in cells]) == 5 - done
    if done == 0:
        assert list(study_tables(study)) == ["runs"]
    if done == 4:  # two hospitals have trained alone
        assert [row.head for row in study_tables(study)["crossing"].rows] == list(TRAINING[:2])


def test_real_data_leaks_and_oracle_are_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    warnings = ("LEAKAGE: 2 pictures lie on both sides", "kvasir-seg: 1 image(s) without a mask")
    protocol = {"kind": "holdout", "seeds": [0], "algorithms": ["fedavg", "fedprox"], "select": "oracle"}
    study = carry_out(
        tmp_path,
        make_scenario(protocol, dataset="kvasir-seg"),
        lambda own: make_run(tmp_path, make_plan(own, warnings=warnings)),
    )
    shown = words(study)
    assert shown.text.count("test and training data overlap: 2 pictures lie on both sides") == 1
    assert shown.text.count("upper bounds, not results") == 1 and shown.text.count(warnings[1]) == 1
    assert "the reports of its runs contain patient images (Kvasir-SEG)" in shown.text
    assert "No picture, near-duplicate" not in shown.text
    Screen().study(study)
    said = capsys.readouterr().out
    assert "patient images (Kvasir-SEG)" in said and "take care every round was chosen by the holdout" in said


def test_diverged_run_leaves_the_table_of_runs_and_the_reason(tmp_path: Path) -> None:
    study = carry_out(tmp_path, make_scenario({"kind": "holdout", "seeds": [0], "algorithms": ["fedavg", "fedprox"]}))
    run = study.run(study.index["run"].iloc[0])
    samples = run.samples.astype({"tp": float})
    samples.loc[samples["center"] == "bergen", "tp"] = np.nan
    write_atomic(run.folder / "samples.parquet", samples.to_parquet(index=False))
    shown = words(study)
    assert "Nothing to compare: fedavg: 24 images of bergen have NaN as prediction" in shown.text
    assert len([cells for cells in shown.rows if "finished" in cells]) == 2


def test_an_axis_whose_values_are_groups_is_in_the_table_of_importance(tmp_path: Path) -> None:
    tune = {"training.loss": ["dice", {"name": "tversky", "alpha": 0.3}], "training.lr": [0.1, 1.0]}
    faults = [[], [{"kind": "dropout", "center": "bergen"}]]
    protocol = {"kind": "holdout", "seeds": [0], "algorithms": ["fedavg"], "tune": {**tune, "faults": faults}}
    table = study_tables(carry_out(tmp_path, make_scenario(protocol)))["importance"]
    assert {row.head: row.cells[:2] for row in table.rows} == {
        "training.loss": (2, 8), "training.lr": (2, 8), "faults": (2, 8),
    }  # fmt: skip


def test_what_is_finished_stands_in_the_index_from_the_beginning(tmp_path: Path) -> None:
    """The same command, stopped before it has done anything: nothing of the index is lost, nothing is run again."""
    scenario = make_scenario({"kind": "holdout", "seeds": [0, 1], "algorithms": ["fedavg", "fedprox"]})
    study, remark = carry_out(tmp_path, scenario), "run again with a GPU of its own: out of GPU memory beside others"
    before = study.index.assign(reason=[remark, "", "", ""])
    before.to_parquet(study.folder / "runs.parquet", index=False)
    shutil.rmtree(tmp_path / before["run"].iloc[2])
    asked: list[tuple[str, int]] = []

    def known(own: Scenario) -> Run | None:
        run = Run(tmp_path / make_plan(own).name)
        return run if run.finished else None

    def stopped(own: Scenario) -> Run:
        asked.append((own.algorithm.name, own.seed))
        raise KeyboardInterrupt

    damaged = tmp_path / before["run"].iloc[3] / "samples.parquet"
    damaged.write_bytes(damaged.read_bytes()[:100])  # told when it is run
    with pytest.raises(KeyboardInterrupt):
        study.carry_out(scenario, one_by_one(stopped), known=known)
    assert len(asked) == 1 and study.index["state"].tolist() == ["finished", "finished", "waiting", "waiting"]
    columns = ["reason", "validation", "unseen", "run", "hash", "chosen"]
    pd.testing.assert_frame_equal(study.index[columns].head(2), before[columns].head(2))


def test_a_setting_that_was_asked_for_twice_counts_once() -> None:
    (point,) = cells(make_scenario({"kind": "holdout", "seeds": [0], "algorithms": ["fedavg"]}))
    good, bad = point.at({"training.lr": 0.1}), point.at({"training.lr": 1.0})
    lines = [Line(good, state="finished", validation=0.9)]
    lines += [Line(bad, state="finished", validation=0.1) for _ in range(2)]
    assert best_setting(lines, point) == good.setting


def test_a_page_is_not_replaced_where_finished_runs_are_gone(tmp_path: Path, command: Command) -> None:
    study = carry_out(tmp_path, make_scenario({"kind": "holdout", "seeds": [0, 1], "algorithms": ["fedavg"]}))
    page = build_study(study).read_bytes()
    name = study.index["run"].iloc[1]
    shutil.rmtree(tmp_path / name)
    report._outcome.cache_clear()
    done = command("report", study.folder)
    assert done.returncode == 2 and f"1 of 2 finished runs are gone, e.g. {name}" in done.stderr
    assert (study.folder / "report.html").read_bytes() == page


def test_seeds_that_saw_other_images_are_not_compared(tmp_path: Path) -> None:
    protocol = {"kind": "holdout", "seeds": [0, 1], "algorithms": ["fedavg", "fedprox"]}
    study = carry_out(tmp_path, make_scenario(protocol))
    assert outcome_of(study).findings
    run = study.run(study.index["run"].iloc[1])
    replace(run.plan, pixels=dict.fromkeys(run.plan.pixels, "e" * 64)).save(run.folder)
    report._outcome.cache_clear()
    page = words(study)
    assert f"saw other images or masks of {TRAINING[0]} under the same names" in page.text
