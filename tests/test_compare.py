"""`fedkvasir compare`: runs become methods, methods become tables, sentences and a page; what cannot be is told."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from fedkvasir.errors import UserError
from fedkvasir.evaluation.comparison import compare, holm
from fedkvasir.evaluation.intervals import intervals
from fedkvasir.evaluation.ranking import Ranking, rank
from fedkvasir.files import read_json, write_atomic
from fedkvasir.methods import methods_of
from fedkvasir.plan import NUMBERS, UNCHECKED
from fedkvasir.report import charts
from fedkvasir.report.comparison import tables
from fedkvasir.report.findings import Findings, find, ranking_sentence
from fedkvasir.report.tables import MINUS, csv_text
from fedkvasir.runs import Run
from tests.conftest import Command
from tests.report.crafted import CENTERS, Page, make_plan, make_run

IMAGES = {"train": 4, "val": 2, "test": 40}
"""Twenty groups of every center are tested on."""
SKILLS = {"fedavg": 0.7, "fedprox": 0.72, "fedadam": 0.5}

Craft = Callable[..., Run]


def craft_into(folder: Path) -> Craft:
    def craft(name: str, task: str = "segmentation", skill: float = 0.8, images: Any = IMAGES, **keys: Any) -> Run:
        """A run folder of this name; keys: of its scenario."""
        evaluation = keys.pop("evaluation", {})
        plan = make_plan(task, images=images, keys=keys, **evaluation)
        return make_run(folder / name, plan, rounds=1, skill=skill)

    return craft


@pytest.fixture
def craft(tmp_path: Path) -> Craft:
    return craft_into(tmp_path)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three algorithms, two seeds each."""
    craft = craft_into(tmp_path_factory.mktemp("runs"))
    return [
        craft(f"{name}-{seed}", skill=skill, algorithm=name, seed=seed).folder
        for name, skill in SKILLS.items()
        for seed in (1, 0)
    ]


@pytest.fixture(scope="module")
def findings(runs: list[Path]) -> Findings:
    return find(methods_of([str(run) for run in runs]), "all")


def words(text: str) -> str:
    return " ".join(text.split())


# ---- runs become methods


def test_seeds_of_one_scenario_are_one_method(runs: list[Path]) -> None:
    methods = methods_of([str(run) for run in runs])
    assert [method.name for method in methods] == list(SKILLS)
    assert [method.seeds for method in methods] == [(0, 1)] * 3
    assert methods[0].runs[0].folder == runs[1] and methods[0].differs == ("algorithm.name=fedavg",)


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ({}, {"algorithm": "fedprox"}, ["fedavg", "fedprox"]),
        ({}, {"model": {"name": "fpn"}}, ["unet", "fpn"]),
        ({}, {"algorithm": "fedprox", "training": {"lr": 0.1}}, ["fedavg", "fedprox"]),
        ({}, {"training": {"lr": 0.1}}, ["training.lr=0.001", "training.lr=0.1"]),
        ({}, {"question": "Another?", "resources": {"device": "cpu"}, "seed": 3}, ["fedavg"]),
        (
            {"algorithm": {"name": "fedprox", "mu": 0.1}},
            {"algorithm": {"name": "fedprox", "mu": 1.0}},
            ["algorithm.mu=0.1", "algorithm.mu=1.0"],
        ),
    ],
)
def test_a_method_is_called_by_what_differs(
    craft: Craft, first: dict[str, Any], second: dict[str, Any], names: list[str]
) -> None:
    folders = [craft(name, **keys).folder for name, keys in (("one", first), ("two", second))]
    assert [method.name for method in methods_of([str(folder) for folder in folders])] == names


def test_two_keys_and_then_the_folder_where_one_key_does_not_tell_methods_apart(craft: Craft) -> None:
    keys = [(lr, epochs, size) for lr in (0.1, 0.2) for epochs in (1, 2) for size in (4, 8)]
    folders = [
        str(craft(f"run-{index}", training={"lr": lr, "epochs": epochs, "batch_size": size}).folder)
        for index, (lr, epochs, size) in enumerate(keys)
    ]
    four = [method.name for method in methods_of(folders[::2])]
    assert four[:2] == ["training.lr=0.1, training.epochs=1", "training.lr=0.1, training.epochs=2"]
    assert [method.name for method in methods_of(folders)] == [f"run-{index}" for index in range(8)]


def seen_by(run: Run, catalog: str, pixels: str) -> str:
    """The folder of the run, made of other files: a listing and pixels with these hashes."""
    replace(run.plan, catalogs={CENTERS[0]: catalog}, pixels=dict.fromkeys(CENTERS, pixels)).save(run.folder)
    return str(run.folder)


def test_runs_on_other_images_are_no_seeds_of_one_method(craft: Craft) -> None:
    one, two = seen_by(craft("one"), "a", "1"), seen_by(craft("two", seed=1), "b", "1")
    first, second = methods_of([one, two])
    assert first.name.startswith("images=") and second.name.startswith("images=") and first.name != second.name
    with pytest.raises(UserError, match="FedAvg: its runs differ in images"):
        methods_of([f"FedAvg={one},{two}"])


def test_runs_from_before_a_change_of_numbers_are_no_seeds_of_one_method_with_those_after_it(craft: Craft) -> None:
    old, new = craft("old"), craft("new", seed=1)
    replace(old.plan, numbers=NUMBERS - 1).save(old.folder)
    first, second = methods_of([str(old.folder), str(new.folder)])
    assert (first.name, second.name) == (f"numbers={NUMBERS - 1}", f"numbers={NUMBERS}")
    with pytest.raises(UserError, match="FedAvg: its runs differ in numbers"):
        methods_of([f"FedAvg={old.folder},{new.folder}"])


def test_a_run_keeps_the_hash_that_its_folder_and_other_tables_call_it_by(craft: Craft, tmp_path: Path) -> None:
    """fedkvasir may be another since, and the list that it was split by gone."""
    (split := tmp_path / "split.csv").write_text("sample,split")
    run = craft("one", data=make_plan("segmentation").scenario.data.model_dump() | {"split_file": str(split)})
    split.unlink()
    facts = read_json(run.folder / "plan.json")
    write_atomic(run.folder / "plan.json", json.dumps(facts | {"hash": "of then"}))
    assert methods_of([str(run.folder)])[0].key == "of then"


@pytest.mark.parametrize("keys", [{"seed": 1}, {"algorithm": "fedprox"}, {}])
def test_images_that_changed_under_their_names_are_not_compared(craft: Craft, keys: dict[str, Any]) -> None:
    one, two = seen_by(craft("one"), "a", "1"), seen_by(craft("two", **keys), "a", "2" if keys else "1")
    saw = f"{one} and {two} saw other images or masks of {CENTERS[0]} under the same names"
    with pytest.raises(UserError, match=saw if keys else "are the same run"):
        methods_of([one, two])


def test_names_can_be_given(runs: list[Path]) -> None:
    methods = methods_of([f"ours={runs[2]},{runs[3]}", str(runs[0]), str(runs[1])])
    assert [(method.name, method.seeds) for method in methods] == [("ours", (0, 1)), ("fedavg", (0, 1))]


# ---- what is found


def test_numbers_are_those_of_the_statistics_with_holm_over_everything(findings: Findings) -> None:
    methods = {method.name: method.samples for method in findings.methods}
    expected = [pair for scope in ("seen", "unseen") for pair in compare(methods, scope)]
    assert [pair.p for pair in findings.pairs] == [pair.p for pair in expected]
    assert [pair.p_holm for pair in findings.pairs] == pytest.approx(list(holm([pair.p for pair in expected])))
    assert any(pair.p_holm > own.p_holm for pair, own in zip(findings.pairs, expected, strict=True))
    assert findings.rankings["unseen"] == rank(methods, "unseen")
    pd.testing.assert_frame_equal(findings.scores["fedadam"], intervals(methods["fedadam"]))


def test_reference_limits_the_pairs(runs: list[Path]) -> None:
    found = find(methods_of([str(run) for run in runs]), reference="fedavg")
    assert [(pair.first, pair.second, pair.scope) for pair in found.pairs] == [
        ("fedprox", "fedavg", "unseen"),
        ("fedadam", "fedavg", "unseen"),
    ]


def test_one_table_holds_every_number(findings: Findings, command: Command, runs: list[Path]) -> None:
    done = command("compare", *runs, "--scope", "all", "--format", "csv")
    table = pd.read_csv(io.StringIO(done.stdout))
    assert done.returncode == 0 and set(table["metric"]) == {"Dice"}
    for pair in findings.pairs:
        (row,) = table[
            (table["quantity"] == "difference")
            & (table["scope"] == pair.scope)
            & (table["method"] == pair.first)
            & (table["against"] == pair.second)
        ].to_dict("records")
        expected = [pair.difference, pair.low, pair.high, pair.p, pair.p_holm, pair.wins, pair.groups, pair.runs]
        columns = ["value", "low", "high", "p", "p_holm", "wins", "groups", "runs"]
        assert [row[name] for name in columns] == pytest.approx(expected, rel=1e-5)
    scores = table[(table["quantity"] == "score") & (table["method"] == "fedprox")]
    assert list(scores["center"].dropna()) == list(CENTERS) and list(scores["scope"])[:4] == ["seen"] * 3 + ["unseen"]
    assert set(table["quantity"]) >= {"gap", "rank", "friedman_p", "critical_difference", "worst", "percentile_10"}


def test_ranks_speak_of_these_seeds_alone() -> None:
    ranking = Ranking("Dice", {"a": 1.6, "b": 2.0, "c": 2.4}, 100, 1e-4, 0.33, (), ())
    assert ranking_sentence("unseen", ranking) == (
        "Ranks on unseen centers: with these seeds not all methods do equally well (Friedman's test over 100 groups by "
        "Dice, p < 0.001); average ranks 0.33 apart differ"
    )


def test_terminal_says_who_is_better_in_words_and_shows_every_table(
    findings: Findings, command: Command, runs: list[Path]
) -> None:
    done = command("compare", *runs, "--scope", "all")
    said = words(done.stdout)
    assert done.returncode == 0, done.stderr
    assert "fedavg is better than fedadam on unseen centers by 0." in said
    assert all(words(text) in said for text in findings.sentences)
    assert all(words(ranking_sentence(*item)) in said for item in findings.rankings.items())
    for table in (tables(findings)[name] for name in ("scores", "centers", "ranks", "fairness", "runs")):
        assert all(text in done.stdout for row in table.rows for text in (row.head, *table.texts(row)))


@pytest.mark.parametrize(("format", "begins"), [("markdown", "**Dice of every"), ("latex", r"\begin{table}")])
def test_tables_go_to_the_terminal_and_the_page_to_its_folder(
    command: Command, runs: list[Path], tmp_path: Path, format: str, begins: str
) -> None:
    done = command("compare", *runs, "--format", format, "--out", tmp_path)
    assert done.returncode == 0 and done.stdout.startswith(begins)
    assert done.stderr == f"{tmp_path / 'comparison.html'}\n"


def test_page_stands_alone_and_says_the_same_every_time(
    command: Command, findings: Findings, runs: list[Path], tmp_path: Path
) -> None:
    for folder in ("one", "two"):
        assert command("compare", *runs, "--scope", "all", "--out", tmp_path / folder).returncode == 0
    names = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert names == [
        "comparison.csv", "comparison.html", "critical-difference-seen.svg", "critical-difference-unseen.svg",
    ]  # fmt: skip
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    html = (tmp_path / "one" / "comparison.html").read_text(encoding="utf-8")
    shown = Page(html)
    assert len(html) < 8_000_000 and not shown.references and not shown.images
    assert not shown.tags & {"link", "iframe", "object", "embed"} and len(shown.scripts) == 1
    assert shown.headings == [1] + [2] * (len(shown.headings) - 1)
    assert all(words(text) in shown.text for text in findings.sentences)
    for table in tables(findings).values():
        assert all(shown.row(row.head) for row in table.rows)
    assert "Rendered data" in shown.text and "one run" not in shown.text
    for name in names[2:]:
        assert ElementTree.fromstring((tmp_path / "one" / name).read_text()).tag.endswith("svg")


def test_critical_difference_chart_names_every_method_once_and_draws_it_at_its_rank() -> None:
    ranks = {"a<b": 1.2, "second": 2.0, "a-name-that-is-much-too-long-for-a-chart": 3.1, "last": 3.7}
    chart = charts.critical_difference_chart(ranks, 1.0, (("a<b", "second"), ("second", "last")))
    root = ElementTree.fromstring(charts.standalone(chart))
    texts = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert sorted(text for text in texts if text and "." in text) == sorted(
        ["a<b 1.20", "second 2.00", "a-name-that-…for-a-chart 3.10", "last 3.70", "critical difference 1.00"]
    )
    paths = [element.attrib["d"] for element in root.iter("{http://www.w3.org/2000/svg}path")]
    ticks = [float(path[1:].split(" ")[0]) for path in paths if path.endswith("v-6")]
    drops = {float(path[1:].split(" ")[0]) for path in paths if "V" in path}
    expected = np.interp(list(ranks.values()), [1, 2, 3, 4], ticks)
    assert sorted(drops) == pytest.approx(sorted(expected), abs=0.11)


def test_one_method_has_its_intervals_and_no_test(command: Command, runs: list[Path]) -> None:
    done = command("compare", *runs[:2])
    assert done.returncode == 0 and "Wilcoxon" not in done.stdout
    assert "fedavg" in done.stdout and "[" in done.stdout


def test_one_run_a_method_is_said_to_hold_no_other_seed(command: Command, runs: list[Path], tmp_path: Path) -> None:
    command("compare", runs[0], runs[2], "--out", tmp_path)
    shown = Page((tmp_path / "comparison.html").read_text(encoding="utf-8"))
    assert "fedavg, fedprox: one seed; what another would change is in no interval and in no test" in shown.text


def test_few_seeds_are_named(findings: Findings) -> None:
    assert findings.cautions[-1].endswith(
        ": 2 seeds: the intervals allow for others, and are wide as there are so few; the tests are about these"
    )


def test_classification_without_holdouts(craft: Craft, command: Command, tmp_path: Path) -> None:
    folders = [
        craft(name, "classification", skill, {**IMAGES, "test": 40 if name else 0}, algorithm=name).folder
        for name, skill in (("fedavg", 0.6), ("fedprox", 0.1))
    ]
    for folder in folders:
        samples = Run(folder).samples
        write_atomic(folder / "samples.parquet", samples[samples["role"] == "train"].to_parquet(index=False))
    refused = command("compare", *folders)
    assert refused.returncode == 2
    assert refused.stderr == "fedkvasir: no test image of unseen centers in fedavg, fedprox: use --scope seen\n"
    done = command("compare", *folders, "--scope", "seen", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    said = words(done.stdout)
    assert "with one seed fedavg did better than fedprox on seen centers by 0." in said and "by accuracy" in said
    assert "nan" not in Page((tmp_path / "out" / "comparison.html").read_text()).text.lower().split()


# ---- what has to be told


def test_too_few_groups_are_not_tested_and_told(craft: Craft, command: Command) -> None:
    few = {**IMAGES, "test": 8}
    folders = [craft(name, skill=skill, images=few, algorithm=name).folder for name, skill in SKILLS.items()]
    done = command("compare", *folders)
    assert done.returncode == 0
    assert words(done.stdout).count("not tested: 4 groups, six are needed") == 4  # three pairs, and the ranks
    assert "p =" not in done.stdout and "p <" not in done.stdout
    assert words(done.stdout).count("fewer than 15 groups (dijon 4)") == 1


def test_center_with_only_empty_masks_is_named(craft: Craft, command: Command) -> None:
    folders = [craft(name, skill=skill, algorithm=name).folder for name, skill in list(SKILLS.items())[:2]]
    for folder in folders:
        samples = Run(folder).samples
        samples.loc[samples["center"] == "cadiz", ["tp", "fn"]] = 0
        write_atomic(folder / "samples.parquet", samples.to_parquet(index=False))
    done = command("compare", *folders, "--scope", "seen")
    assert done.returncode == 0 and "cadiz: only empty masks" in done.stdout


def test_images_that_one_method_alone_has_are_counted(craft: Craft, command: Command) -> None:
    folders = [craft(name, skill=skill, algorithm=name).folder for name, skill in list(SKILLS.items())[:2]]
    samples = Run(folders[1]).samples
    left_out = sorted(samples.loc[samples["role"] == "holdout", "sample"].unique())[:3]
    write_atomic(folders[1] / "samples.parquet", samples[~samples["sample"].isin(left_out)].to_parquet(index=False))
    said = " ".join(command("compare", *folders).stdout.split())
    assert "images that only fedavg has, left out: 3" in said
    assert "test images of dijon are not the same for all methods: a score is of the method's own" in said


def test_upper_bounds_and_leaks_are_told_first(craft: Craft, command: Command, tmp_path: Path) -> None:
    oracle = craft("oracle", evaluation={"select": "oracle"}).folder
    leaking = make_run(
        tmp_path / "leaking",
        make_plan("segmentation", warnings=("LEAKAGE: 2 pictures on both sides", f"{UNCHECKED}x.pth"), images=IMAGES),
    )
    methods = (f"best={oracle}", f"leaky={leaking.folder}")
    done = command("compare", *methods)
    first, second = done.stdout.splitlines()[:2]
    assert "best is an upper bound, not a result" in first
    assert "leaky: test and training data overlap: 2 pictures on both sides" in second
    assert "leakage not ruled out x.pth" in done.stdout
    for form in ("markdown", "latex"):
        exported = " ".join(command("compare", *methods, "--format", form).stdout.split())
        assert "Take care: best is an upper bound, not a result: its rounds were chosen by the holdout." in exported
        assert "Take care: leaky: test and training data overlap: 2 pictures on both sides." in exported
        assert "Leakage not ruled out: x.pth." in exported


# ---- what cannot be compared: one sentence, exit code 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fedavg", "other-task"], "fedavg is segmentation and classified is classification of normal, polyp, ulcer"),
        (["fedavg", "untested"], "fedprox: no records of split test, only of val"),
        (["fedavg", "elsewhere"], "no test image of unseen centers in common (fedavg 40, fedprox 40)"),
        (["fedavg", "cut"], "samples.parquet is cut short or broken; copy it again"),
        (
            ["fedavg", "unfinished"],
            "unfinished is not finished; `fedkvasir run` with the same scenario goes on with it",
        ),
        (["fedavg", "fedavg"], "fedavg is given twice; a run counts once"),
        (["fedavg", "copy"], "copy are the same run; a run counts once"),
        (["fedavg", "nothing"], "nothing is not a run folder (it holds no plan.json)"),
        (["both=fedavg,prox"], "both: its runs differ in algorithm.name; the runs of one method differ in nothing but"),
        (["ours="], "'ours=' is not of the form NAME=RUN,RUN"),
        (["fedprox=fedavg", "prox"], "two methods are called fedprox; give names, as in NAME=RUN,RUN"),
        (["fedavg", "prox", "--reference", "scaffold"], "scaffold is not among the methods: fedavg, fedprox"),
        (["fedavg", "prox", "--scope", "none"], "--scope none: use seen, unseen, all"),
        (["fedavg", "prox", "--format", "pdf"], "--format pdf: use text, markdown, latex or csv"),
    ],
)
def test_one_sentence_for_what_cannot_be_compared(
    craft: Craft, command: Command, tmp_path: Path, arguments: list[str], says: str
) -> None:
    craft("fedavg")
    if "prox" in " ".join(arguments):
        craft("prox", algorithm="fedprox")
    if arguments[-1] == "other-task":
        craft("other-task", "classification", model={"name": "classified"})
        arguments = ["fedavg=fedavg", "classified=other-task"]
    elif arguments[-1] in ("untested", "elsewhere", "cut"):
        run = craft(arguments[-1], algorithm="fedprox")
        samples = run.samples
        if arguments[-1] == "untested":
            samples = samples[samples["split"] == "val"]
        samples["sample"] = "elsewhere/" + samples["sample"]
        whole = samples.to_parquet(index=False)
        write_atomic(run.folder / "samples.parquet", whole[: len(whole) // 2] if arguments[-1] == "cut" else whole)
    elif arguments[-1] == "unfinished":
        make_run(tmp_path / "unfinished", make_plan("segmentation", keys={"seed": 1}), rounds=1, finish=False)
    elif arguments[-1] == "copy":
        shutil.copytree(tmp_path / "fedavg", tmp_path / "copy")
    done = command("compare", *arguments, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == ""
    assert says in done.stderr and done.stderr.count("\n") == 1


def test_tables_of_a_comparison_are_csv_too(findings: Findings) -> None:
    scores = pd.read_csv(io.StringIO(csv_text(tables(findings)["scores"]))).set_index("Method")
    low, score, high = scores.loc["fedprox", ["Unseen, low", "Unseen", "Unseen, high"]]
    assert low < score < high
    assert MINUS not in csv_text(tables(findings)["pairs"]).replace(f" {MINUS} ", "")
