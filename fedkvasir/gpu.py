"""A GPU that several workers share: how many of them fit, and what is said where they do not."""

from math import ceil

from fedkvasir.errors import UserError, reason_of

CONTEXT_BYTES = 0.6 * 2**30
"""What CUDA itself takes on a GPU for every process."""
FULL = (
    "OutOfMemoryError",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "Error [CUDA]: out of memory",
    "Error 2: out of memory",
    "_STATUS_ALLOC_FAILED",
    "DEVICE_ALLOCATION_FAILED",
    "_STATUS_NOT_INITIALIZED",
    "unable to find an engine to execute this computation",
)
"""In what torch, CUDA, Triton ([CUDA]), CUDA where it cannot even begin (2), cuBLAS (ALLOC) and cuDNN 9 (DEVICE) say of
a GPU whose memory is taken. The last but one: there
was none for the library's own handle (a driver or cuDNN that does not fit says the same, so that the reason is shown
besides). The last: torch tries one way of convolving after another, and passes over those for whose workspace there is
no memory."""


def workers_on_one(share: float) -> int:
    """How many workers fit on one GPU where each takes this share of it, 0..1; two where none is given (0)."""
    return int(1 / share + 1e-9) if share else 2


def share_of_one(workers: int, gpus: int) -> float:
    """The share of a GPU that each of so many workers can have: no worker stretches over two GPUs."""
    return 1 / ceil(workers / gpus)


def choose_device(wanted: str, key: str) -> str:
    """``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``; ``key`` is what the user set, for the sentence."""
    import torch

    there = torch.cuda.is_available()
    if wanted not in ("auto", "cpu", "cuda"):
        raise UserError(f"{key} {wanted}: use auto, cpu or cuda")
    if wanted == "cuda" and not there:
        raise UserError(f"{key} {wanted}, but torch sees no GPU here; see `fedkvasir doctor`")
    return "cuda" if there and wanted != "cpu" else "cpu"


def precision_on(device: str, mixed: bool) -> str:
    """``bfloat16``, if it may be mixed in, on a GPU that computes in it; else, on one that has it, ``tf32``, to which
    torch rounds what convolutions of float32 multiply unless ``torch.backends.cudnn.allow_tf32`` is off; else
    ``float32``. GPUs before Ampere (T4, RTX 20) have neither: bfloat16 they only store."""
    import torch

    if device != "cuda":
        return "float32"
    if mixed and torch.cuda.is_bf16_supported(including_emulation=False):
        return "bfloat16"
    ampere = torch.cuda.get_device_capability() >= (8, 0)
    return "tf32" if ampere and torch.backends.cudnn.allow_tf32 else "float32"


def is_lost() -> bool:
    """Has this process lost its GPU? After an illegal access, say, every call to CUDA fails until the process ends. One
    that is merely full it has not lost."""
    import torch

    try:
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
    except RuntimeError as error:
        return not is_full(reason_of(error))
    return False


def is_full(reason: str) -> bool:
    """Does an error say that a GPU has no memory left?"""
    return any(sign in reason for sign in FULL)
