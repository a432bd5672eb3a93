"""Every failure of a plugin becomes a status and a reason in the record."""

import re
import traceback
from typing import Any

import torch

from bench.api import Declined

# What torch's allocators and CUDA libraries say when memory is short; they raise plain RuntimeError for it.
_OUT_OF_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "std::bad_alloc",
    "_STATUS_ALLOC_FAILED",  # cuBLAS, cuDNN and cuSOLVER
    "cusolverDnCreate",  # of a device that is full it says INTERNAL_ERROR
)


# What torch says of a kernel that is not there in half precision.
_NO_KERNEL = re.compile(r"\"(\w+)\" not implemented for '(Half|BFloat16)'")
_HALVES = {"Half": "float16", "BFloat16": "bfloat16"}

# What torch's messages about CUDA go on with: hints, and the memory of every process on the device.
_REST = re.compile(r"(\n| Process \d+ has| Including non-PyTorch).*", re.DOTALL)


class PassFailedError(Exception):
    """A pass that ended with a known status, for instance in a process of its own."""

    def __init__(self, status: str, reason: dict[str, Any]):
        super().__init__(reason["message"])
        self.status = status
        self.reason = reason


class DivergedError(Exception):
    """A result that is not finite, from which it makes no sense to go on."""


class BrokenPromiseError(TypeError):
    """A method returned something that is no `Estimate` of this cell: wrong shape, dtype or device."""


def lost(device: str) -> bool:
    """Whether a CUDA error of this process is one that every later call on ``device`` meets again."""
    number = torch.device(device).index or 0
    if (
        not device.startswith("cuda")
        or not torch.cuda.is_initialized()
        or number >= torch.cuda.device_count()
    ):
        return False
    try:
        torch.cuda.synchronize(number)
    except RuntimeError:
        return True
    return False


def classify(error: Exception) -> tuple[str, dict[str, Any]]:
    """Status and reason of a failure: declined, out_of_memory, error, or what a `PassFailedError` brings."""
    if isinstance(error, PassFailedError):
        return error.status, error.reason
    kind = type(error).__name__
    reason: dict[str, Any] = {"message": str(error) or kind, "type": kind, "traceback": None}
    if isinstance(error, Declined):
        return "declined", reason
    if missing := _NO_KERNEL.search(str(error)):
        kernel, half = missing.groups()
        reason["message"] = f"torch's kernel {kernel} is not there in {_HALVES[half]}"
        return "declined", reason
    if isinstance(error, DivergedError):
        return "non_finite", reason
    reason["traceback"] = "".join(traceback.format_exception(error))
    if isinstance(error, torch.OutOfMemoryError | torch.AcceleratorError):
        reason["message"] = _REST.sub("", reason["message"])  # the traceback ends with all of it
    exhausted = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if isinstance(error, RuntimeError):
        exhausted = exhausted or any(sign in str(error) for sign in _OUT_OF_MEMORY)
    return ("out_of_memory" if exhausted else "error"), reason
