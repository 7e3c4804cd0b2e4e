"""A GPU's full memory is told from other errors."""

from guided_diffusion.network.out_of_memory import is_out_of_memory


def test_full_memory_is_recognised_however_it_is_said():
    said = ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "CUDA error: out of memory")
    assert all(is_out_of_memory(RuntimeError(text)) for text in said)
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))
