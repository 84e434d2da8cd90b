"""What a terminal shows is whole, however narrow it is."""

import re

import pytest
from rich.console import Console

from fedkvasir.console import Screen, center_table, table_text
from fedkvasir.estimate import Estimate as Cost
from fedkvasir.report.centers import uncertainty
from fedkvasir.report.tables import Column, Estimate, Row, Table
from fedkvasir.runs import Run
from tests.report.crafted import CENTERS, make_plan, make_run


def screen_of(width: int) -> Screen:
    screen = Screen()
    screen.console = Console(force_terminal=True, width=width, color_system=None, soft_wrap=True)
    return screen


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"), make_plan("segmentation"))


@pytest.mark.parametrize("width", [30, 45, 80, 200])
def test_every_number_of_the_table_of_centers_stands_there_whole(
    width: int, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    screen_of(width).result(run)
    lines = capsys.readouterr().out.split("Dice: seen")[0].splitlines()
    assert max(map(len, lines)) <= width
    table = center_table(run.table(), "segmentation", uncertainty(run.records))
    for row in table.rows:
        said = " ".join(line for line in lines if line.startswith((row.head, " ")))
        texts = [part for text in table.texts(row) for part in re.split(r" (?=\[)", text)]
        assert all(text in said for text in texts)
    assert sum(line.startswith("center ") for line in lines) == {30: 4, 45: 2, 80: 1, 200: 1}[width]
    assert "holdout" in next(line for line in lines if line.startswith(CENTERS[-1]))


def test_weights_are_named_by_whether_they_are_the_best_or_the_last(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for best, said in (("b" * 64, f"{'b' * 64} (best, round 1), {'a' * 64} (last)"), ("a" * 64, "a" * 64)):
        facts = run.result | {"best_sha256": best, "weights_sha256": "a" * 64, "best_round": 1}
        with monkeypatch.context() as patch:
            patch.setattr(Run, "result", facts)
            screen_of(300).result(run)
        assert f"\nweights sha256 {said}\n" in re.sub(r" +\n", "\n", capsys.readouterr().out)


def test_the_plan_of_a_classification_names_the_classes(capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan("classification")
    screen_of(300).plan(plan, Cost(parameters=1, workers=1, step_s=1, total_s=1, worker_mib=1))
    counts = ", ".join(f"{name} {plan.class_counts[name]}" for name in plan.classes)
    assert f"\ntraining images of each class: {counts}\n" in re.sub(r" +\n", "\n", capsys.readouterr().out)


def test_into_a_file_a_table_is_as_wide_as_it_is(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    Screen().result(run)
    titles = re.split("  +", capsys.readouterr().out.splitlines()[0])
    assert titles == [
        "center",
        "role",
        "images",
        "Dice",
        "IoU",
        "Precision",
        "Recall",
        "Dice over images",
    ]


@pytest.mark.parametrize(("width", "parts"), [(30, 3), (50, 2)])
def test_parts_have_the_columns_in_common_that_tell_their_lines_apart(
    width: int, parts: int, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = tuple(Row("fedavg", "", (scope, *[Estimate(0.5, 0.4, 0.6)] * 3)) for scope in ("seen", "unseen"))
    last = (Row("pooled", "", ("", *[Estimate(0.7, 0.6, 0.8)] * 3)),)
    columns = tuple(map(Column, ("Scope", "Mean", "Worst", "Best")))
    screen_of(width)._table(Table("Fairness", columns, rows, last, head="Method"), kept=1)
    lines = capsys.readouterr().out.splitlines()
    assert sum(line.startswith("Fairness") for line in lines) == 1 and lines.count("") == parts - 1
    assert sum(line.startswith("fedavg  unseen") for line in lines) == parts
    assert sum(line.startswith("pooled") for line in lines) == parts


def test_words_are_folded_numbers_are_not() -> None:
    table = Table(
        "", (Column("Run folders"), Column("Mean of all centers")), (Row("fedavg", "", ("one, two, three", 0.5)),)
    )
    console = Console(width=26, record=True, color_system=None)
    console.print(table_text(table, narrow=True))
    said = console.export_text()
    assert "0.500" in said and "three" in said
