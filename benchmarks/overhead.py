"""What a federated run costs beside a plain PyTorch loop over the same batches, validation and cached pixels.

    python benchmarks/overhead.py                                                    # rendered data, some minutes
    python benchmarks/overhead.py --scenario scenarios/kvasir-cvc.yaml --data DIR    # real data

federated  `fedkvasir run --engine ray` with its own choice of workers. With more cores than hospitals, give the
           override resources.threads_per_center=N, or cores stay idle.
plain      one process, one network, torch on all cores: zero_grad, forward, loss, backward, step over every hospital's
           batches, then the per-image counts of every hospital's validation set.

Every arm runs in a process of its own; they take turns (A B A B ...), so that a machine that slows down slows both. A
round lasts from the end of the round before to its own end, checkpoint and records included. Steady state is the median
of rounds 2..N; what comes before and is not a round (imports, Ray, workers, the first round's surplus) is start-up.
Both arms run on the CPU and pick batches and augmentation from the same seeds; steps and images are compared.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import torch

from clients.evaluate import evaluate
from fedkvasir.console import Screen
from fedkvasir.data.augment import AUGMENTS, Augment
from fedkvasir.data.loader import train_batches
from fedkvasir.environment import environment
from fedkvasir.errors import UserError
from fedkvasir.estimate import choose_workers
from fedkvasir.files import write_atomic
from fedkvasir.machine import cores
from fedkvasir.models import build_model
from fedkvasir.plan import Plan, make_plan
from fedkvasir.randomness import derive_seed
from fedkvasir.runs import Event
from fedkvasir.scenario import load
from fedkvasir.simulation import run_scenario
from fedkvasir.training import make_optimizer

HERE = Path(__file__).resolve().parent
QUICKSTART = HERE.parent / "scenarios" / "quickstart.yaml"


@dataclass(frozen=True)
class Measured:
    """One arm, once."""

    s_per_round: float
    """Median of rounds 2..N."""
    startup_s: float
    """From the birth of the process to the end of round 1, less one round in steady state."""
    steps: int
    """Optimiser steps of all rounds."""
    images: int
    """Images validated in all rounds."""
    busy: float
    """Share of the workers' time in which a hospital trains or validates, in steady state; 1 for the plain loop."""


def measured(ends: list[float], steps: int, images: int, busy: Callable[[float], float] = lambda _: 1.0) -> Measured:
    """ends: when each round ended, as time.time(); busy: share of busy time, given the seconds of rounds 2..N."""
    s_per_round = float(np.median(np.diff(ends)))
    startup_s = ends[0] - psutil.Process().create_time() - s_per_round
    return Measured(s_per_round, startup_s, steps, images, busy(ends[-1] - ends[0]))


class Clock(Screen):
    """Silent; notes when each round was committed."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.ends: list[float] = []

    def event(self, plan: Plan, event: Event) -> None:
        if event.kind == "round":
            self.ends.append(time.time())


def federated(scenario: Path, data: Path | None, overrides: tuple[str, ...]) -> Measured:
    """`fedkvasir run` with Ray workers, in a fresh folder."""
    clock = Clock()
    with tempfile.TemporaryDirectory() as out:
        run = run_scenario(scenario, overrides, data, out, engine="ray", screen=clock)
        rows = run.rounds[run.rounds["phase"].isin(["train", "val"])]
        visits = rows.drop_duplicates(["round", "phase", "center"])  # validation has a row a metric
        workers = choose_workers(run.plan, None).workers
    steady_s = visits.loc[visits["round"] > 1, "seconds"].sum()
    return measured(
        clock.ends,
        int(visits["steps"].sum()),
        int(visits.loc[visits["phase"] == "val", "samples"].sum()),
        lambda wall_s: steady_s / wall_s / workers,
    )


def plain(scenario: Path, data: Path | None, overrides: tuple[str, ...]) -> Measured:
    """What one would write without hospitals: one network, one optimiser, one loop."""
    plan = make_plan(load(scenario, overrides), data)
    settings, training = plan.scenario, plan.scenario.training
    torch.set_num_threads(cores())
    network = build_model(settings.model, settings.task, len(plan.classes), derive_seed(settings.seed, "weights"))
    loss_function, optimizer = plan.loss(), make_optimizer(network, training)
    augment = Augment(AUGMENTS[training.augment](settings.data.image_size))
    train = {center: plan.part(center, "train") for center in plan.training_centers}
    val = [plan.part(center, "val") for center in plan.training_centers if plan.centers.loc[center, "val"]]
    ends, steps, images = [], 0, 0
    for number in range(settings.federation.rounds):
        network.train()
        for epoch in range(number * training.epochs, (number + 1) * training.epochs):
            for center, samples in train.items():
                seed = derive_seed(settings.seed, "epoch", center, epoch)
                for batch in train_batches(samples, training.batch_size, augment, seed):
                    optimizer.zero_grad(set_to_none=True)
                    loss_function(network(batch.images), batch.targets).backward()
                    optimizer.step()
                    steps += 1
        for samples in val:
            rows, _ = evaluate(network, samples, settings, plan.classes, torch.device("cpu"), plan.precision)
            images += len(rows)
        ends.append(time.time())
    return measured(ends, steps, images)


ARMS = {"federated": federated, "plain": plain}


def in_its_own_process(arm: str, arguments: list[str]) -> Measured:
    """This script again, for one arm; its last line is the measurement."""
    command = [sys.executable, str(Path(__file__).resolve()), *arguments, "--arm", arm]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"the {arm} arm failed, see above")
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def compare(plan: Plan, repeats: int, arguments: list[str]) -> pd.DataFrame:
    """Run the arms in turn, print a line a repeat, return them. Exits if the arms did not do the same work."""
    rounds, workers = plan.scenario.federation.rounds, choose_workers(plan, None).workers
    machine = environment("ray", workers)["machine"]["processor"]
    sources = {center.dataset for center in plan.scenario.data.centers.values()}
    facts = {
        "machine": machine,
        "cores": cores(),
        "torch": torch.__version__,
        "data": "rendered" if sources == {"synthetic"} else "real",
        "scenario": plan.scenario.name,
        "rounds": rounds,
        "workers": workers,
        "threads_per_center": plan.scenario.resources.threads_per_center,
    }
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print("           federated            plain                      workers")
    print("repeat  s/round  start-up  s/round  start-up  ratio        busy", flush=True)
    rows: list[dict[str, Any]] = []
    for repeat in range(1, repeats + 1):
        ours, theirs = (in_its_own_process(arm, arguments) for arm in ARMS)
        if (ours.steps, ours.images) != (theirs.steps, theirs.images):
            sys.exit(f"the arms did not do the same work: {ours} and {theirs}")
        ratio = ours.s_per_round / theirs.s_per_round
        print(
            f"{repeat:6}  {ours.s_per_round:7.2f}  {ours.startup_s:8.1f}  {theirs.s_per_round:7.2f}  "
            f"{theirs.startup_s:8.1f}  {ratio:5.3f}  {ours.busy:10.0%}",
            flush=True,
        )
        rows.append(
            facts
            | {"steps_per_round": ours.steps // rounds, "images_per_round": ours.images // rounds, "repeat": repeat}
            | {"federated_s_per_round": ours.s_per_round, "plain_s_per_round": theirs.s_per_round, "ratio": ratio}
            | {"federated_startup_s": ours.startup_s, "plain_startup_s": theirs.startup_s, "workers_busy": ours.busy}
        )
    return pd.DataFrame(rows)


def keep(table: pd.DataFrame, path: Path) -> None:
    """Write the rows in place of earlier ones of the same machine and scenario; other rows stay."""
    if path.is_file():
        before, same = pd.read_csv(path), ["machine", "cores", "scenario"]
        table = pd.concat([before[(before[same] != table.loc[0, same]).any(axis=1)], table])
    write_atomic(path, table.round(3).to_csv(index=False))


def main() -> None:
    about, *_ = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="scenario overrides")
    parser.add_argument("--scenario", type=Path, default=QUICKSTART, help="default: rendered data, the quick start")
    parser.add_argument("--data", type=Path, help="folder of dataset roots")
    parser.add_argument("--rounds", type=int, default=5, help="the first is start-up")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of arms")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "overhead.csv", help="the CSV")
    parser.add_argument("--arm", choices=list(ARMS), help=argparse.SUPPRESS)
    given = parser.parse_intermixed_args()
    if given.rounds < 2:
        parser.error("--rounds: at least 2, the first is start-up")
    forced = (f"federation.rounds={given.rounds}", "evaluation.every=1", "resources.device=cpu")
    overrides = (*given.overrides, *forced)
    if given.arm:
        print(json.dumps(asdict(ARMS[given.arm](given.scenario, given.data, overrides))))
        return
    try:
        plan = make_plan(load(given.scenario, overrides), given.data)  # builds the stores, so that no arm pays for it
    except UserError as error:
        sys.exit(str(error))
    table = compare(plan, given.repeats, sys.argv[1:])
    keep(table, given.results)
    medians = table[["federated_s_per_round", "plain_s_per_round", "federated_startup_s", "plain_startup_s"]].median()
    print("medians: " + ", ".join(f"{name} {value:.2f}" for name, value in medians.items()))
    print(f"ratio {table['ratio'].median():.2f} x")


if __name__ == "__main__":
    main()
