"""Full memory is told from other errors."""

import torch

from out_of_memory import is_out_of_memory, memory_of


def test_full_memory_is_recognised_however_it_is_said():
    said = (
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "CUDA error: out of memory",
        "FIND was unable to find an engine to execute this computation",  # of cuDNN, with benchmark and without
        "GET was unable to find an engine to execute this computation",
        "Triton Error [CUDA]: out of memory",
    )
    assert all(is_out_of_memory(RuntimeError(text)) for text in said)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


def test_full_memory_of_the_computer_is_recognised():
    try:
        torch.empty(1 << 60)
    except RuntimeError as error:
        assert is_out_of_memory(error)
    assert is_out_of_memory(MemoryError())
    assert (memory_of(torch.device("cpu")), memory_of(torch.device("cuda"))) == ("the memory", "the GPU's memory")
