"""Which errors mean that the memory is full, of a GPU or of the computer: libraries say it in ways of their own.

This small file stands in both script folders that use GPUs, which do not import one another.
"""

import torch

_SAID_BY_LIBRARIES = (
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # no room for its workspace: the handle is made at the first product
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "Triton Error [CUDA]: out of memory",
    "was unable to find an engine to execute this computation",  # cuDNN, where no workspace fits; or of an old GPU
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the memory is full, of the GPU or of the computer."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID_BY_LIBRARIES)


def said_by(error: BaseException) -> str:
    """The first line of what it says."""
    said = str(error).strip().splitlines()
    return said[0] if said else type(error).__name__


def full_memory(error: BaseException) -> str:
    """What to tell of memory that was full where nothing smaller could be tried."""
    return f"the memory is full ({said_by(error)}): is other work on this device?"


def memory_of(device: torch.device) -> str:
    """The memory that a computation on `device` fills, in words."""
    return "the GPU's memory" if device.type == "cuda" else "the memory"
