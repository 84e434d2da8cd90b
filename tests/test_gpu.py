"""Workers on GPUs: what they ask for always fits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkvasir.gpu import is_full, share_of_one, workers_on_one


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
    ],
)
def test_a_full_gpu_is_known_by_what_is_said(said: str) -> None:
    assert is_full(said) and not is_full("its worker died 3 times; out of memory?")
