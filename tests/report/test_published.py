"""What papers printed stands beside what a run found: typed in rightly, measured alike, marked as theirs."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from sklearn.metrics import f1_score, matthews_corrcoef, precision_score, recall_score

from fedkvasir.console import Screen
from fedkvasir.data.datasets import DATASETS
from fedkvasir.errors import UserError
from fedkvasir.files import write_atomic
from fedkvasir.metrics.segmentation import DISTANCES
from fedkvasir.plan import COLUMNS, Plan
from fedkvasir.report.published import published_of, published_table
from fedkvasir.report.sections import run_tables
from fedkvasir.report.tables import NOTHING, Table, csv_text
from fedkvasir.runs import ROUNDS, Run
from fedkvasir.scenario import PUBLISHED, Scenario, load
from tests.conftest import REPOSITORY
from tests.report.crafted import CLASSES, page, records

NAMES = sorted(path.stem for path in PUBLISHED.glob("*.yaml"))
SCENARIOS = {path.stem: load(path) for path in sorted((REPOSITORY / "scenarios").glob("*.yaml"))}
BESIDE = {name: scenario for name, scenario in SCENARIOS.items() if scenario.published}


def finished(folder: Path, scenario: Scenario) -> Run:
    """A finished run of a scenario, with a few made-up images of every part that it tests or validates."""
    # The hospitals that a center is cut into have no test images: they stay with the center.
    hospitals, centers = scenario.data.hospitals, scenario.data.centers
    parts = [(center, home, split) for center, home in hospitals.items() for split in ("train", "val")]
    parts += [(center, center, "test") for center in centers]
    rows = [
        {"center": center, "role": centers[home].role, "split": split, "row": index}
        | {"sample": f"{center}/{split}-{index}", "group": f"{center}/{split}-{index // 2}"}
        | {"dataset": centers[home].dataset, "target": index % 3, "label": CLASSES[index % 3]}
        for center, home, split in parts
        for index in range(6)
    ]
    samples = pd.DataFrame(rows).reindex(columns=list(COLUMNS))
    classes = ("polyp",) if scenario.task == "segmentation" else CLASSES
    plan = Plan(scenario, samples, classes, {}, "d" * 64, "cpu", "float32", (), True)
    run = Run(folder)
    run.start(plan, "local", 1)
    for seed, one in enumerate((*run.members.values(), run)):
        tables = [
            records(plan, split, (*hospitals, *centers), 0.7, 7 * seed + len(split)).assign(checkpoint=checkpoint)
            for split, checkpoint in (("val", "1"), ("val", "2"), ("test", "best"), ("test", "last"))
        ]
        found = pd.concat(tables, ignore_index=True)
        if scenario.task == "segmentation":
            found[list(DISTANCES)] = 1.0
            # The first image of every part shows nothing, and nothing was seen there.
            found.loc[found["sample"].str.endswith("-0"), ["tp", "fp", "fn"]] = 0
            # The other validated round, and the last round's test, are worse.
            found.loc[found["checkpoint"].isin(["1", "last"]), "fp"] *= 3
        write_atomic(one.folder / "samples.parquet", found.to_parquet(index=False))
        write_atomic(one.folder / "rounds.parquet", pd.DataFrame(columns=list(ROUNDS)).to_parquet(index=False))
        facts = {"best_round": 2, "rounds": 2, "wall_s": 1.0, "failures": []}
        facts |= {"best_sha256": "e" * 64, "weights_sha256": "e" * 64}
        write_atomic(one.folder / "result.json", json.dumps(facts))
    return run


def table_of(run: Run) -> Table:
    table = published_table(run)
    assert table is not None
    return table


def cell(table: Table, column: str, *row: str) -> object:
    """The value of a column in the row that begins so."""
    found = next(line for line in table.rows if (line.head, *line.cells)[: len(row)] == row)
    return found.cells[table.titles.index(column)]


# ---- what was typed in


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_whole_and_its_shares_are_shares(name: str) -> None:
    found = published_of(name)
    assert found is not None and found.sources and found.setting.startswith("Theirs: ") and "Ours: " in found.setting
    assert all(place.dataset in DATASETS for place in found.places.values())
    for model, places in found.models.items():
        assert places.keys() <= found.places.keys(), model
        for numbers in places.values():
            assert len(numbers) == len(found.metrics), model
            printed = [number for number in numbers if number is not None]
            assert printed and all(0 <= number <= 1 for number in printed), model
            assert all(round(number, found.decimals) == number for number in printed), model


@pytest.mark.parametrize(("name", "dice"), [("kvasir-seg", "Dice"), ("divergentnets", "F1")])
def test_means_over_images_of_dice_and_iou_can_be_of_the_same_masks(name: str, dice: str) -> None:
    """Of one image Dice is 2 IoU / (1 + IoU), which is concave: its mean is at most that of the mean IoU (Jensen)."""
    found = published_of(name)
    assert found is not None
    for model, places in found.models.items():
        for place in places:
            iou, overlap = found.number(model, place, "IoU"), found.number(model, place, dice)
            assert iou < overlap <= 2 * iou / (1 + iou), (model, place)


@pytest.mark.parametrize(
    ("name", "model", "place", "metric", "printed"),
    [
        # The abstracts of TransNetR and TransRUPNet.
        ("kvasir-seg", "TransNetR", "Kvasir-SEG", "Dice", 0.8706),
        ("kvasir-seg", "TransNetR", "Kvasir-SEG", "IoU", 0.8016),
        ("kvasir-seg", "TransRUPNet", "PolypGen C6", "Dice", 0.7786),
        ("kvasir-seg", "TransRUPNet", "PolypGen C6", "IoU", 0.7210),
        ("kvasir-seg", "U-Net", "PolypGen C3", "Dice", 0.7481),
        ("kvasir-seg", "UACANet", "CVC-ClinicDB", "IoU", 0.6808),
        ("kvasir-seg", "UACANet", "PolypGen C6", "Dice", math.nan),
        # HyperKvasir, table 3.
        ("hyperkvasir", "DenseNet-161", "HyperKvasir", "Macro F1", 0.619),
        ("hyperkvasir", "ResNet-152 + DenseNet-161, mean", "HyperKvasir", "MCC", 0.902),
        ("hyperkvasir", "Majority", "HyperKvasir", "MCC", math.nan),
        # DivergentNets, tables 2 and 3.
        ("divergentnets", "DivergentNets", "Validation", "IoU", 0.795),
        ("divergentnets", "DivergentNets", "HyperKvasir, test", "F1", 0.899),
        ("divergentnets", "DeepLabV3+", "HyperKvasir, test", "Precision", 0.931),
        # The benchmark of PCam's README: 89.8, 96.3, 0.260.
        ("pcam", "GDensenet", "PCam", "Accuracy", 0.898),
        ("pcam", "GDensenet", "PCam", "AUROC", 0.963),
        ("pcam", "GDensenet", "PCam", "NLL", 0.260),
    ],
)
def test_numbers_as_printed(name: str, model: str, place: str, metric: str, printed: float) -> None:
    found = published_of(name)
    assert found is not None and found.number(model, place, metric) == pytest.approx(printed, abs=0, nan_ok=True)


# ---- beside ours


def test_the_scenarios_that_papers_have_numbers_for() -> None:
    assert {name: scenario.published for name, scenario in BESIDE.items()}.items() >= {
        "endocv2021-divergentnets": "divergentnets",
        "hyperkvasir-classification": "hyperkvasir",
        "kvasir-cvc": "kvasir-seg",
        "kvasir-to-polypgen": "kvasir-seg",
        "pcam-two-centers": "pcam",
    }.items()
    assert published_of(None) is None


def test_segmentation_is_the_mean_over_images_at_the_same_center(tmp_path: Path) -> None:
    run = finished(tmp_path, SCENARIOS["kvasir-to-polypgen"])
    table, samples = table_of(run), run.samples
    tested = samples[(samples["checkpoint"] == "best") & (samples["split"] == "test")]
    dice = 2 * tested["tp"] / (2 * tested["tp"] + tested["fp"] + tested["fn"])
    iou = tested["tp"] / (tested["tp"] + tested["fp"] + tested["fn"])
    singles = [f"c{number}" for number in range(1, 7)]
    places = {"Kvasir-SEG": ["baerum"], "PolypGen C2": ["c2"], "PolypGen C6": ["c6"], "PolypGen, all": singles}
    for place, centers in places.items():
        own = tested["center"].isin(centers)
        assert cell(table, "Ours", place, "Dice") == pytest.approx(np.nanmean(dice[own]))
        assert cell(table, "Ours", place, "IoU") == pytest.approx(np.nanmean(iou[own]))
    center = run.table().set_index("center")["dice_images"]
    assert cell(table, "Ours", "PolypGen C2", "Dice") == pytest.approx(center["c2"])


def test_a_cell_without_a_counterpart_is_a_dash(tmp_path: Path) -> None:
    table = table_of(finished(tmp_path, SCENARIOS["kvasir-to-polypgen"]))
    texts = {(row.head, row.cells[0]): dict(zip(table.titles, table.texts(row), strict=True)) for row in table.rows}
    assert texts["PolypGen, 23 sequences", "Dice"]["Ours"] == NOTHING  # the scenario takes single frames
    assert texts["PolypGen C1", "Dice"]["TransRUPNet (published)"] == NOTHING
    assert texts["PolypGen C1", "Dice"]["TransNetR (published)"] == "0.7204"
    assert "CVC-ClinicDB" not in {place for place, _ in texts}  # no center of the scenario holds it


@pytest.mark.parametrize(
    ("overrides", "there"),
    [
        ((), {"PolypGen C1", "PolypGen, all"}),
        (("data.options.polypgen.parts=[singles, positive]",), set()),
        (("data.options.polypgen.parts=[positive]",), {"PolypGen, 23 sequences"}),
        (("data.centers.c4.dataset=synthetic",), {"PolypGen C1"}),
        (("data.centers.c1.center=null",), set()),
        (("data.centers.c1.role=train",), set()),
    ],
)
def test_ours_is_there_only_where_the_run_holds_the_same_images(
    overrides: tuple[str, ...], there: set[str], tmp_path: Path
) -> None:
    scenario = load(REPOSITORY / "scenarios" / "kvasir-to-polypgen.yaml", overrides)
    table = table_of(finished(tmp_path, scenario))
    asked = ("PolypGen C1", "PolypGen, 23 sequences", "PolypGen, all")
    assert {place for place in asked if math.isfinite(float(str(cell(table, "Ours", place, "Dice"))))} == there


@pytest.mark.parametrize(
    ("name", "overrides"),
    [
        ("kvasir-cvc", ("data.centers.baerum.split=group",)),
        ("hyperkvasir-classification", ("data.centers.baerum.split=group",)),
        ("hyperkvasir-classification", ("data.labels=kvasir-8",)),
        ("pcam-two-centers", ("data.centers.rumc.split=group",)),
    ],
)
def test_another_list_or_other_classes_have_no_number_beside_theirs(
    tmp_path: Path, name: str, overrides: tuple[str, ...]
) -> None:
    place = {"kvasir-cvc": "Kvasir-SEG"}.get(name)
    for words, there in (((), True), (overrides, False)):
        table = table_of(finished(tmp_path / str(there), load(REPOSITORY / "scenarios" / f"{name}.yaml", words)))
        rows = [row for row in table.rows if place in (None, row.head)]
        ours = [dict(zip(table.titles, table.texts(row), strict=True))["Ours"] for row in rows]
        assert (set(ours) != {NOTHING}) == there


def test_a_run_that_was_trained_elsewhere_has_no_number_beside_theirs(tmp_path: Path) -> None:
    turned = ("data.centers.barcelona.role=train", "data.centers.baerum.role=holdout")
    table = table_of(finished(tmp_path, load(REPOSITORY / "scenarios" / "kvasir-cvc.yaml", turned)))
    ours = [dict(zip(table.titles, table.texts(row), strict=True))["Ours"] for row in table.rows]
    assert ours == [NOTHING] * 4


def test_validation_is_that_of_the_best_round_and_members_are_columns(tmp_path: Path) -> None:
    scenario = SCENARIOS["endocv2021-divergentnets"]
    run = finished(tmp_path, scenario)
    table = table_of(run)
    members = ("unetplusplus", "fpn", "deeplabv3", "deeplabv3plus", "triunet", "ensemble")
    assert table.titles[:7] == ("Metric", *(f"{name} (ours)" for name in members))
    assert table.titles[7:] == tuple(
        f"{name} (published)"
        for name in ("U-Net", "U-Net++", "FPN", "DeepLabV3", "DeepLabV3+", "TriUNet", "DivergentNets")
    )
    for column, one in {"triunet (ours)": run.members["triunet"], "ensemble (ours)": run}.items():
        samples = one.samples
        own = samples[
            (samples["checkpoint"] == "2") & (samples["split"] == "val") & (samples["tp"] + samples["fn"] > 0)
        ]
        recall = (own["tp"] / (own["tp"] + own["fn"])).mean()
        assert cell(table, column, "Validation", "Recall") == pytest.approx(recall)
        precision = (own["tp"] / (own["tp"] + own["fp"])).mean()
        assert cell(table, column, "Validation", "Precision") == pytest.approx(precision)
    assert cell(table, "DivergentNets (published)", "HyperKvasir, test", "Precision") == 0.946


def test_classification_agrees_with_scikit_learn(tmp_path: Path) -> None:
    run = finished(tmp_path, SCENARIOS["hyperkvasir-classification"])
    table, samples = table_of(run), run.samples
    own = samples[(samples["checkpoint"] == "best") & (samples["split"] == "test") & (samples["center"] == "baerum")]
    guess = np.array(CLASSES)[own[[f"p_{name}" for name in CLASSES]].to_numpy().argmax(axis=1)]
    expected = {
        "Macro precision": precision_score(own["label"], guess, average="macro", zero_division=0),
        "Macro recall": recall_score(own["label"], guess, average="macro"),
        "Macro F1": f1_score(own["label"], guess, average="macro"),
        "Micro precision, recall, F1": f1_score(own["label"], guess, average="micro"),
        "MCC": matthews_corrcoef(own["label"], guess),
    }
    assert table.head == "Metric" and {row.head: row.cells[0] for row in table.rows} == pytest.approx(expected)


def test_both_hospitals_of_pcam_are_tested_together(tmp_path: Path) -> None:
    run = finished(tmp_path, SCENARIOS["pcam-two-centers"])
    table, samples = table_of(run), run.samples
    own = samples[(samples["checkpoint"] == "best") & (samples["split"] == "test")]
    assert set(own["center"]) == {"rumc", "umcu"}
    right = own["label"].to_numpy() == np.array(CLASSES)[own[[f"p_{n}" for n in CLASSES]].to_numpy().argmax(axis=1)]
    assert table.titles == ("Ours", "GDensenet (published)")
    assert cell(table, "Ours", "Accuracy") == pytest.approx(right.mean())


# ---- where it is shown


@pytest.mark.parametrize(
    "name",
    [name if name.startswith("kvasir-") else pytest.param(name, marks=pytest.mark.slow) for name in sorted(BESIDE)],
)
def test_report_terminal_and_exports_show_theirs_marked(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    run, found = finished(tmp_path, BESIDE[name]), published_of(BESIDE[name].published)
    assert found is not None
    shown = page(run)
    Screen(quiet=True).result(run)
    said = " ".join(capsys.readouterr().out.split())
    for text in (shown.text, said):
        assert all(f"{model} (published)" in text for model in found.models)
        assert found.setting in text and all(source in text for source in found.sources)
        assert "ours are of rendered pictures, theirs of patients" in text
    assert list(run_tables(run))[:2] == ["centers", "published"]
    header = csv_text(run_tables(run)["published"]).splitlines()[0]
    assert header.count("(published)") == len(found.models)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_terminal_too_narrow_gets_blocks_that_fit(
    width: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, SCENARIOS["kvasir-to-polypgen"])
    screen = Screen()
    screen.console = Console(force_terminal=True, width=width, color_system=None, soft_wrap=True)
    screen.result(run)
    lines = capsys.readouterr().out.splitlines()
    heads = [line for line in lines if line.startswith("Images")]
    assert len(heads) > 1 and all("Ours" in line and "(published)" in line for line in heads)
    assert sum(line.count("(published)") for line in heads) == 11
    whole = [line for line in lines if line.startswith("PolypGen C3") and " Dice " in line]
    assert len(whole) == len(heads) and max(map(len, whole)) <= width
    assert {"0.7481", "0.7874"} <= {word for line in whole for word in line.split()}


def test_a_run_whose_scenario_names_nothing_has_no_such_table(tmp_path: Path) -> None:
    run = finished(tmp_path, BESIDE["kvasir-cvc"].model_copy(update={"published": None}))
    assert published_table(run) is None and "published" not in run_tables(run)
    assert "(published)" not in page(run).text


def test_what_no_center_holds_is_shown_as_theirs_alone(tmp_path: Path, tiny: Path) -> None:
    table = table_of(finished(tmp_path / "run", load(tiny, ("published=kvasir-seg",))))
    assert len(table.rows) == 16 and all(math.isnan(float(str(row.cells[1]))) for row in table.rows)


# ---- the key of a scenario


def test_an_unknown_name_is_refused_before_anything_is_read(tiny: Path) -> None:
    with pytest.raises(
        UserError, match=r"published: 'kvasirseg' is not known \(did you mean 'kvasir-seg'\?\); known: d"
    ):
        load(tiny, ("published=kvasirseg",))


def test_it_is_no_part_of_a_run_s_identity(tmp_path: Path) -> None:
    scenario = SCENARIOS["kvasir-cvc"]
    plain = scenario.model_copy(update={"published": None})
    assert scenario.decisive() == plain.decisive()
    assert finished(tmp_path / "a", scenario).plan.name == finished(tmp_path / "b", plain).plan.name
