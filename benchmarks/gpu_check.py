"""Everything that only shows on a GPU: what is computed there, beside the same on the processor; what is said and done
where its memory does not suffice, or it is lost; hospitals that share one, in turn, under Ray, as many as fit, more
than fit; and the runs of a sweep.

    python benchmarks/gpu_check.py [--results DIR] [--only CHECK ...]

It ends within eight minutes; what it did not come to is a FAIL, and ``--only`` does that by its name. A fault is a
FAIL, and the next check begins. Every line is printed, and every table written, as soon as it is known:
``gpu_check-<device>-checks.csv`` holds the lines, ``gpu_check-<device>.csv`` what runs took. PASS and FAIL are checks.
INFO has no right answer: whether the same step twice, a run that was stopped, and both engines end in the same bits
(some of CUDA's kernels sum in another order each time; docs/engines.md). Run it alone: memory in use is that of all
processes. Exit code 1 if a check fails; 0 otherwise, also where there is no GPU, which it says.

For a machine without a network that has torch, on another one, in the repository:

1. ``pip wheel --no-deps -w .whl .``: fedkvasir itself, for a run records its version.
2. ``pip download --no-deps --only-binary=:all: --python-version 3.12 --platform manylinux_2_28_x86_64 --platform
   manylinux_2_17_x86_64 -d .whl`` of every requirement, and of theirs, that is lacking there, or is there in a version
   that Flower does not take: protobuf, typer, rich, packaging, pathspec.
3. ``pip install --no-index --no-deps --no-compile --only-binary=:all: --python-version 3.12 --platform (as above)
   --target site .whl/*.whl``, then ``rm -r site/ray/{jars,dashboard/client,rllib,serve,llm}``, which nothing here
   needs, and ``tar cJf site.tar.xz site``: some 50 MB.
4. Carry that and this file there: ``tar xJf site.tar.xz && PYTHONPATH=$PWD/site timeout 540 python -u
   benchmarks/gpu_check.py --results DIR``.

Without Ray only ``--engine local`` is checked, and that is said.
"""

import argparse
import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch

from clients.evaluate import evaluate
from fedkvasir import exchange
from fedkvasir.batch_size import example_batch, fix_batch_size
from fedkvasir.data.augment import AUGMENTS, Augment
from fedkvasir.data.loader import train_batches
from fedkvasir.data.synthetic import render
from fedkvasir.data.synthetic.looks import LOOKS
from fedkvasir.errors import reason_of
from fedkvasir.estimate import measure_step
from fedkvasir.files import write_atomic
from fedkvasir.gpu import is_full
from fedkvasir.losses import LOSSES
from fedkvasir.machine import cores
from fedkvasir.models import MODELS, build_model
from fedkvasir.plan import Plan, make_plan
from fedkvasir.prediction import predict_images
from fedkvasir.runs import Run
from fedkvasir.scenario import Model, Training, load
from fedkvasir.simulation import Simulation, run_scenario
from fedkvasir.training import make_optimizer, train_epochs

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
    synthetic: {patients_per_center: 40}
model: {name: unet, encoder: resnet34, weights: null}
training: {loss: dice+bce, optimizer: adam, lr: 3.0e-4, batch_size: 16, epochs: 4, augment: light}
federation: {rounds: 6}
resources: {gpu_per_center: 0.5}
"""
BUDGET_S = 460
"""No check begins, and no run goes on, so long after the first: a GPU is often lent for minutes."""
TIMEOUT_S = 150
"""Of one run. Ray waits for ever for a share of a GPU that it does not have."""
MEMORY_TOLERANCE_MIB = 64
"""After a run, this much more may be in use than before: what a driver keeps for itself."""
KEPT_MIB = 192
"""What cuBLAS may keep for its workspaces in a process that has let go of everything."""
RELEASE_S = 30
"""A GPU's memory must be free so soon after the run: Ray's workers end a little later than their driver."""
DICE_TOLERANCE = 0.1
"""So much lower may the best validation Dice with mixed precision be. Wide: two short trainings from random weights
part ways by rounding alone; what it must catch is a mixed precision that does not learn."""
SCORE_TOLERANCE = 0.02
"""Between the Dice of the same weights on the same images, on the GPU in bfloat16 and on the processor."""
LOGIT_TOLERANCE = 1e-3
"""Between a network's logits in float32 (TF32 off) and the processor's, as a share of the largest."""


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
ROOM = 1.2
"""What :data:`FULL` leaves free on the GPU, in what one worker needs: near its limit torch makes do with less than it
took before, and two must not fit."""
SWEEP = ("seed=0..3", "federation.rounds=2", "resources.gpu_per_center=0.25")
THREADS = max(1, cores() // 4)
"""Of a hospital, so that the GPU need not wait for its batches, and four runs at a time have their cores."""
SMALL = (
    "data.image_size=64", "data.options.synthetic={patients_per_center: 12, image_scale: 0.25}",
    "training.batch_size=8", "training.epochs=1", "federation.rounds=2", "model.encoder=tu-lcnet_050",
)  # fmt: skip
MEMBERS = "[{name: unet, encoder: tu-lcnet_050}, {name: linknet, encoder: tu-lcnet_050}]"
KINDS = {
    "fedavg": (),
    "fedprox": ("algorithm=fedprox",),
    "fedbn": ("algorithm=fedbn",),
    "scaffold": ("algorithm=scaffold", "training.optimizer=sgd", "training.momentum=0", "training.lr=0.01"),
    "fedadam": ("algorithm=fedadam",),
    "cyclic": ("algorithm=cyclic",),
    "moments kept": ("training.optimizer_state=keep", "training.accumulate=2"),
    "softmax, lovasz": ("model.activation=softmax", "training.loss=lovasz"),
    "batch size found": ("training.batch_size=auto",),
    "ensemble": (f"model={{name: ensemble, members: {MEMBERS}, fusion: weighted}}",),
    "classes": (
        "task=classification", "model={name: resnet18}", "training.loss={name: cross-entropy, class_weights: balanced}",
        "data.options.synthetic={task: classification, patients_per_center: 24, image_scale: 0.25}",
    ),
}  # fmt: skip
"""What a small run can ask of a GPU besides."""
ENCODERS = {"dpt": "tu-vit_tiny_patch16_224", "segformer": "mit_b0"}
LOST = """
import torch
from fedkvasir.gpu import is_lost
there = torch.zeros(4, device="cuda")
assert not is_lost()
try:
    print(there[torch.tensor([9], device="cuda")].sum().item())
except RuntimeError:
    pass
print(is_lost(), flush=True)
"""
CROWDED = """
import torch
from fedkvasir.errors import reason_of
try:
    kept, weight = [], torch.rand(64, 64, 3, 3, device="cuda")
    while True:
        kept.append(torch.nn.functional.conv2d(torch.rand(8, 64, 256, 256, device="cuda"), weight, padding=1))
        kept.append(torch.rand(512, 512, device="cuda") @ torch.rand(512, 512, device="cuda"))
except RuntimeError as error:
    print("".join(reason_of(error).split(chr(10))))
"""
ROOMS_MIB = (50, 300, 600, 900)
"""Left for :data:`CROWDED`: none for CUDA itself, none or little for its libraries, some for tensors."""


class Checks:
    """PASS and FAIL lines, also as a table that is written with every line."""

    def __init__(self, table: Path) -> None:
        self.table, self.rows, self.failed = table, list[dict[str, Any]](), 0
        self.began = time.monotonic()

    def __call__(self, passed: bool, text: str) -> None:
        self.failed += not passed
        self.say("PASS" if passed else "FAIL", text)

    def say(self, word: str, text: str) -> None:
        print(f"{word}  {text}", flush=True)
        self.rows.append({"said": word, "text": text, "after_s": round(time.monotonic() - self.began, 1)})
        write_atomic(self.table, pd.DataFrame(self.rows).to_csv(index=False))


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


class Bench:
    """The scenario on a device, in a folder of its own, with checks and what was measured."""

    def __init__(self, device: str, overrides: tuple[str, ...], folder: Path, results: Path) -> None:
        self.facts = describe(device)
        slug = re.sub(r"[^a-z0-9]+", "-", self.facts["device"].lower()).strip("-")
        self.table = results / f"gpu_check-{slug}.csv"
        self.expect = Checks(results / f"gpu_check-{slug}-checks.csv")
        self.device, self.folder, self.rows = device, folder, list[dict[str, Any]]()
        self.scenario = folder / "gpu-check.yaml"
        self.scenario.write_text(SCENARIO)
        self.words = (f"resources.threads_per_center={THREADS}", *overrides, f"resources.device={device}")
        self.done: dict[str, Finished] = {}

    @property
    def left_s(self) -> float:
        return BUDGET_S - (time.monotonic() - self.expect.began)

    def attempt(self, check: Callable[[], None]) -> None:
        """One check; what goes wrong in it does not end the others."""
        name, began = check.__name__, time.monotonic()
        if self.is_over(name):
            return
        try:
            check()
        except Exception as error:
            traceback.print_exc()
            self.expect(False, f"{name}: {reason_of(error)}")
        if self.device == "cuda":
            with suppress(RuntimeError):
                torch.cuda.empty_cache()
        print(f"      {name}: {time.monotonic() - began:.0f} s", flush=True)

    def is_over(self, name: str) -> bool:
        """Whether there is no time left; then what is not begun any more is a FAIL."""
        if self.left_s < 0:
            self.expect(False, f"{name}: NOT CHECKED, {BUDGET_S} s were over")
        return self.left_s < 0

    def plan(self, *words: str) -> Plan:
        return make_plan(load(self.scenario, (*self.words, *words)))

    # ---- in this process

    def losses(self) -> None:
        """Values and gradients, as on the processor."""
        stream = torch.Generator().manual_seed(0)
        shapes = {"segmentation": (4, 2, 48, 48), "classification": (16, 5)}
        for task, known in LOSSES.items():
            logits = 3 * torch.randn(shapes[task], generator=stream)
            for name, loss in known.items():
                target = (torch.rand(shapes[task], generator=stream) > 0.7).float()
                if task == "classification":
                    target = torch.randint(0, 5, (16,), generator=stream)
                    loss = partial(loss, class_weights=[0.5, 1.0, 2.0, 1.0, 3.0])
                found = []
                for device in ("cpu", self.device):
                    own = logits.to(device, copy=True).requires_grad_()
                    value = loss(own, target.to(device))
                    value.backward()
                    found.append(torch.cat([value.detach().reshape(1), own.grad.flatten()]).cpu())
                gap = float((found[0] - found[1]).abs().max() / found[0].abs().max())
                self.expect(gap < 1e-4, f"loss {name} ({task}): value and gradient within {gap:.1g} of the processor's")

    def networks(self) -> None:
        """Logits as on the processor; steps in the precision of runs are finite; the same steps, the same bits?"""
        names = [(task, name) for task in MODELS for name in MODELS[task] if name not in ("resnet152", "densenet161")]
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False  # as in a worker
        other_bits, plan = list[str](), self.plan(*SMALL, "data.image_size=128")
        for task, name in names if self.device == "cuda" else names[:1]:
            if self.is_over(f"network {name}"):
                continue
            try:
                other_bits += [] if self.network(task, name, plan) else [name]
            except (RuntimeError, ValueError) as error:
                self.expect(False, f"network {name}: {reason_of(error)}")
        self.expect.say(
            "INFO", f"networks of which the same step twice has other bits: {', '.join(other_bits) or 'none'}"
        )

    def network(self, task: str, name: str, plan: Plan) -> bool:
        """Whether the same steps ended in the same bits. plan: for its precision and the size of its images."""
        encoder = None if task == "classification" else ENCODERS.get(name, "resnet18")
        spec, device = Model(name=name, encoder=encoder), torch.device(self.device)
        network, images = build_model(spec, task, 3, seed=0).eval(), torch.rand(2, 3, 128, 128)
        with torch.no_grad():
            expected = network(images)
            with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
                found = network.to(device)(images.to(device)).cpu()
        gap = float((found - expected).abs().max() / expected.abs().max())
        start = exchange.read(network, network.state_dict())
        batch, training = example_batch(plan.scenario, 3, 4), Training(lr=0.01, optimizer="sgd", momentum=0.0)
        if task == "classification":
            batch = replace(batch, targets=torch.tensor([0, 1, 2, 0]))
        ends, losses = [], []
        for _ in range(2):
            exchange.write(network, start)
            torch.manual_seed(0)
            loss = LOSSES[task]["dice+bce" if task == "segmentation" else "cross-entropy"]
            trained = train_epochs(
                network, lambda _: iter([batch, batch]), loss, make_optimizer(network, training), {0: 0.01},
                device, plan.precision,
            )  # fmt: skip
            losses.append(trained.loss)
            ends.append(exchange.sha256(exchange.read(network, network.state_dict())))
        text = f"logits within {gap:.1g} of the processor's; two steps in {plan.precision}, loss {losses[0]:.3f}"
        self.expect(gap < LOGIT_TOLERANCE and bool(np.isfinite(losses).all()), f"network {name}: {text}")
        return ends[0] == ends[1]

    def made_ahead(self) -> None:
        """Batches that threads make ahead and pin."""
        plan = self.plan(*SMALL)
        samples = plan.part(plan.training_centers[0], "train")
        augment = Augment(AUGMENTS["light"](plan.scenario.data.image_size))
        plain, ahead = (train_batches(samples, 4, augment, seed=1, threads=threads) for threads in (0, 2))
        same, pinned = [], []
        for one, other in zip(plain, ahead, strict=True):
            images = other.images.to(self.device, non_blocking=True)
            pinned.append(other.images.is_pinned() and other.targets.is_pinned())
            del other
            same.append(torch.equal(one.images, images.cpu()) and images.stride() == one.images.stride())
        self.expect(
            all(same) and len(same) > 1 and all(pinned) == (self.device == "cuda"),
            f"{len(same)} batches made ahead by threads are those made in turn, pinned: {all(pinned)}",
        )

    def small(self, kind: str, place: str = "small") -> Run:
        out = self.folder / place / kind.replace(" ", "-").replace(",", "")
        return run_scenario(self.scenario, (*self.words, *SMALL, *KINDS[kind]), out=out, engine="local")

    def small_runs(self) -> None:
        """Whole runs in this process: algorithms, what hospitals keep, classes, an ensemble."""
        for kind in KINDS if self.device == "cuda" else ("fedavg", "classes"):
            if self.is_over(f"small run, {kind}"):
                continue
            try:
                run = self.small(kind)
                losses = run.rounds.loc[run.rounds["metric"] == "loss", "value"]
                fine = bool(np.isfinite(losses).all()) and run.plan.device == self.device
                failed = len(run.result["failures"])
                self.expect(fine and not failed, f"small run, {kind}: {run.plan.precision}, {failed} failures")
            except Exception as error:
                traceback.print_exc()
                self.expect(False, f"small run, {kind}: {reason_of(error)}")

    def scores_and_masks(self) -> None:
        """A model trained here, applied here and on the processor."""
        run = self.small("fedavg")
        plan, dice = run.plan, {}
        samples = plan.part("edinburgh", "test")
        for device, precision, threads in ((self.device, plan.precision, 2), ("cpu", "float32", 0)):
            where, network = torch.device(device), run.model().to(device)
            rows, _ = evaluate(network, samples, plan.scenario, plan.classes, where, precision, threads)
            pixels = rows[["tp", "fp", "fn"]].sum()
            dice[device] = float(2 * pixels["tp"] / (2 * pixels["tp"] + pixels["fp"] + pixels["fn"]))
        gap = abs(dice[self.device] - dice["cpu"])
        self.expect(
            gap < SCORE_TOLERANCE, f"Dice over all pixels {dice} of the same weights (tolerance {SCORE_TOLERANCE})"
        )
        pictures, masks = self.folder / "pictures", []
        pictures.mkdir()
        for patient in range(4):
            pixels = render(LOOKS["edinburgh"], "polyps", 9, patient, scale=0.3)[0]
            cv2.imwrite(str(pictures / f"{patient}.png"), pixels[..., ::-1])
        for device in (self.device, "cpu"):
            out = self.folder / f"masks-{len(masks)}"
            predict_images([run], [pictures], out, device=device, tta="flips")
            masks.append(np.concatenate([cv2.imread(str(out / f"{n}.png"), 0).ravel() for n in range(4)]))
        share = float((masks[0] == masks[1]).mean())
        self.expect(share > 0.98, f"predicted masks agree with the processor's on {share:.4f} of the pixels")

    def stopped(self) -> None:
        """A run that is stopped after its first round and goes on."""

        def stop(run: Run, event: Any) -> None:
            if event.kind == "round":
                raise KeyboardInterrupt

        whole, out = self.small("fedavg"), self.folder / "stopped"
        scenario = load(self.scenario, (*self.words, *SMALL))
        with suppress(KeyboardInterrupt), Simulation(out=out, engine="local") as simulation:
            simulation.run(scenario, watch=stop)
        (folder,) = out.iterdir()
        stopped = Run(folder).latest()
        again = run_scenario(self.scenario, (*self.words, *SMALL), out=out, engine="local")
        self.expect(stopped is not None and again.result["rounds"] == 2, "a run that was stopped goes on to its end")
        self.expect.say("INFO", f"stopped and not: {compare_weights(again, whole)}")

    def freed(self) -> None:
        """Of all that, nothing is left in this process."""
        torch.cuda.empty_cache()
        held, kept = (count() / 2**20 for count in (torch.cuda.memory_allocated, torch.cuda.memory_reserved))
        self.expect(kept < KEPT_MIB, f"freed: {held:.0f} MiB are held and {kept:.0f} kept in a process after its runs")

    def batch_found(self) -> None:
        """`batch_size: auto` in a small part of the GPU and in a larger one; afterwards there is no limit."""
        total, sizes = torch.cuda.get_device_properties(0).total_memory, []
        plan = self.plan()
        for gib in (2, 6):
            words = ("training.batch_size=auto", f"resources.gpu_per_center={gib * 2**30 / total}")
            scenario = load(self.scenario, (*self.words, *words))
            sizes.append(fix_batch_size(replace(plan, scenario=scenario)).scenario.training.batch_size)
        torch.empty(int(0.3 * torch.cuda.mem_get_info()[0]), dtype=torch.uint8, device="cuda")
        self.expect(sizes[0] < sizes[1], f"batch_size: auto is {sizes[0]} in 2 GiB, {sizes[1]} in 6 GiB")

    # ---- what is said of a GPU that is full or lost

    def crowded(self) -> None:
        """Whatever torch says in a process for which too little is left, it is known for what it is."""
        for room_mib in ROOMS_MIB:
            free_bytes, _ = torch.cuda.mem_get_info()
            taken = torch.empty(free_bytes - room_mib * 2**20, dtype=torch.uint8, device="cuda")
            self.expect(is_full(said := alone(CROWDED)), f"of {room_mib} MiB left is said: {said[:160]}")
            del taken
            torch.cuda.empty_cache()

    def lost(self) -> None:
        """After an assertion on the device every call fails in that process, and it knows."""
        self.expect((said := alone(LOST)) == "True", f"a process that lost its GPU knows: {said}")

    # ---- runs in processes of their own

    def run(self, variant: Variant) -> Finished | None:
        """`fedkvasir run` in a process of its own, examined; None if it failed."""
        out = self.folder / variant.name
        workers = ["--workers", str(variant.workers)] if variant.workers else []
        words = [*self.words, *variant.words, "--quiet", "--engine", variant.engine, *workers, "--out", str(out)]
        before_mib, began = used_mib(self.device), time.monotonic()
        during_mib = before_mib
        with tempfile.TemporaryFile("w+") as said:
            command = [*COMMAND, "run", str(self.scenario), *words]
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=said)
            while process.poll() is None:
                during_mib = max(during_mib, used_mib(self.device))
                if time.monotonic() - began > TIMEOUT_S or self.left_s < 0:
                    process.kill()
                time.sleep(0.2)
            seconds = time.monotonic() - began
            said.seek(0)
            why = last_words(said.read()) if process.returncode else ""
        self.expect(process.returncode == 0, f"{variant.name}: the run ends well, in {seconds:.0f} s{why}")
        if process.returncode:
            return None
        until = time.monotonic() + RELEASE_S
        while used_mib(self.device) > before_mib + MEMORY_TOLERANCE_MIB and time.monotonic() < until:
            time.sleep(0.2)
        (run,) = out.iterdir()
        done = self.done[variant.name] = Finished(Run(run), seconds, before_mib, during_mib, used_mib(self.device))
        self.examine(variant, done)
        return done

    def examine(self, variant: Variant, done: Finished) -> None:
        plan, expect = done.run.plan, self.expect
        ampere = self.device == "cuda" and torch.cuda.get_device_capability()[0] >= 8
        precision = ("bfloat16" if plan.scenario.training.amp else "tf32") if ampere else "float32"
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
        self.rows.append(self.facts | row)
        write_atomic(self.table, pd.DataFrame(self.rows).round(4).to_csv(index=False))

    def local(self) -> None:
        """One hospital after another; beside it what `resources: auto` would have reckoned for a worker."""
        done = self.run(LOCAL)
        if done and self.device == "cuda":
            step, took = measure_step(self.plan()), done.during_mib - done.before_mib
            text = f"{step.gpu_mib:.0f} MiB are reckoned for a worker, {took:.0f} were taken on the device"
            self.expect(0.7 < step.gpu_mib / took < 1.5, f"local: {text}")

    def float32(self) -> None:
        """Without mixed precision."""
        done = self.run(FLOAT32)
        if done and (local := self.done.get("local")):
            text = f"validation Dice {local.dice:.3f} with training.amp, {done.dice:.3f} without"
            self.expect(local.dice >= done.dice - DICE_TOLERANCE, f"{text} (tolerance {DICE_TOLERANCE})")

    def ray(self) -> None:
        """Two workers on one GPU."""
        done = self.run(RAY)
        if done and (local := self.done.get("local")):
            speed = done.steps_per_s / local.steps_per_s
            self.expect.say("INFO", f"two hospitals at once make {speed:.2f} x the steps a second of one after another")
            self.expect.say("INFO", f"ray and local: {compare_weights(done.run, local.run)}")

    def as_fit(self) -> None:
        """`resources: auto` counts the GPU's memory."""
        if done := self.run(AUTO):
            because = done.machine["workers_because"]
            self.expect("GPU(s)" in because or self.device == "cpu", f"auto: {done.at_once} worker(s): {because}")

    def full(self) -> None:
        """Take the GPU's memory but for what one worker needs, and a little."""
        step = measure_step(self.plan())
        free_bytes, _ = torch.cuda.mem_get_info()
        taken = torch.empty(int(free_bytes - ROOM * step.gpu_mib * 2**20), dtype=torch.uint8, device="cuda")
        self.expect.say("INFO", f"full: {ROOM} x {step.gpu_mib:.0f} MiB are left on the GPU")
        if done := self.run(FULL):
            notes, failures = done.machine["notes"], done.run.result["failures"]
            said = len(notes) == 1 and "out of GPU memory; goes on with 1 worker(s)" in notes[0]
            self.expect(said and not failures, f"full: {notes}, {len(failures)} failures")
        del taken

    def sweep(self) -> None:
        """Four runs at a time, each with a quarter of the GPU."""
        out, began = self.folder / "sweep", time.monotonic()
        words = [*self.words, *SWEEP, "--quiet", "--concurrent", "4", "--out", str(out)]
        left_s = min(TIMEOUT_S, self.left_s)
        command = [*COMMAND, "sweep", str(self.scenario), *words]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=left_s)
        why = last_words(done.stderr) if done.returncode else ""
        runs = [Run(path.parent) for path in out.glob("*/result.json")]
        spans = [
            ((run.folder / "plan.json").stat().st_mtime, (run.folder / "result.json").stat().st_mtime) for run in runs
        ]
        at_once = max((sum(begin <= other < end for begin, end in spans) for other, _ in spans), default=0)
        self.expect(
            done.returncode == 0 and len(runs) == at_once == 4 and {run.plan.device for run in runs} == {self.device},
            f"sweep: {len(runs)} of 4 runs ended well on {self.device}, {at_once} at a time, "
            f"in {time.monotonic() - began:.0f} s{why}",
        )

    def compiled(self) -> None:
        """`training.compile`, a small network's."""
        self.run(Variant("compiled", "local", 1, (*SMALL, "training.compile=true")))


def last_words(said: str) -> str:
    """What a command that failed said last, in full for the reader of the log and its last line for the table."""
    lines = said.strip().splitlines() or ["nothing was said"]
    print("\n".join(lines[-40:]), file=sys.stderr)
    return f": {lines[-1]}"


def alone(code: str) -> str:
    """The last line of what Python says to it in a process of its own."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    return (done.stdout.strip().splitlines() or done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[
        -1
    ]


def used_mib(device: str) -> float:
    """Memory in use on the whole device, by any process; 0 without a GPU."""
    if device == "cpu":
        return 0.0
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    return (total_bytes - free_bytes) / 2**20


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
    driver, name, gib = "none", "cpu", "0"
    if device == "cuda":
        driver, tool = "unknown", shutil.which("nvidia-smi")
        with suppress(OSError, subprocess.SubprocessError):
            query = [str(tool), "--query-gpu=driver_version", "--format=csv,noheader", "--id=0"]
            driver = subprocess.run(query, capture_output=True, text=True, timeout=30).stdout.strip() or driver
        name, gib = torch.cuda.get_device_name(), f"{torch.cuda.get_device_properties(0).total_memory / 2**30:.1f}"
    facts = {"device": name, "gib": gib, "driver": driver, "torch": torch.__version__}
    facts |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    packages = ("fedkvasir", "flwr", "timm", "segmentation-models-pytorch")
    return facts | {"python": sys.version.split()[0]} | {package: version(package) for package in packages}


def check(device: str, results: Path, overrides: tuple[str, ...] = (), only: Collection[str] = ()) -> int:
    """Run and check everything, write ``gpu_check-<device>.csv`` and ``-checks.csv`` into ``results``; the exit code.

    device: ``cuda``, or ``cpu`` to try the script itself where there is no GPU. only: names of checks, in the place of
    all.
    """
    with_ray = importlib.util.find_spec("ray") is not None
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, overrides, Path(folder), results)
        bench.expect.say("INFO", json.dumps(bench.facts))
        if not with_ray:
            bench.expect.say("INFO", "NO RAY HERE: only --engine local is checked")
        gpu, ray = device == "cuda", with_ray
        checks: list[tuple[bool, Callable[[], None]]] = [
            # What hospitals share a GPU in comes first, what shows elsewhere as well last.
            (True, bench.local),
            (ray, bench.ray),
            (ray and gpu, bench.full),
            (ray, bench.as_fit),
            (ray, bench.sweep),
            (gpu, bench.batch_found),
            (gpu, bench.lost),
            (gpu, bench.crowded),
            (True, bench.losses),
            (True, bench.made_ahead),
            (True, bench.small_runs),
            (True, bench.scores_and_masks),
            (True, bench.stopped),
            (True, bench.networks),
            (gpu, bench.freed),
            (True, bench.float32),
            (gpu, bench.compiled),
        ]
        if unknown := {*only} - {one.__name__ for _, one in checks}:
            print(f"--only {' '.join(sorted(unknown))}: there is {' '.join(one.__name__ for _, one in checks)}")
            return 2
        for here, one in checks:
            if here and (not only or one.__name__ in only):
                bench.attempt(one)
        failed = bench.expect.failed
        bench.expect.say("DONE", "all checks passed" if not failed else f"{failed} CHECKS FAILED")
        print(f"wrote {bench.expect.table} and {bench.table}")
    return 1 if failed else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="What only shows on a GPU.")
    parser.add_argument("--results", type=Path, default=Path(__file__).resolve().parent / "results", metavar="DIR")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="CHECK", help="such as as_fit; the tables hold these alone"
    )
    words = parser.parse_args()
    results = words.results
    if not torch.cuda.is_available():
        print("NO GPU HERE: NOTHING WAS CHECKED. Run this on a machine with an NVIDIA GPU that torch can see.")
        return 0
    results.mkdir(parents=True, exist_ok=True)
    return check("cuda", results, only=words.only)


if __name__ == "__main__":
    sys.exit(main())
