"""Which errors say that memory ran out."""

import pytest
import torch

from heft.runtime.memory_errors import is_out_of_memory


@pytest.mark.parametrize(
    ("error", "is_so"),
    [
        (torch.OutOfMemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("MPS backend out of memory (MPS allocated: 9.00 GB)"), True),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"),
            True,
        ),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (torch.linalg.LinAlgError("linalg.cholesky: the input is not positive-definite"), False),
        (ValueError("CUDA out of memory"), False),
    ],
)
def test_memory_that_runs_out_is_known_by_many_names(error, is_so):
    assert is_out_of_memory(error) == is_so
