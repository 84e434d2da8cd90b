"""``batch_size: auto`` finds what fits, the same on every call, and the run is named by the number found."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import psutil
import pytest
import torch
import yaml

from fedkvasir import batch_size
from fedkvasir.batch_size import fix_batch_size, step_bytes
from fedkvasir.errors import UserError
from fedkvasir.plan import Plan, make_plan
from fedkvasir.scenario import json_schema, load
from fedkvasir.simulation import run_scenario

GIB = 2**30


@pytest.fixture
def plan(tiny: Path) -> Plan:
    return make_plan(load(tiny))


def found(plan: Plan, tiny: Path, *overrides: str, times: int = 8, **own: Any) -> int:
    """What ``auto`` finds under other keys, in hospitals so many times as large."""
    scenario, samples = load(tiny, ("training.batch_size=auto", *overrides)), pd.concat([plan.samples] * times)
    fixed = fix_batch_size(replace(plan, scenario=scenario, samples=samples, **own))
    return fixed.scenario.training.batch_size


def machine(monkeypatch: pytest.MonkeyPatch, gib: float, cores: int = 1) -> None:
    """A machine of so much memory, of which nothing is free."""
    memory = SimpleNamespace(total=int(gib * GIB), available=0)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr("os.sched_getaffinity", lambda process: set(range(cores)))


def test_no_batch_is_larger_than_the_smallest_hospital_or_64(
    plan: Plan, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, gib=100)
    smallest = int(plan.centers.loc[plan.training_centers, "train"].min())
    assert smallest == 12
    assert [found(plan, tiny, times=times) for times in (1, 2, 3, 8, 20)] == [8, 16, 32, 64, 64]


def test_less_memory_or_more_workers_or_larger_images_make_smaller_batches(
    plan: Plan, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def size(gib: float, cores: int, *overrides: str) -> int:
        machine(monkeypatch, gib, cores)
        return found(plan, tiny, "data.image_size=256", *overrides)

    assert 2 <= size(2, 1) < size(2.5, 1) < size(4, 1)
    assert size(4, 2) == size(2, 1)  # a worker of one core in two has half of it
    assert size(4, 2, "resources.threads_per_center=2") == size(4, 1)
    assert size(4, 1, "data.image_size=512") < size(4, 1)


def test_a_machine_without_room_for_two_images_says_so(plan: Plan, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gib=1)
    with pytest.raises(UserError, match=r"batch_size = auto: not even two images of 32 pixels fit"):
        found(plan, tiny)


def test_a_run_is_named_by_the_number_and_found_again(tiny: Path, tmp_path: Path) -> None:
    automatic, number = (make_plan(load(tiny, (f"training.batch_size={size}",))) for size in ("auto", 8))
    assert automatic.hash == number.hash
    run = run_scenario(tiny, ("training.batch_size=auto", "federation.rounds=1"), out=tmp_path, engine="local")
    assert yaml.safe_load((run.folder / "scenario.yaml").read_text())["training"]["batch_size"] == 8
    sha256 = run.result["weights_sha256"]
    (run.folder / "result.json").unlink()
    again = run_scenario(tiny, ("training.batch_size=auto", "federation.rounds=1"), out=tmp_path, engine="local")
    assert again.folder == run.folder and again.result["weights_sha256"] == sha256


def test_of_an_ensemble_every_member_must_fit(plan: Plan, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, gib=2.4)
    raw = yaml.safe_load(tiny.read_text())

    def size(**model: Any) -> int:
        tiny.write_text(yaml.safe_dump(raw | {"model": {"encoder": "tu-lcnet_050"} | model}))
        return found(plan, tiny, "data.image_size=256")

    small, large = {"name": "unet", "decoder_channels": [16, 8, 8, 4, 4]}, {"name": "linknet", "encoder": "resnet18"}
    assert size(name="ensemble", members=[small, large]) == size(**large) < size(**small)


def test_what_a_step_keeps_is_counted_as_it_is(plan: Plan, tiny: Path) -> None:
    """On the meta device as on a processor, and twice the side is four times the bytes."""
    plan = replace(plan, scenario=load(tiny, ("data.image_size=64",)))
    parameters, image = step_bytes(plan)
    network = batch_size.build_model(plan.scenario.model, "segmentation", 1).train()
    assert parameters == sum(4 * parameter.numel() for parameter in network.parameters())
    own = {tensor.data_ptr() for tensor in network.state_dict().values()}
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    batch = batch_size.example_batch(plan.scenario, 1, 2)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        plan.loss()(network(batch.images), batch.targets)
    real = sum(tensor.untyped_storage().nbytes() for key, tensor in kept.items() if key not in own) / 2
    assert image == pytest.approx(real, rel=0.02)
    _, larger = step_bytes(replace(plan, scenario=load(tiny, ("data.image_size=128",))))
    assert larger == pytest.approx(4 * image, rel=0.02)


GROWTH = """
import re, sys
from pathlib import Path
from fedkvasir.batch_size import timed_steps
from fedkvasir.plan import make_plan
from fedkvasir.scenario import load

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s*(\\d+)", Path("/proc/self/status").read_text())[1])

plan = make_plan(load(Path(sys.argv[1]), ("data.image_size=128",)))
timed_steps(plan, 2, 1, steps=2)
before = peak()
timed_steps(plan, 64, 1, steps=2)
print(before, peak())
"""


@pytest.mark.slow
def test_no_step_takes_more_than_is_reckoned(plan: Plan, tiny: Path) -> None:
    """The peak of 64 images of 128 pixels, measured in a process of its own, and less than three times as little."""
    done = subprocess.run([sys.executable, "-c", GROWTH, str(tiny)], capture_output=True, text=True, check=True)
    before, peak = map(int, done.stdout.split()[-2:])
    _, image = step_bytes(replace(plan, scenario=load(tiny, ("data.image_size=128",))))
    reckoned = batch_size.BACKWARD * 62 * image
    assert before < batch_size.PROCESS_BYTES
    assert reckoned / 3 < peak - before < reckoned


# ---- on a GPU


@pytest.mark.parametrize(
    ("share", "part", "full"),
    [
        ("auto", 0.5, torch.cuda.OutOfMemoryError("CUDA out of memory")),
        ("0.25", 0.25, RuntimeError("GET was unable to find an engine to execute this computation")),
    ],
)
def test_on_a_gpu_steps_are_tried_in_the_workers_part_of_it(
    plan: Plan, tiny: Path, monkeypatch: pytest.MonkeyPatch, share: str, part: float, full: RuntimeError
) -> None:
    """torch's own errors above 17 images (a last one may join 16), in place of a GPU that is not here."""
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (79 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def two_steps(plan: Plan, size: int, together: int, steps: int) -> None:
        if size > 17:
            raise full

    monkeypatch.setattr(batch_size, "timed_steps", two_steps)
    assert found(plan, tiny, f"resources.gpu_per_center={share}", device="cuda") == 16
    assert fractions == pytest.approx([0.9 * part, 1.0])


def test_a_gpu_in_use_is_not_taken_for_a_small_one(plan: Plan, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that goes on while others use it would get another batch, so another name, and begin anew."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (10 * GIB, 80 * GIB))
    with pytest.raises(UserError, match=r"70\.0 of the GPU's 80\.0 GiB are in use, .* give a number"):
        found(plan, tiny, device="cuda")


def test_a_gpu_that_others_take_meanwhile_is_not_taken_for_a_small_one(
    plan: Plan, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = [79 * GIB] * 3
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free.pop() if free else 10 * GIB, 80 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share: None)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)

    def two_steps(plan: Plan, size: int, together: int, steps: int) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(batch_size, "timed_steps", two_steps)
    with pytest.raises(UserError, match=r"70\.0 of the GPU's 80\.0 GiB are in use"):
        found(plan, tiny, device="cuda")


def test_what_cuda_itself_takes_is_not_shared_out(plan: Plan, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0.6 GiB a process: a tenth of 16 GiB leaves 1 GiB for tensors, and a thirtieth nothing."""
    fractions: list[float] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (16 * GIB, 16 * GIB))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", fractions.append)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(batch_size, "timed_steps", lambda plan, size, together, steps: None)
    found(plan, tiny, "resources.gpu_per_center=0.1", device="cuda")
    assert fractions == pytest.approx([1 / 16, 1.0])
    with pytest.raises(UserError, match="not even two images"):
        found(plan, tiny, "resources.gpu_per_center=0.033", device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_small_part_of_a_gpu_holds_smaller_batches(plan: Plan, tiny: Path) -> None:
    total = torch.cuda.get_device_properties(0).total_memory
    small, large = (
        found(plan, tiny, "data.image_size=512", f"resources.gpu_per_center={gib * GIB / total}") for gib in (0.5, 4)
    )
    assert small < large


# ---- the key


def test_the_key_takes_auto_or_a_number_from_two(tiny: Path) -> None:
    for wrong in ("1", "0", "many"):
        with pytest.raises(UserError, match=r"training\.batch_size = .*: input should be"):
            load(tiny, (f"training.batch_size={wrong}",))
    scenario = load(tiny, ("training.batch_size=auto",))
    tiny.write_text(scenario.dump())
    assert load(tiny) == scenario
    schema = json_schema()["$defs"]["Training"]["properties"]["batch_size"]
    assert {"const": "auto"} in schema["anyOf"]
