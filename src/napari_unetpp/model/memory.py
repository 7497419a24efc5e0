"""Whether an error says that a device has no memory left; training and inference go on with less then."""

from __future__ import annotations

import torch

# A RuntimeError like any other, but for its words: of the allocators of CPU and MPS, and of CUDA's own libraries.
_WORDS = ("out of memory", "can't allocate memory", "not enough memory", "ALLOC_FAILED")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device has no memory left."""
    if isinstance(error, torch.cuda.OutOfMemoryError):  # the name that torch has had since 1.13
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)


def give_back(device: torch.device) -> None:
    """Give back to the device what torch's allocator keeps for later."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
