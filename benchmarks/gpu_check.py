"""Two hospitals on one GPU: Ray with fractions and bfloat16, beside `--engine local`, beside float32.

    python benchmarks/gpu_check.py

Each variant is a `fedkvasir run` of the same small rendered scenario in a process of its own. Measured: training steps
a second in steady state (rounds 2..N), the most memory torch held in one process, and the memory in use on the device
before, during and after (by all processes: run it alone). Checked: the run ends well, in the precision asked for;
losses are finite; memory is back where it was; bfloat16 scores like float32. Reported, not checked: whether both
engines end in the same weights (CUDA kernels may sum in another order each time). Exit code 1 if a check fails; 0
otherwise, also where there is no GPU, which it says.
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

from fedkvasir.files import write_atomic
from fedkvasir.runs import Run

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
TIMEOUT_S = 900
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
    engine: str
    workers: int
    amp: bool

    @property
    def name(self) -> str:
        return f"{self.engine}, training.amp={str(self.amp).lower()}"


RAY = Variant("ray", 2, amp=True)
LOCAL = Variant("local", 1, amp=True)
FLOAT32 = Variant("local", 1, amp=False)


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

    def steps_per_s(self, workers: int) -> float:
        """Median over rounds 2..N of all hospitals' steps over the time they took: side by side, or in turn."""
        rounds = self.run.rounds
        train = rounds[(rounds["phase"] == "train") & (rounds["round"] > 1)].groupby("round")
        seconds = train["seconds"].max() if workers > 1 else train["seconds"].sum()
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


def execute(variant: Variant, device: str, overrides: tuple[str, ...], folder: Path) -> Finished | None:
    """`fedkvasir run` in a process of its own; None if it failed."""
    scenario, out = folder / "gpu-check.yaml", folder / f"{variant.engine}-{variant.amp}"
    scenario.write_text(SCENARIO)
    out.mkdir()
    command = [sys.executable, "-c", "from fedkvasir.cli import main; main()", "run", str(scenario)]
    command += [*overrides, f"training.amp={str(variant.amp).lower()}", f"resources.device={device}"]
    command += ["--quiet", "--engine", variant.engine, "--workers", str(variant.workers), "--out", str(out)]
    before_mib, began = used_mib(device), time.monotonic()
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)
    during_mib = before_mib
    while process.poll() is None:
        during_mib = max(during_mib, used_mib(device))
        if time.monotonic() - began > TIMEOUT_S:
            process.kill()
        time.sleep(0.2)
    seconds = time.monotonic() - began
    while used_mib(device) > before_mib + MEMORY_TOLERANCE_MIB and time.monotonic() - began < seconds + RELEASE_S:
        time.sleep(0.2)
    if process.returncode:
        return None
    (run,) = out.iterdir()
    return Finished(Run(run), seconds, before_mib, during_mib, used_mib(device))


def examine(variant: Variant, done: Finished, device: str, expect: Checks) -> dict[str, Any]:
    """Check one run; its row of the CSV."""
    plan, rate = done.run.plan, done.steps_per_s(variant.workers)
    precision = "bfloat16" if variant.amp and device == "cuda" else "float32"
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
        f"      {rate:.2f} steps/s, {done.seconds:.0f} s in all, peak {peak_mib:.0f} MiB in one process; "
        f"device: {done.before_mib:.0f} MiB before, {done.during_mib:.0f} during, {done.after_mib:.0f} after"
    )
    return {
        "engine": variant.engine,
        "workers": variant.workers,
        "precision": plan.precision,
        "seconds": done.seconds,
        "steps_per_s": rate,
        "peak_mib": peak_mib,
        "device_before_mib": done.before_mib,
        "device_during_mib": done.during_mib,
        "device_after_mib": done.after_mib,
        "freed": left <= MEMORY_TOLERANCE_MIB,
        "val_dice": done.dice,
        "weights_sha256": done.run.result["weights_sha256"],
    }


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
    """Run and check every variant, write ``gpu_check-<device>.csv`` into ``results``; the exit code.

    device: ``cuda``, or ``cpu`` to try the script itself where there is no GPU.
    """
    facts, expect = describe(device), Checks()
    print(json.dumps(facts))
    variants = [RAY, LOCAL, FLOAT32]
    if importlib.util.find_spec("ray") is None:
        print("NO RAY HERE: only --engine local is checked")
        variants.remove(RAY)
    rows, finished = [], {}
    with tempfile.TemporaryDirectory() as folder:
        for variant in variants:
            done = execute(variant, device, overrides, Path(folder))
            expect(done is not None, f"{variant.name}: the run ends well")
            if done:
                finished[variant] = done
                rows.append(facts | examine(variant, done, device, expect))
        if RAY in finished and LOCAL in finished:
            ray, local = finished[RAY], finished[LOCAL]
            speed = ray.steps_per_s(RAY.workers) / local.steps_per_s(LOCAL.workers)
            print(f"INFO  two hospitals at once make {speed:.2f} x the steps a second of one after another")
            print(f"INFO  ray and local: {compare_weights(ray.run, local.run)}")
        if LOCAL in finished and FLOAT32 in finished:
            amp, full = finished[LOCAL].dice, finished[FLOAT32].dice
            text = f"validation Dice {amp:.3f} with training.amp, {full:.3f} without (tolerance {DICE_TOLERANCE})"
            expect(abs(amp - full) <= DICE_TOLERANCE, text)
    if rows:
        slug = re.sub(r"[^a-z0-9]+", "-", facts["device"].lower()).strip("-")
        path = results / f"gpu_check-{slug}.csv"
        write_atomic(path, pd.DataFrame(rows).round(4).to_csv(index=False))
        print(f"wrote {path}")
    print("all checks passed" if not expect.failed else f"{expect.failed} CHECKS FAILED")
    return 1 if expect.failed else 0


def main() -> int:
    if not torch.cuda.is_available():
        print("NO GPU HERE: NOTHING WAS CHECKED. Run this on a machine with an NVIDIA GPU that torch can see.")
        return 0
    return check("cuda", Path(__file__).resolve().parent / "results")


if __name__ == "__main__":
    sys.exit(main())
