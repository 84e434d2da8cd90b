"""Workers on GPUs: what they ask for always fits."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedkvasir.gpu import is_full, precision_on, share_of_one, workers_on_one
from fedkvasir.plan import make_plan
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
        "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "RuntimeError: GET was unable to find an engine to execute this computation",
    ],
)
def test_a_full_gpu_is_known_by_what_is_said(said: str) -> None:
    assert is_full(said) and not is_full("its worker died 3 times; out of memory?")


@pytest.mark.parametrize(("ampere", "expected"), [(True, "bfloat16"), (False, "float32")])
def test_a_gpu_that_only_stores_bfloat16_trains_and_predicts_in_float32(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, ampere: bool, expected: str
) -> None:
    """torch says of a T4 that bfloat16 is supported, unless it is told not to count what is emulated."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: ampere or including_emulation)
    assert make_plan(load(tiny, ("resources.device=cuda",))).precision == expected
    assert make_plan(load(tiny, ("resources.device=cuda", "training.amp=false"))).precision == "float32"
    assert precision_on("cuda", mixed=True) == expected and precision_on("cpu", mixed=True) == "float32"
