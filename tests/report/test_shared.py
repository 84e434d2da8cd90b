"""A run whose hospitals keep their per-image records has the same result, and says what it lacks."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fedkvasir.console import Screen
from fedkvasir.evaluation.comparison import compare
from fedkvasir.evaluation.groups import ROLES, STAYED
from fedkvasir.evaluation.shared import compare_here, share
from fedkvasir.methods import SEEN, Method, methods_of, of_study
from fedkvasir.report import build_report
from fedkvasir.report.centers import WITHHELD
from fedkvasir.report.comparison import build_comparison
from fedkvasir.report.findings import answer, find
from fedkvasir.report.sections import run_tables
from fedkvasir.report.study import build_study, outcome_of
from fedkvasir.report.tables import Interval, csv_text
from fedkvasir.runs import Checkpoint, Run
from fedkvasir.study import Study, validation_score
from tests.conftest import Command
from tests.report.crafted import CENTERS, TRAINING, keep_at_hospitals, make_plan, make_run, page
from tests.report.test_study import carry_out, make_scenario

IMAGES = {"train": 4, "val": 2, "test": 40}
"""Twenty groups of every center are tested on."""


def twins(folder: Path, task: str = "segmentation", images: dict[str, int] = IMAGES, **keys: object) -> list[Run]:
    """The same run with its per-image records and without them, in folders of one name."""
    name = str(keys.pop("name", "crafted"))
    skill = float(str(keys.pop("skill", 0.8)))
    run = make_run(folder / "whole" / name, make_plan(task, images=images, keys=keys), rounds=1, skill=skill)
    there = folder / "shared" / name
    shutil.copytree(run.folder, there)
    return [run, keep_at_hospitals(Run(there))]


@pytest.fixture(scope="module", params=["segmentation", "classification"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Run]:
    return twins(tmp_path_factory.mktemp(request.param), request.param)


def test_the_answer_and_the_table_of_centers_are_the_same(both: list[Run]) -> None:
    whole, shared = both
    pages, tables = [page(run) for run in both], [run_tables(run) for run in both]
    whole_table, shared_table = (own["centers"] for own in tables)
    assert replace(whole_table, rows=(), footer=()) == replace(shared_table, rows=(), footer=())
    rows = zip((*whole_table.rows, *whole_table.footer), (*shared_table.rows, *shared_table.footer), strict=True)
    for row, other in rows:
        assert (row.head, row.role) == (other.head, other.role)
        for value, found in zip(row.cells, other.cells, strict=True):  # draws come rounded
            near = isinstance(value, Interval)
            assert found == (pytest.approx(value, abs=1e-4, nan_ok=True) if near else value)
    (answer,) = (word for word in pages[0].words if "at hospitals that trained" in word)
    assert answer in pages[1].words
    assert validation_score(shared) == pytest.approx(
        whole.rounds.query("phase == 'val' and metric in ('dice', 'macro_f1')")["value"].mean()
    )


def test_what_could_not_be_computed_is_said(both: list[Run]) -> None:
    whole, shared = map(page, both)
    assert "What could not be computed" in shared.text and "What could not be computed" not in whole.text
    assert "there is no gallery" in shared.text and not shared.images
    assert not {"spread", "calibration", "confusion-seen"} & run_tables(both[1]).keys()


def test_the_standard_suite_of_every_center_is_shown(both: list[Run]) -> None:
    table = run_tables(both[1])["suite"]
    assert [row.head for row in table.rows] == list(CENTERS)
    headline = "Dice" if both[1].plan.scenario.task == "segmentation" else "F1"
    assert headline in table.titles and "MCC" in table.titles


def test_misses_and_sizes_of_few_are_withheld(tmp_path: Path) -> None:
    whole = make_run(tmp_path / "run", make_plan("segmentation", images=IMAGES), rounds=1)
    samples = whole.samples
    bergen = samples.index[(samples["checkpoint"] == "best") & (samples["center"] == "bergen")]
    samples.loc[bergen[:3], ["tp", "fn"]] = [[0, 300]] * 3
    samples.loc[bergen[20:], ["tp", "fn"]] = [20_000, 100]
    samples.to_parquet(whole.folder / "samples.parquet", index=False)
    before = run_tables(whole)
    after = run_tables(keep_at_hospitals(whole))
    rows = {row.head: row.cells for row in after["alarms"].rows}
    told = dict(zip(after["alarms"].titles, rows["bergen"], strict=True))
    assert (told["Images with polyp"], told["Missed"], told["Without polyp"]) == (40, WITHHELD, 0)
    assert after["alarms"].footer[0].cells[1:3] == (120, WITHHELD)
    assert before["alarms"].texts(before["alarms"].rows[0]) == after["alarms"].texts(after["alarms"].rows[0])
    assert csv_text(after["sizes"]) == csv_text(before["sizes"])


def test_a_mean_of_which_a_hospital_withholds_its_part_is_withheld(tmp_path: Path) -> None:
    """Of all but four of its images there is nothing to be found: of these it tells nothing but in its score."""
    whole = make_run(tmp_path / "run", make_plan("segmentation", images=IMAGES), rounds=1)
    samples = whole.samples
    bergen = samples.index[samples["center"] == "bergen"]
    samples.loc[bergen[samples.loc[bergen, "sample"].rank(method="dense") > 4], ["tp", "fn", "fp"]] = 0
    samples.to_parquet(whole.folder / "samples.parquet", index=False)
    tables = run_tables(keep_at_hospitals(whole))
    for name in ("suite", "sizes", "alarms"):
        rows = {row.head: {*row.cells[1:]} for row in (*tables[name].rows, *tables[name].footer)}
        assert WITHHELD in rows["bergen"] and WITHHELD in rows["Seen, mean"]
        assert name != "suite" or (rows["bergen"] == rows["Seen, mean"] == {WITHHELD})
        assert WITHHELD not in rows["aalborg"] and WITHHELD not in rows["Unseen, mean"]
    assert WITHHELD not in {cell for row in tables["centers"].rows for cell in row.cells}


def test_the_terminal_says_the_same_and_what_it_lacks(both: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    for run in both:
        Screen().result(run)
        said.append(capsys.readouterr().out.splitlines())
    tables = [said_here[1 : 2 + len(CENTERS)] for said_here in said]
    end = re.compile(r"\[[^\]]*, [^\]]*\]")  # draws come rounded: the last digit may be the next one
    assert [end.sub("", line) for line in tables[0]] == [end.sub("", line) for line in tables[1]]
    known = {end.sub("", line) for line in said[0]}
    lacking = [line for line in said[1] if end.sub("", line) not in known and "run folder" not in line]
    assert len(lacking) == 1 and lacking[0].startswith("not computed") and lacking[0].endswith(STAYED)


def test_a_run_to_which_one_hospital_sent_images_speaks_of_all(tmp_path: Path) -> None:
    plan = make_plan("segmentation", images=IMAGES)
    whole = make_run(tmp_path / "whole", plan, rounds=1)
    samples = whole.samples.query("split == 'test'")
    told = share(samples[samples["center"] != "bergen"], 0)
    run = Run(tmp_path / "mixed")
    run.start(plan, "remote", 1)
    rounds, last = whole.rounds, Checkpoint(1, {}, {}, best=1)
    run.finish(last, last, rounds, samples[samples["center"] == "bergen"], told)
    table = run.table()
    pd.testing.assert_frame_equal(table, whole.table()[table.columns])
    assert build_report(run).is_file()


# ---- comparisons


def compare_at_hospitals(methods: Sequence[Method], stored: dict[str, pd.DataFrame], keep: Run) -> None:
    """As the coordinator asks for it: every hospital compares the runs of two methods that it stored itself.

    stored: a run's hash -> its test records.
    """

    def table(runs: list[str], center: str, role: str) -> pd.DataFrame:
        own = pd.concat([stored[run] for run in runs])
        return own[(own["center"] == center) & (own["role"] == role)]

    first, second = methods
    centers = {(name.removesuffix(SEEN), ROLES[scope]) for name, scope in first.scopes.items()}
    parts = [
        compare_here({one.name: [table(runs, *place) for runs in one.runs_at(*place)] for one in methods}, 0)
        for place in sorted(centers)
    ]
    keep.keep_paired(pd.concat(parts, ignore_index=True).assign(first=first.key, second=second.key))


@pytest.fixture(scope="module")
def methods(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Run], list[Run]]:
    """Two algorithms, two seeds each."""
    folder = tmp_path_factory.mktemp("methods")
    runs = [
        twins(folder, name=f"{name}-{seed}", skill=skill, algorithm=name, seed=seed)
        for name, skill in {"fedavg": 0.6, "fedprox": 0.75}.items()
        for seed in (0, 1)
    ]
    whole, shared = [run for run, _ in runs], [run for _, run in runs]
    stored = {run.plan.hash: run.samples for run in whole}
    for _ in range(2):
        compare_at_hospitals(methods_of(folders(shared)), stored, shared[0])
    assert len(shared[0].paired) == len(CENTERS)
    return whole, shared


def folders(runs: list[Run]) -> list[str]:
    return [str(run.folder) for run in runs]


def test_methods_compare_as_with_all_records(methods: tuple[list[Run], list[Run]]) -> None:
    whole, shared = (find(methods_of(folders(runs)), "all") for runs in methods)
    for name in ("fedavg", "fedprox"):
        ends = ["low", "high"]  # of several runs on the safe side
        others = [own.scores[name].drop(columns=ends) for own in (shared, whole)]
        pd.testing.assert_frame_equal(*others, rtol=0, atol=1e-12)
        assert np.allclose(shared.scores[name][ends], whole.scores[name][ends], atol=0.02, rtol=0, equal_nan=True)
    assert [pair.scope for pair in shared.pairs] == ["seen", "unseen"]
    for found, expected in zip(shared.pairs, whole.pairs, strict=True):
        assert found.difference == pytest.approx(expected.difference, abs=1e-12)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-4)
        assert (found.wins, found.losses, found.groups) == (expected.wins, expected.losses, expected.groups)
    unseen, expected = shared.pairs[1], whole.pairs[1]
    assert unseen.p == pytest.approx(expected.p) and unseen.median == pytest.approx(expected.median)
    assert shared.missing == (f"ranks, the 10th percentile of images: {STAYED}",)


def test_the_other_way_round_the_parts_are_turned(methods: tuple[list[Run], list[Run]]) -> None:
    found = find(methods_of(folders(methods[1])), "unseen", "fedavg")
    turned = find(methods_of(folders([*methods[1][2:], *methods[1][:2]])), "unseen")
    records = [run.samples for run in methods[0]]
    (expected,) = compare({"fedprox": records[2:], "fedavg": records[:2]})
    for (pair,) in (found.pairs, turned.pairs):
        assert (pair.first, pair.second, pair.wins) == ("fedprox", "fedavg", expected.wins)
        assert pair.difference == pytest.approx(expected.difference, abs=1e-12)
        assert pair.low == pytest.approx(expected.low, abs=1e-4)


def test_what_no_hospital_was_asked_for_is_named(
    methods: tuple[list[Run], list[Run]], command: Command, tmp_path: Path
) -> None:
    shared = methods[1]
    found = find(methods_of(folders([shared[0], shared[2]])), "unseen")
    assert not found.pairs
    lacking = "fedavg against fedprox: not all hospitals of unseen centers have compared these runs"
    assert f"{lacking}, and {STAYED}" in found.missing
    assert lacking in build_comparison(found, tmp_path).read_text()
    done = command("compare", shared[0].folder, shared[2].folder)
    assert done.returncode == 0 and "not computed" in done.stdout


# ---- a study


@pytest.mark.slow
def test_a_study_says_the_same_of_hospitals_that_keep_their_records(tmp_path: Path) -> None:
    """Each center left out in turn, with hospitals that train alone: several runs make up a method's seed."""
    protocol = {"kind": "leave-one-center-out", "seeds": [0], "algorithms": ["fedavg"], "baselines": ["local"]}
    whole = carry_out(tmp_path / "whole", make_scenario(protocol, dict.fromkeys(TRAINING, "train")))
    shutil.copytree(tmp_path / "whole", tmp_path / "shared")
    shared = Study(tmp_path / "shared" / whole.folder.name)
    kept = [keep_at_hospitals(shared.run(name)) for name in shared.index["run"]]
    stored = {run.plan.hash: whole.run(run.folder.name).samples for run in kept}
    before = outcome_of(shared)
    assert before.findings is not None and not before.findings.pairs
    assert "whether that is chance was not tested" in answer(before.findings)
    assert "What could not be computed" in build_study(shared).read_text()

    methods = of_study(shared)
    compare_at_hospitals(methods, stored, kept[0])
    found, expected = find(methods, "all"), find(of_study(whole), "all")
    for name, scores in expected.scores.items():
        told = found.scores[name]
        assert list(told["center"]) == list(scores["center"])
        assert told["score"].to_numpy() == pytest.approx(scores["score"].to_numpy(), abs=1e-12)
        unseen = scores["scope"] == "unseen"
        assert told.loc[unseen, "low"].item() == pytest.approx(scores.loc[unseen, "low"].item(), abs=1e-4)
    assert len(found.pairs) == len(expected.pairs) == 2
    for pair, other in zip(found.pairs, expected.pairs, strict=True):
        assert (pair.first, pair.second, pair.scope) == (other.first, other.second, other.scope)
        assert (pair.wins, pair.ties, pair.losses) == (other.wins, other.ties, other.losses)
        assert pair.difference == pytest.approx(other.difference, abs=1e-12)
