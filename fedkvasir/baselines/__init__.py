"""References and classical baselines for classification, through the plan and the records of any other run.

One file a family of methods: references look at no picture, classifiers and clusters at its global features.
"""

import json
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pandas as pd

from fedkvasir.baselines.base import Method
from fedkvasir.baselines.classifiers import KNearest, LogisticRegression, RandomForest
from fedkvasir.baselines.clusters import KMeans
from fedkvasir.baselines.features import Features, choose_features
from fedkvasir.baselines.hospitals import evaluate_centers, fit_hospitals
from fedkvasir.baselines.references import Majority, Random
from fedkvasir.data.hospitals import Progress
from fedkvasir.environment import environment
from fedkvasir.errors import UserError, did_you_mean
from fedkvasir.files import write_atomic
from fedkvasir.plan import Plan
from fedkvasir.runs import ROUNDS, Checkpoint, Run
from fedkvasir.scenario import Algorithm, Model

METHODS: dict[str, type[Method]] = {
    method.name: method for method in (Random, Majority, LogisticRegression, RandomForest, KNearest, KMeans)
}
CENTER_WISE = "center-wise"
"""What a baseline's record calls its algorithm: every hospital for itself; elsewhere the mean of their answers."""


def find_method(name: str, task: str, clusters: int | None = None) -> Method:
    """A method by name, with its defaults; ``clusters`` is for k-means.

    Raises UserError for an unknown name, another task than classification, and where scikit-learn is not installed.
    """
    if name not in METHODS:
        raise UserError(f"unknown baseline {name!r}{did_you_mean(name, list(METHODS))}; known: {', '.join(METHODS)}")
    if task != "classification":
        raise UserError(f"baselines are for classification, and this scenario's task is {task}")
    if clusters is not None and name != KMeans.name:
        raise UserError(f"--clusters is for {KMeans.name}; {name} has none")
    if METHODS[name].looks and find_spec("sklearn") is None:
        raise UserError(f"{name} needs scikit-learn: pip install 'fedkvasir[classical]'")
    return KMeans(clusters) if name == KMeans.name else METHODS[name]()


def run_baseline(
    plan: Plan,
    method: Method,
    data_dir: Path | None = None,
    out: Path = Path("runs"),
    fresh: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Fit and test ``method`` at the plan's hospitals; a finished run is opened.

    The folder ``<scenario>-<method>-<hash8>`` under ``out`` holds the records of any other run, but no checkpoint.
    """
    features = choose_features(plan, method, data_dir, progress)
    recorded = _recorded(plan, method, features)
    run = Run(out.resolve() / f"{plan.scenario.name}-{method.name}-{recorded.hash[:8]}")
    with run.writing():
        if fresh:
            run.clear()
        run.start(recorded, "local", 1)
        if run.finished:
            return run
        if method.looks:
            facts = environment("local", 1)
            facts["versions"]["scikit-learn"] = version("scikit-learn")
            write_atomic(run.folder / "environment.json", json.dumps(facts, indent=1))
        began = time.perf_counter()
        classifiers = fit_hospitals(plan, method, features)
        rows = evaluate_centers(plan, method, classifiers, features)
        samples = pd.concat([rows.assign(checkpoint=name) for name in ("best", "last")], ignore_index=True)
        samples.insert(0, "checkpoint", samples.pop("checkpoint"))
        only = Checkpoint(1, {}, {}, best=1, wall_s=time.perf_counter() - began)
        run.finish(only, only, pd.DataFrame(columns=list(ROUNDS)), samples)
    return run


def _recorded(plan: Plan, method: Method, features: Features) -> Plan:
    """The plan as the run's folder keeps it: the same hospitals and splits, the method in the place of the network."""
    scenario = plan.scenario
    facts = {"features": features.kind, **asdict(method)}
    if any(fault.kind == "wrong-labels" for fault in scenario.faults):
        facts["wrong_labels"] = True  # a run that was named without it was fitted on the right ones
    own = {
        "model": Model(name=method.name, **facts),
        "algorithm": Algorithm(name=CENTER_WISE),
        "federation": scenario.federation.model_copy(update={"rounds": 1}),
        "evaluation": scenario.evaluation.model_copy(update={"select": "last"}),
    }
    return replace(
        plan,
        scenario=scenario.model_copy(update=own),
        device="cpu",
        precision="float64",
        warnings=(*plan.warnings, *filter(None, [features.why])),
    )
