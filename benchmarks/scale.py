"""What a thousand hospitals cost in memory beside four, whether memory stays flat, and how long 10,000 take to call.

    python benchmarks/scale.py                      # rendered data, `fedkvasir run --engine ray --workers 2`
    python benchmarks/scale.py --experiment four    # one of: thousand, four, roll-call

thousand   1,000 hospitals of four rendered images, 50 of them a round, 20 rounds; the 250 of alta validate every round.
four       4 hospitals, all of them every round, 50 rounds.
roll-call  10,000 hospitals say who they are, then the centers of 20 rounds are drawn; no training.

Every experiment runs in a process of its own, the driver. At the end of every round it looks at itself and at all
processes that it started: the workers, which train and validate, and Ray's own. Resident memory (RSS) counts what is
shared in every process and does not change with what others on the machine map; proportional memory (PSS) counts it
once in a sum over processes. Exits 1 where a line of :func:`verdicts` does not hold.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import psutil

from fedkvasir.console import Screen
from fedkvasir.environment import environment
from fedkvasir.files import write_atomic
from fedkvasir.machine import cores
from fedkvasir.plan import Plan, make_plan
from fedkvasir.runs import Event, Run
from fedkvasir.scenario import load
from fedkvasir.simulation import CLIENT_APP, run_scenario
from server.grid import Node, RayGrid
from server.rounds import RoundLoop, roll_call

HERE = Path(__file__).resolve().parent
WORKERS = 2
HOSPITALS = """
task: segmentation
data:
  image_size: 32
  centers:
    alta: {dataset: synthetic, center: alta, val: 0.5, test: 0.04}
    bergen: {dataset: synthetic, center: bergen, val: 0, test: 0.04}
    cadiz: {dataset: synthetic, center: cadiz, val: 0, test: 0.04}
    dresden: {dataset: synthetic, center: dresden, val: 0, test: 0.04}
    edinburgh: {dataset: synthetic, center: edinburgh, role: holdout}
  options:
    synthetic: {image_scale: 0.2}
model: {name: unet, encoder: tu-lcnet_050, weights: null, decoder_channels: [16, 8, 8, 4, 4]}
training: {loss: dice+bce, optimizer: sgd, lr: 0.005, batch_size: 4, epochs: 1, augment: light}
algorithm: fedavg
resources: {device: cpu}
"""
PARTITION = "{kind: iid, parts: 250}"
THOUSAND = (
    *(f"data.centers.{name}.partition={PARTITION}" for name in ("alta", "bergen", "cadiz", "dresden")),
    "data.options.synthetic.patients_per_center=540",
    "federation.fraction=0.05",
    "federation.rounds=20",
)
FOUR = ("data.options.synthetic.patients_per_center=10", "federation.rounds=50")
FLAT, STEADY, ROOM_MIB, CALL_S = 0.03, 0.01, 1536, 60
"""Growth from round 2 on, growth in ten rounds, memory above four hospitals, seconds of the roll call: at most."""


class Scales(Screen):
    """Weighs all processes at the end of every round, and says so."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.began = time.monotonic()
        self.rows: list[dict[str, Any]] = []

    def event(self, plan: Plan, event: Event) -> None:
        if event.kind == "round":
            seconds, weighed = time.monotonic() - self.began, weigh()
            self.rows += [{"round": event.round, **row, "seconds": seconds} for row in weighed]
            said = ", ".join(f"{row['process']} {row['rss_mib']:.0f}" for row in weighed)
            print(f"round {event.round}: {said} MiB resident, {seconds:.1f} s", file=sys.stderr, flush=True)
            self.began = time.monotonic()


def weigh() -> list[dict[str, Any]]:
    """Memory of this process, the workers and Ray's own processes, each kind summed, in MiB."""
    rows = []
    for process in (driver := psutil.Process(), *driver.children(recursive=True)):
        try:
            name = (process.cmdline() or [""])[0]
            memory = process.memory_full_info()
        except psutil.NoSuchProcess:
            continue
        kind = "driver" if process == driver else "workers" if name.startswith("ray::_Worker") else "ray"
        rows.append({"process": kind, "pss_mib": memory.pss / 2**20, "rss_mib": memory.rss / 2**20})
    return pd.DataFrame(rows).groupby("process", as_index=False).sum().to_dict("records")


def rounds_of(overrides: tuple[str, ...]) -> list[dict[str, Any]]:
    """Run the hospitals and return what was weighed, a row a round and kind of process."""
    scales = Scales()
    with tempfile.TemporaryDirectory() as folder:
        run_scenario(scenario_in(folder), overrides, None, folder, "ray", WORKERS, screen=scales)
    return scales.rows


def called(overrides: tuple[str, ...]) -> list[dict[str, Any]]:
    """Call 10,000 hospitals through Ray's workers and draw the centers of 20 rounds; one row."""
    with tempfile.TemporaryDirectory() as folder:
        plan = crowd(make_plan(load(scenario_in(folder), overrides)), 10_000)
        run = Run(folder)
        run.start(plan, "ray", WORKERS)
        grid = RayGrid(list(nodes_of(plan, run)), CLIENT_APP, 1, WORKERS, 0)
        began = time.monotonic()
        loop = RoundLoop(grid, roll_call(grid, plan), plan, run, lambda event: None)
        drawn = [loop._cohort(number) for number in range(1, 21)]
        seconds = time.monotonic() - began
        assert len(loop.nodes) == 10_000 and {len(centers) for centers in drawn} == {500}
        rows = [{"round": 0, **row, "seconds": seconds} for row in weigh()]
        grid.close()
    return rows


def crowd(plan: Plan, hospitals: int) -> Plan:
    """The plan with the training and validation images of one hospital held by so many, one twentieth a round."""
    center = plan.training_centers[0]
    own = plan.samples[(plan.samples["center"] == center) & (plan.samples["split"] != "test")]
    samples = pd.concat([own] * hospitals, ignore_index=True)
    number = (samples.index // len(own) + 1).astype(str).str.zfill(5)
    samples = samples.assign(center=f"{center}-" + number, sample=samples["sample"] + "-" + number)
    federation = plan.scenario.federation.model_copy(update={"fraction": 0.05})
    return replace(plan, scenario=plan.scenario.model_copy(update={"federation": federation}), samples=samples)


def nodes_of(plan: Plan, run: Run) -> Iterator[Node]:
    for center, row in plan.centers.iterrows():
        yield Node(str(center), str(run.folder), float(row["train"]), float(row["val"] + row["test"]))


def scenario_in(folder: str) -> Path:
    path = Path(folder) / "scale.yaml"
    path.write_text(HOSPITALS)
    return path


EXPERIMENTS = {"thousand": (rounds_of, THOUSAND), "four": (rounds_of, FOUR), "roll-call": (called, FOUR)}


def in_its_own_process(experiment: str, overrides: list[str]) -> pd.DataFrame:
    """This script again, for one experiment; its last line is what was weighed."""
    command = [sys.executable, str(Path(__file__).resolve()), *overrides, "--weigh", experiment]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{experiment} failed, see above")
    table = pd.DataFrame(json.loads(done.stdout.splitlines()[-1]))
    table.insert(0, "experiment", experiment)
    return table


def verdicts(table: pd.DataFrame) -> list[tuple[bool, str]]:
    """What must hold, and the figures; of experiments that are not in the table nothing is said."""
    said = []
    resident = table.pivot_table(index=["experiment", "round"], columns="process", values="rss_mib")
    together = table.groupby(["experiment", "round"])["pss_mib"].sum()
    there = set(table["experiment"])
    for kind in ("driver", "workers"):
        if "thousand" in there:
            own = resident.loc["thousand", kind]
            most = own.loc[2:].max() / own.loc[2] - 1
            text = f"1,000 hospitals: {kind} {own.loc[2]:.0f} MiB resident after round 2, at most {most:+.1%} after it"
            said.append((most <= FLAT, f"{text} (up to round {own.index[-1]}; allowed {FLAT:.0%})"))
        if "four" in there:
            own = resident.loc["four", kind]
            tens = [own.loc[end] / own.loc[end - 10] - 1 for end in range(12, own.index[-1] + 1)]
            text = f"4 hospitals: {kind} {own.loc[2]:.0f} MiB resident after round 2, {own.iloc[-1]:.0f} after round"
            text += f" {own.index[-1]}; in ten rounds at most {max(tens):+.1%} (allowed {STEADY:.0%})"
            said.append((max(tens) <= STEADY, text))
    if {"thousand", "four"} <= there:
        many, few = together["thousand"].max(), together["four"].max()
        text = f"all processes (PSS): {many:.0f} MiB with 1,000 hospitals, {few:.0f} with 4: {many - few:+.0f} MiB"
        said.append((many - few <= ROOM_MIB, f"{text} (allowed {ROOM_MIB})"))
    if "roll-call" in there:
        seconds = table.loc[table["experiment"] == "roll-call", "seconds"].iloc[0]
        text = f"10,000 hospitals called and the centers of 20 rounds drawn in {seconds:.1f} s (allowed {CALL_S})"
        said.append((seconds <= CALL_S, text))
    return said


def main() -> None:
    about, *_ = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="scenario overrides")
    parser.add_argument("--experiment", choices=list(EXPERIMENTS), action="append", help="default: all of them")
    parser.add_argument("--results", type=Path, default=HERE / "results" / "scale.csv", help="the CSV")
    parser.add_argument("--weigh", choices=list(EXPERIMENTS), help=argparse.SUPPRESS)
    given = parser.parse_intermixed_args()
    if given.weigh:
        weighed, overrides = EXPERIMENTS[given.weigh]
        print(json.dumps(weighed((*overrides, *given.overrides))))
        return
    machine = environment("ray", WORKERS)["machine"]["processor"]
    tables = []
    for name in given.experiment or EXPERIMENTS:
        table = in_its_own_process(name, given.overrides)
        tables.append(table.assign(machine=machine, cores=cores(), workers=WORKERS, data="rendered"))
        keep(tables[-1], given.results)
    said = verdicts(pd.concat(tables))
    print(f"{machine}, {cores()} cores, {WORKERS} workers, rendered data")
    for holds, text in said:
        print(f"{'holds' if holds else 'FAILS'}  {text}")
    sys.exit(not all(holds for holds, _ in said))


def keep(table: pd.DataFrame, path: Path) -> None:
    """Write the rows in place of earlier ones of the same machine and experiment; other rows stay."""
    if path.is_file():
        before, same = pd.read_csv(path), ["machine", "cores", "experiment"]
        again = before[same].apply(tuple, axis=1).isin(table[same].apply(tuple, axis=1))
        table = pd.concat([before[~again], table])
    write_atomic(path, table.round(2).to_csv(index=False))


if __name__ == "__main__":
    main()
