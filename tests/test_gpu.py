"""Workers on GPUs: what they ask for always fits."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkvasir.gpu import is_full, is_lost, precision_on, share_of_one, workers_on_one
from fedkvasir.plan import Plan, make_plan
from fedkvasir.scenario import load


@given(st.integers(1, 500), st.integers(1, 16))
def test_all_workers_find_a_place_and_none_stretches_over_two(workers: int, gpus: int) -> None:
    share = share_of_one(workers, gpus)
    assert 0 < share <= 1 and gpus * workers_on_one(share) >= workers


@pytest.mark.parametrize(
    ("share", "expected"), [(1.0, 1), (0.6, 1), (0.5, 2), (0.3, 3), (0.1429, 6), (1 / 49, 49), (0, 2)]
)
def test_how_many_fit(share: float, expected: int) -> None:
    assert workers_on_one(share) == expected


@pytest.mark.parametrize(
    "said",
    [
        "OutOfMemoryError: CUDA out of memory. Tried to allocate 20.00 MiB.",
        "AcceleratorError: CUDA error: out of memory",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
        "RuntimeError: CUDA driver error: out of memory",
        "RuntimeError: Triton Error [CUDA]: out of memory",
        "RuntimeError: Unexpected error from cudaGetDeviceCount(). [...] Error 2: out of memory",
        "RuntimeError: cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
        "RuntimeError: cuDNN error: CUDNN_STATUS_NOT_INITIALIZED",
        "RuntimeError: GET was unable to find an engine to execute this computation",
    ],
)
def test_a_full_gpu_is_known_by_what_is_said(said: str) -> None:
    assert is_full(said) and not is_full("its worker died 3 times; out of memory?")


@pytest.mark.parametrize(
    ("said", "lost"), [("an illegal memory access was encountered", True), ("out of memory", False)]
)
def test_a_gpu_that_is_merely_full_is_not_lost(monkeypatch: pytest.MonkeyPatch, said: str, lost: bool) -> None:
    def fail() -> None:
        raise RuntimeError(f"CUDA error: {said}")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    assert is_lost() == lost


Gpu = Callable[[int], None]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    """``gpu(8)``: from now on there is one of that compute capability."""

    def put(major: int) -> None:
        ampere = major >= 8
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (major, 5))
        # torch says of a T4 that bfloat16 is supported, unless it is told not to count what is emulated.
        monkeypatch.setattr(
            torch.cuda, "is_bf16_supported", lambda including_emulation=True: ampere or including_emulation
        )

    return put


@pytest.mark.parametrize(
    ("major", "mixed", "plain"), [(7, "float32", "float32"), (8, "bfloat16", "tf32"), (9, "bfloat16", "tf32")]
)
def test_a_gpu_trains_and_predicts_in_what_it_computes_in(
    tiny: Path, gpu: Gpu, major: int, mixed: str, plain: str
) -> None:
    gpu(major)
    assert make_plan(load(tiny, ("resources.device=cuda",))).precision == mixed
    assert make_plan(load(tiny, ("resources.device=cuda", "training.amp=false"))).precision == plain
    assert precision_on("cuda", mixed=True) == mixed and precision_on("cuda", mixed=False) == plain
    assert precision_on("cpu", mixed=True) == precision_on("cpu", mixed=False) == "float32"


def test_without_tf32_a_gpu_convolves_in_float32(gpu: Gpu) -> None:
    gpu(8)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        assert precision_on("cuda", mixed=False) == "float32"


def test_a_run_in_tf32_is_another_than_one_in_float32(tiny: Path, gpu: Gpu, tmp_path: Path) -> None:
    """A processor's, or one of a GPU before Ampere."""
    here = make_plan(load(tiny, ("resources.device=cpu", "training.amp=false")))
    gpu(8)
    there = make_plan(load(tiny, ("resources.device=cuda", "training.amp=false")))
    assert there.hash != here.hash and replace(there, precision="float32").hash == here.hash
    assert make_plan(load(tiny, ("resources.device=cpu", "training.amp=false"))).hash == here.hash
    there.save(tmp_path / "run")
    assert Plan.load(tmp_path / "run").precision == "tf32"
