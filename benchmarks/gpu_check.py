"""Hospitals on one GPU: Ray with fractions and bfloat16, beside `--engine local`, beside float32; as many as fit; more
than fit; and the runs of a sweep.

    python benchmarks/gpu_check.py

Each variant is a `fedkvasir run` of the same small rendered scenario in a process of its own. Measured: training steps
a second in steady state (rounds 2..N), the most memory torch held in one process, and the memory in use on the device
before, during and after (by all processes: run it alone). Checked: the run ends well, in the precision asked for;
losses are finite; memory is back where it was; bfloat16 scores like float32; `resources: auto` counts the GPU's memory;
two workers where a GPU has room for one and a half go on as one, and nobody is lost; a process that has finished a run
holds none of its memory; four runs of a sweep share the GPU. Reported, not checked: whether both engines end in the
same weights (CUDA kernels may sum in another order each time). Exit code 1 if a check fails; 0 otherwise, also where
there is no GPU, which it says.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from fedkvasir.estimate import measure_step
from fedkvasir.files import write_atomic
from fedkvasir.plan import Plan, make_plan
from fedkvasir.runs import Run
from fedkvasir.scenario import load

COMMAND = [sys.executable, "-c", "from fedkvasir.cli import main; main()"]

SCENARIO = """
question: Do two hospitals share one GPU well?
task: segmentation
data:
  image_size: 256
  centers:
    alta: {dataset: synthetic, center: alta}
    cadiz: {dataset: synthetic, center: cadiz}
    edinburgh: {dataset: synthetic, center: edinburgh, role: holdout}
  options:
    synthetic: {patients_per_center: 60}
model: {name: unet, encoder: resnet34, weights: null}
training: {loss: dice+bce, optimizer: adam, lr: 3.0e-4, batch_size: 16, epochs: 4, augment: light}
federation: {rounds: 6}
resources: {gpu_per_center: 0.5}
"""
TIMEOUT_S = 300
"""Of one run. Ray waits for ever for a share of a GPU that it does not have."""
MEMORY_TOLERANCE_MIB = 64
"""After a run, this much more may be in use than before: what a driver keeps for itself."""
RELEASE_S = 30
"""A GPU's memory must be free so soon after the run: Ray's workers end a little later than their driver."""
DICE_TOLERANCE = 0.1
"""Between the best validation Dice of bfloat16 and float32. Wide: two short trainings from random weights part ways by
rounding alone; what it must catch is a mixed precision that does not learn."""


@dataclass(frozen=True)
class Variant:
    name: str
    engine: str
    workers: int | None
    """None: as `resources: auto` finds."""
    words: tuple[str, ...] = ()


RAY = Variant("ray", "ray", 2)
LOCAL = Variant("local", "local", 1)
FLOAT32 = Variant("float32", "local", 1, ("training.amp=false",))
AUTO = Variant("auto", "ray", None, ("resources.gpu_per_center=auto", "resources.workers=auto"))
FULL = Variant("full", "ray", 2)
ROOM = 1.5
"""What :data:`FULL` leaves free on the GPU, in what one worker needs."""
SWEEP = ("seed=0..3", "federation.rounds=2", "resources.gpu_per_center=0.25")
FREED = """
import sys, torch
from fedkvasir.simulation import run_scenario
run_scenario(sys.argv[1], tuple(sys.argv[3:]), out=sys.argv[2], engine="local")
print(torch.cuda.memory_reserved() / 2**20 if torch.cuda.is_available() else 0.0)
"""


class Checks:
    """PASS and FAIL lines."""

    def __init__(self) -> None:
        self.failed = 0

    def __call__(self, passed: bool, text: str) -> None:
        self.failed += not passed
        print(f"{'PASS' if passed else 'FAIL'}  {text}", flush=True)


@dataclass(frozen=True)
class Finished:
    """A run that ended well, and the device's memory in use around it, MiB."""

    run: Run
    seconds: float
    before_mib: float
    during_mib: float
    after_mib: float

    @property
    def machine(self) -> dict[str, Any]:
        return json.loads((self.run.folder / "environment.json").read_text())

    @property
    def at_once(self) -> int:
        """Workers it ended with."""
        return self.machine["workers"] - len(self.machine["notes"])

    @property
    def steps_per_s(self) -> float:
        """Median over rounds 2..N of all hospitals' steps over the time they took: side by side, or in turn."""
        rounds = self.run.rounds
        train = rounds[(rounds["phase"] == "train") & (rounds["round"] > 1)].groupby("round")
        seconds = train["seconds"].max() if self.at_once > 1 else train["seconds"].sum()
        return float((train["steps"].sum() / seconds).median())

    @property
    def losses(self) -> np.ndarray:
        rounds = self.run.rounds
        return rounds.loc[(rounds["phase"] == "train") & (rounds["metric"] == "loss"), "value"].to_numpy()

    @property
    def dice(self) -> float:
        """Best round's validation Dice, mean over training centers."""
        rounds = self.run.rounds
        val = rounds[(rounds["phase"] == "val") & (rounds["metric"] == "dice")]
        return float(val.groupby("round")["value"].mean().max())


def used_mib(device: str) -> float:
    """Memory in use on the whole device, by any process; 0 without a GPU."""
    if device == "cpu":
        return 0.0
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return (total_bytes - free_bytes) / 2**20


class Bench:
    """The scenario on a device, in a folder of its own, with checks and what was measured."""

    def __init__(self, device: str, overrides: tuple[str, ...], folder: Path) -> None:
        self.device, self.folder, self.expect, self.rows = device, folder, Checks(), list[dict[str, Any]]()
        self.scenario = folder / "gpu-check.yaml"
        self.scenario.write_text(SCENARIO)
        self.words = (*overrides, f"resources.device={device}")

    def plan(self, *words: str) -> Plan:
        return make_plan(load(self.scenario, (*self.words, *words)))

    def run(self, variant: Variant) -> Finished | None:
        """`fedkvasir run` in a process of its own, examined; None if it failed."""
        out = self.folder / variant.name
        workers = ["--workers", str(variant.workers)] if variant.workers else []
        words = [*self.words, *variant.words, "--quiet", "--engine", variant.engine, *workers, "--out", str(out)]
        before_mib, began = used_mib(self.device), time.monotonic()
        during_mib = before_mib
        process = subprocess.Popen([*COMMAND, "run", str(self.scenario), *words], stdout=subprocess.DEVNULL)
        while process.poll() is None:
            during_mib = max(during_mib, used_mib(self.device))
            if time.monotonic() - began > TIMEOUT_S:
                process.kill()
            time.sleep(0.2)
        seconds = time.monotonic() - began
        self.expect(process.returncode == 0, f"{variant.name}: the run ends well")
        if process.returncode:
            return None
        until = time.monotonic() + RELEASE_S
        while used_mib(self.device) > before_mib + MEMORY_TOLERANCE_MIB and time.monotonic() < until:
            time.sleep(0.2)
        (run,) = out.iterdir()
        done = Finished(Run(run), seconds, before_mib, during_mib, used_mib(self.device))
        self.examine(variant, done)
        return done

    def examine(self, variant: Variant, done: Finished) -> None:
        plan, expect = done.run.plan, self.expect
        precision = "bfloat16" if plan.scenario.training.amp and self.device == "cuda" else "float32"
        expect(plan.precision == precision, f"{variant.name}: ran in {plan.precision}, expected {precision}")
        wanted = len(plan.training_centers) * plan.scenario.federation.rounds
        finite = int(np.isfinite(done.losses).sum())
        expect(finite == wanted, f"{variant.name}: {finite} finite losses of {wanted}")
        left = done.after_mib - done.before_mib
        expect(
            left <= MEMORY_TOLERANCE_MIB,
            f"{variant.name}: {left:+.0f} MiB in use after the run against before (tolerance {MEMORY_TOLERANCE_MIB})",
        )
        peak_mib = float(done.run.rounds["peak_mib"].max())
        print(
            f"      {done.steps_per_s:.2f} steps/s, {done.seconds:.0f} s in all, peak {peak_mib:.0f} MiB a process; "
            f"device: {done.before_mib:.0f} MiB before, {done.during_mib:.0f} during, {done.after_mib:.0f} after"
        )
        row = {
            "variant": variant.name,
            "engine": variant.engine,
            "workers": done.at_once,
            "precision": plan.precision,
            "seconds": done.seconds,
            "steps_per_s": done.steps_per_s,
            "peak_mib": peak_mib,
            "device_before_mib": done.before_mib,
            "device_during_mib": done.during_mib,
            "device_after_mib": done.after_mib,
            "freed": left <= MEMORY_TOLERANCE_MIB,
            "val_dice": done.dice,
            "weights_sha256": done.run.result["weights_sha256"],
        }
        self.rows.append(row)

    def as_fit(self) -> None:
        """`resources: auto` counts the GPU's memory."""
        if done := self.run(AUTO):
            because = done.machine["workers_because"]
            self.expect("GPU(s)" in because or self.device == "cpu", f"auto: {done.at_once} worker(s): {because}")

    def full(self) -> None:
        """Take the GPU's memory but for one worker and a half."""
        step = measure_step(self.plan())
        free_bytes, _ = torch.cuda.mem_get_info()
        taken = torch.empty(int(free_bytes - ROOM * step.gpu_mib * 2**20), dtype=torch.uint8, device="cuda")
        print(f"INFO  full: {ROOM} x {step.gpu_mib:.0f} MiB are left on the GPU")
        if done := self.run(FULL):
            notes, failures = done.machine["notes"], done.run.result["failures"]
            said = len(notes) == 1 and "out of GPU memory; goes on with 1 worker(s)" in notes[0]
            self.expect(said and not failures, f"full: {notes}, {len(failures)} failures")
        del taken
        torch.cuda.empty_cache()

    def freed(self) -> None:
        """A process that has finished a run."""
        words = [str(self.scenario), str(self.folder / "freed"), *self.words, "federation.rounds=1"]
        done = subprocess.run([sys.executable, "-c", FREED, *words], capture_output=True, text=True, timeout=TIMEOUT_S)
        left_mib = float(done.stdout) if done.returncode == 0 else np.nan
        self.expect(
            left_mib < MEMORY_TOLERANCE_MIB, f"freed: {left_mib:.0f} MiB are torch's in a process after its run"
        )

    def sweep(self) -> None:
        """Four runs at a time, each with a quarter of the GPU."""
        out, began = self.folder / "sweep", time.monotonic()
        words = [*self.words, *SWEEP, "--quiet", "--concurrent", "4", "--out", str(out)]
        code = subprocess.run([*COMMAND, "sweep", str(self.scenario), *words], timeout=TIMEOUT_S).returncode
        runs = [Run(path.parent) for path in out.glob("*/result.json")]
        spans = [
            ((run.folder / "plan.json").stat().st_mtime, (run.folder / "result.json").stat().st_mtime) for run in runs
        ]
        at_once = max((sum(begin <= other < end for begin, end in spans) for other, _ in spans), default=0)
        self.expect(
            code == 0 and len(runs) == at_once == 4 and {run.plan.device for run in runs} == {self.device},
            f"sweep: {len(runs)} of 4 runs ended well on {self.device}, {at_once} at a time, "
            f"in {time.monotonic() - began:.0f} s",
        )


def compare_weights(one: Run, other: Run) -> str:
    """Whether two runs ended in the same weights, else how far apart the farthest value is."""
    if one.result["weights_sha256"] == other.result["weights_sha256"]:
        return f"the same weights, sha256 {one.result['weights_sha256'][:16]}"
    first, second = one.checkpoint("last").state, other.checkpoint("last").state
    gaps = {name: float(np.abs(first[name].astype(np.float64) - second[name]).max()) for name in first}
    worst = max(gaps, key=lambda name: gaps[name])
    return f"other weights; largest difference {gaps[worst]:.3g}, in {worst} (up to {np.abs(first[worst]).max():.3g})"


def describe(device: str) -> dict[str, str]:
    """Device, driver and versions, for the CSV."""
    driver = "none"
    if device == "cuda":
        tool = shutil.which("nvidia-smi")
        query = [tool, "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"] if tool else None
        driver = subprocess.run(query, capture_output=True, text=True).stdout.strip() if query else "unknown"
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"device": name, "driver": driver, "torch": torch.__version__}


def check(device: str, results: Path, overrides: tuple[str, ...] = ()) -> int:
    """Run and check everything, write ``gpu_check-<device>.csv`` into ``results``; the exit code.

    device: ``cuda``, or ``cpu`` to try the script itself where there is no GPU.
    """
    facts, with_ray = describe(device), importlib.util.find_spec("ray") is not None
    print(json.dumps(facts))
    if not with_ray:
        print("NO RAY HERE: only --engine local is checked")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, overrides, Path(folder))
        local, float32 = bench.run(LOCAL), bench.run(FLOAT32)
        if local and float32:
            text = f"validation Dice {local.dice:.3f} with training.amp, {float32.dice:.3f} without"
            bench.expect(abs(local.dice - float32.dice) <= DICE_TOLERANCE, f"{text} (tolerance {DICE_TOLERANCE})")
        bench.freed()
        if with_ray:
            ray = bench.run(RAY)
            if ray and local:
                speed = ray.steps_per_s / local.steps_per_s
                print(f"INFO  two hospitals at once make {speed:.2f} x the steps a second of one after another")
                print(f"INFO  ray and local: {compare_weights(ray.run, local.run)}")
            bench.as_fit()
            bench.sweep()
            if device == "cuda":
                bench.full()
    if bench.rows:
        slug = re.sub(r"[^a-z0-9]+", "-", facts["device"].lower()).strip("-")
        path = results / f"gpu_check-{slug}.csv"
        write_atomic(path, pd.DataFrame([facts | row for row in bench.rows]).round(4).to_csv(index=False))
        print(f"wrote {path}")
    print("all checks passed" if not bench.expect.failed else f"{bench.expect.failed} CHECKS FAILED")
    return 1 if bench.expect.failed else 0


def main() -> int:
    if not torch.cuda.is_available():
        print("NO GPU HERE: NOTHING WAS CHECKED. Run this on a machine with an NVIDIA GPU that torch can see.")
        return 0
    return check("cuda", Path(__file__).resolve().parent / "results")


if __name__ == "__main__":
    sys.exit(main())
