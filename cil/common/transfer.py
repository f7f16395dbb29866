"""Asynchronous copies to a GPU, and constants that stay on it."""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made", bound=tuple)


def sent(values: Tensor, device: str | torch.device) -> Tensor:
    """Copy `values` to the device. To a GPU they go through pinned memory, so that the CPU does not wait for the copy."""
    if torch.device(device).type == "cuda" and not values.is_cuda:
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def channels(values: tuple[float, ...], device: str | torch.device) -> Tensor:
    """Return one number per channel as a cached tensor (1, 3, 1, 1) on the device."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


class SideStream:
    """Prepares a batch on a second CUDA stream while the GPU computes the previous one. On a CPU it does nothing special."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device) if device.type == "cuda" else None

    def make(self, batch: Callable[[], Made]) -> Made:
        """Return the tuple that `batch()` returns. Its tensors can be used on the main stream."""
        if self._stream is None:
            return batch()
        with torch.cuda.stream(self._stream):
            made = batch()
        main = torch.cuda.current_stream(self._device)
        main.wait_stream(self._stream)
        for value in made:
            if isinstance(value, Tensor) and value.is_cuda:
                value.record_stream(main)  # keeps its memory until the main stream has used it
        return made
