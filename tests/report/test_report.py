"""A report says what the records say, in a file that needs nothing else."""

from html.parser import HTMLParser
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from fedkvasir.evaluation.protocol import summarise
from fedkvasir.files import write_atomic
from fedkvasir.plan import COLUMNS, Plan
from fedkvasir.report import build_report, sections
from fedkvasir.runs import Checkpoint, Run
from fedkvasir.scenario import parse

TRAINING, HOLDOUT = ("aalborg", "bergen", "cadiz"), "dijon"
CENTERS = (*TRAINING, HOLDOUT)
CLASSES = ("normal", "polyp", "ulcer")
IMAGES = {"train": 6, "val": 4, "test": 8}
ROUNDS = 4
QUESTION = 'Does <i>"A & B"</i> generalise?'


def make_plan(task: str, dataset: str = "synthetic", warnings: tuple[str, ...] = (), **evaluation: object) -> Plan:
    raw = {
        "name": "crafted",
        "question": QUESTION,
        "task": task,
        "data": {
            "centers": {
                name: {"dataset": dataset, "center": name, "role": "holdout" if name == HOLDOUT else "train"}
                for name in CENTERS
            }
        },
        "model": {"name": "unet"},
        "federation": {"rounds": ROUNDS},
        "evaluation": evaluation,
    }
    rows = [
        {
            "sample": f"{dataset}/{center}/{split}-{index}",
            "dataset": dataset,
            "center": center,
            "role": role_of(center),
            "split": split,
            "group": f"{dataset}/{center}/{split}-{index // 2}",
            "label": CLASSES[index % len(CLASSES)] if task == "classification" else None,
            "target": index % len(CLASSES) if task == "classification" else 0,
            "row": index,
            "store": "/nowhere",
            "width": 64,
            "height": 48,
        }
        for center in CENTERS
        for split, count in IMAGES.items()
        if center != HOLDOUT or split == "test"
        for index in range(count)
    ]
    classes = CLASSES if task == "classification" else ("polyp",)
    samples = pd.DataFrame(rows)[list(COLUMNS)]
    return Plan(
        parse(raw, "crafted"), samples, classes, {}, "d" * 64, "cpu", "float32", warnings, dataset == "synthetic"
    )


def role_of(center: str) -> str:
    return "holdout" if center == HOLDOUT else "train"


def records(plan: Plan, split: str, centers: tuple[str, ...], skill: float, seed: int) -> pd.DataFrame:
    """Per-image records: the better the skill (0..1), the more of the truth is found."""
    rng = np.random.default_rng(seed)
    own = plan.samples[(plan.samples["split"] == split) & plan.samples["center"].isin(centers)]
    rows = own[["center", "role", "split", "sample", "group"]].reset_index(drop=True)
    count = len(rows)
    if plan.scenario.task == "classification":
        rows["label"] = own["label"].to_numpy()
        noise = rng.random((count, len(CLASSES)))
        noise[np.arange(count), own["target"].to_numpy()] += skill
        probabilities = noise / noise.sum(axis=1, keepdims=True)
        return rows.join(pd.DataFrame(probabilities, columns=[f"p_{name}" for name in CLASSES]))
    rows["class"], rows["scoring"], rows["threshold"], rows["height"], rows["width"] = "polyp", "default", 0.5, 48, 64
    truth = rng.integers(200, 600, count)
    rows["tp"] = (truth * np.clip(skill + rng.normal(0, 0.15, count), 0, 1)).astype(int)
    rows["fp"], rows["fn"] = rng.integers(0, 120, count), truth - rows["tp"]
    rows["tn"] = 48 * 64 - rows["tp"] - rows["fp"] - rows["fn"]
    return rows


def make_run(folder: Path, plan: Plan, rounds: int = ROUNDS, finish: bool = True) -> Run:
    """A run folder as the round loop leaves it, written through the same classes."""
    run, metric = Run(folder), "dice" if plan.scenario.task == "segmentation" else "macro_f1"
    run.start(plan, "local", 1)
    checkpoint = Checkpoint(0, {}, {})
    cost = {"samples": 6.0, "seconds": 2.0, "bytes_down": 4e6, "peak_mib": 512.0}
    oracle = plan.scenario.evaluation.select == "oracle"
    phase, scored, role = ("test", (HOLDOUT,), "holdout") if oracle else ("val", TRAINING, "train")
    failures = [{"round": 2, "center": "bergen", "reason": "disk <full>"}]
    for number in range(1, rounds + 1):
        rows = []
        for index, center in enumerate(TRAINING):
            base = {"round": number, "center": center, "role": "train", **cost}
            trained = {
                "phase": "train",
                "metric": "loss",
                "value": 1 / number + 0.1 * index,
                "steps": 3,
                "bytes_up": 4e6,
            }
            rows.append(base | trained)
        for index, center in enumerate(scored):
            base = {"round": number, "phase": phase, "center": center, "role": role, **cost}
            value = 0.3 + 0.1 * min(number, 3) - 0.03 * index
            rows += [base | {"metric": name, "value": value} for name in (metric, "precision", "recall")]
        rows.append({"round": number, "phase": "round", "center": "", "role": "", "metric": "wall_s", "value": 7.0})
        samples = records(plan, "val", TRAINING, 0.5 + 0.1 * number, number)
        samples.insert(0, "checkpoint", str(number))
        best = min(number, 3)
        state = {"head.weight": np.full(2, number, np.float32)}
        checkpoint = Checkpoint(number, state, {}, best=best, failures=failures[: number - 1], wall_s=7.0 * number)
        run.commit(checkpoint, pd.DataFrame(rows), samples)
    if finish:
        tested = pd.concat(
            [records(plan, "test", TRAINING, 0.8, 11), records(plan, "test", (HOLDOUT,), 0.6, 12)], ignore_index=True
        )
        both = pd.concat([tested.assign(checkpoint=name) for name in ("best", "last")], ignore_index=True)
        draw_pictures(run, plan)
        run.finish(checkpoint, checkpoint, pd.DataFrame(), both)
    return run


def draw_pictures(run: Run, plan: Plan) -> None:
    rng = np.random.default_rng(0)
    for center in CENTERS:
        cases = []
        for rank, score in (("best", 0.95), ("median", 0.7), ("worst", 0.0)):
            pixels = cv2.resize(rng.integers(0, 255, (6, 16, 3), np.uint8), (480, 180), interpolation=cv2.INTER_CUBIC)
            file = f"{center}-{rank}.jpg"
            write_atomic(run.folder / "gallery" / file, cv2.imencode(".jpg", pixels)[1].tobytes())
            case = {"rank": rank, "sample": f"synthetic/{center}/<{rank}>", "score": score, "file": file}
            if plan.scenario.task == "classification":
                case |= {"truth": "polyp", "prediction": "normal"}
            cases.append(case)
        write_atomic(run.folder / "gallery" / f"{center}.json", pd.Series(cases).to_json(orient="values"))


class Page(HTMLParser):
    """The page's text, headings and references; asserts that tags are closed in order."""

    VOID = ("meta", "img", "br", "link", "hr")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.headings: list[int] = []
        self.references: list[tuple[str, str]] = []
        self.images: list[dict[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def row(self, head: str) -> list[str]:
        """The cells of the first table row with this head."""
        return next(cells for cells in self.rows if cells and cells[0].startswith(head))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.references += [(tag, value or "") for name, value in attributes if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(dict(attributes))
        if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():
            self.headings.append(int(tag[1]))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open[-1] == tag, f"</{tag}> closes {self.open[-1:]} at {self.getpos()}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "style":
            assert "url(" not in data and "@import" not in data
            return
        self.words.append(data)
        if "tr" in self.open and data.strip():
            self.rows[-1][-1] += data.strip()


def page(run: Run) -> Page:
    return Page(build_report(run).read_text(encoding="utf-8"))


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
    assert not shown.tags & {"script", "link", "iframe", "object", "embed"}
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
    assert f"{summary.seen:.2f} at hospitals that trained, {summary.unseen:.2f} at dijon" in shown.text


def test_cost_counts_an_evaluation_once(finished: Run) -> None:
    # Four rounds of one training and one validation, 2 s and 4 MB down each, though validation stands in three rows.
    cells = [cells for cells in page(finished).rows if cells[0] == "aalborg"][1]
    assert cells == ["aalborg", "trains", "12", "8.0", "8.0", "32.0", "16.0", "512"]


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
    assert [value for tag, value in shown.references if tag == "a"] == ["https://datasets.simula.no/kvasir-seg/"]


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
        ("th", (0.6, 0.601), "which took no part: no gap; worst center"),
        ("tt", (0.6, 0.7), "Dice 0.65 at hospitals that trained; no hospital was held out"),
        ("th", (0.6, np.nan), "Dice 0.60 at hospitals that trained; no held-out image can be scored."),
        ("h", (0.6,), "Dice 0.60 at c0, which took no part; no training center has a score."),
        ("th", (np.nan, np.nan), "No test image can be scored"),
    ],
)
def test_answer_is_one_sentence_for_every_kind_of_run(roles: str, dice: tuple[float, ...], says: str) -> None:
    role = ["train" if letter == "t" else "holdout" for letter in roles]
    table = pd.DataFrame({"center": [f"c{index}" for index in range(len(roles))], "role": role, "dice": dice})
    assert says in sections._answer(table, "segmentation")
    assert "nan" not in sections._answer(table, "segmentation")


def test_gallery_stays_within_the_size_of_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, make_plan("segmentation"))
    one = sum(len(path.read_bytes()) for path in (run.folder / "gallery").glob("aalborg-*.jpg")) * 4 / 3
    monkeypatch.setattr(sections, "GALLERY_BYTES", int(2.5 * one))
    shown = page(run)
    assert len(shown.images) == 6
    assert "Left out to keep the report small: cadiz, dijon" in shown.text


def test_center_without_a_score_is_a_dash(tmp_path: Path) -> None:
    run = make_run(tmp_path, make_plan("segmentation"))
    samples = run.samples
    samples.loc[samples["center"] == HOLDOUT, ["tp", "fp", "fn"]] = 0
    write_atomic(run.folder / "samples.parquet", samples.to_parquet(index=False))
    shown = page(run)
    assert shown.row(HOLDOUT)[4] == "–"
    assert "nan" not in shown.text.lower().split()
