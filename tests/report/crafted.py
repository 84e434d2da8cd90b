"""Run folders by hand, as the round loop leaves them, and a reader of the pages that are made of them."""

import shutil
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from fedkvasir.evaluation.shared import share
from fedkvasir.files import write_atomic
from fedkvasir.plan import COLUMNS, Plan
from fedkvasir.report import build_report
from fedkvasir.runs import Checkpoint, Run
from fedkvasir.scenario import parse

TRAINING, HOLDOUT = ("aalborg", "bergen", "cadiz"), "dijon"
CENTERS = (*TRAINING, HOLDOUT)
CLASSES = ("normal", "polyp", "ulcer")
IMAGES = {"train": 6, "val": 4, "test": 8}
ROUNDS = 4
QUESTION = 'Does <i>"A & B"</i> generalise?'


def make_plan(
    task: str,
    dataset: str = "synthetic",
    warnings: tuple[str, ...] = (),
    images: Mapping[str, int] = IMAGES,
    keys: Mapping[str, Any] | None = None,
    **evaluation: object,
) -> Plan:
    """images: of every center by split, two a group; keys: of the scenario, over those here."""
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
        **(keys or {}),
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
        for split, count in images.items()
        if center != HOLDOUT or split == "test"
        for index in range(count)
    ]
    classes = CLASSES if task == "classification" else ("polyp",)
    samples = pd.DataFrame(rows)[list(COLUMNS)]
    scenario, pixels = parse(raw, "crafted"), dict.fromkeys(CENTERS, "d" * 64)
    return Plan(scenario, samples, classes, {}, pixels, "cpu", "float32", warnings, dataset == "synthetic")


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


def make_run(folder: Path, plan: Plan, rounds: int = ROUNDS, finish: bool = True, skill: float = 0.8) -> Run:
    """A run folder as the round loop leaves it, written through the same classes.

    Test records have the same truth and the same luck whatever the skill (0..1), by the scenario's seed.
    """
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
            rows += [
                base | {"network_s": 0.5, "metric": name, "value": value} for name in (metric, "precision", "recall")
            ]
        rows.append({"round": number, "phase": "round", "center": "", "role": "", "metric": "wall_s", "value": 7.0})
        samples = records(plan, "val", TRAINING, 0.5 + 0.1 * number, number)
        samples.insert(0, "checkpoint", str(number))
        best = min(number, 3)
        state = {"head.weight": np.full(2, number, np.float32)}
        checkpoint = Checkpoint(number, state, {}, best=best, failures=failures[: number - 1], wall_s=7.0 * number)
        run.commit(checkpoint, pd.DataFrame(rows), samples)
    if finish:
        tested = pd.concat(
            [
                records(plan, "test", TRAINING, skill, 11 + 100 * plan.scenario.seed),
                records(plan, "test", (HOLDOUT,), skill - 0.2, 12 + 100 * plan.scenario.seed),
            ],
            ignore_index=True,
        )
        both = pd.concat([tested.assign(checkpoint=name) for name in ("best", "last")], ignore_index=True)
        draw_pictures(run, plan)
        spent = {"round": checkpoint.best, "phase": "test", **cost, "samples": 8.0, "network_s": 0.5, "value": 0.6}
        rows = [
            spent | {"center": center, "role": role_of(center), "metric": name}
            for center in CENTERS
            for name in (metric, "precision", "recall")
        ]
        run.finish(checkpoint, checkpoint, pd.DataFrame(rows), both)
    return run


def keep_at_hospitals(run: Run, seed: int = 0) -> Run:
    """The same folder as it is where hospitals keep their per-image records: what they tell is in its place."""
    samples = run.samples
    told = [share(own, seed) for _, own in samples[samples["split"] == "test"].groupby("center")]
    write_atomic(run.folder / "centers.parquet", pd.concat(told, ignore_index=True).to_parquet(index=False))
    write_atomic(run.folder / "samples.parquet", samples[:0].to_parquet(index=False))
    shutil.rmtree(run.folder / "gallery", ignore_errors=True)
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

    VOID = ("meta", "img", "br", "link", "hr", "input")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.headings: list[int] = []
        self.references: list[tuple[str, str]] = []
        self.images: list[dict[str, str | None]] = []
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.scripts: list[str] = []
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
        if self.open and self.open[-1] == "script":
            assert "fetch" not in data and "import" not in data and "http" not in data
            self.scripts.append(data)
            return
        self.words.append(data)
        if "tr" in self.open and data.strip():
            self.rows[-1][-1] += data.strip()


def page(run: Run) -> Page:
    return Page(build_report(run).read_text(encoding="utf-8"))
