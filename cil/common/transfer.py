"""Copies to a GPU for which nobody waits, and the constants that lie there already."""

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made", bound=tuple)


def sent(values: Tensor, device: str | torch.device) -> Tensor:
    """`values` on the device. The way to a GPU is by pinned memory, so that the processor goes on while they travel."""
    if torch.device(device).type == "cuda" and not values.is_cuda:
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


@lru_cache(maxsize=64)
@torch.inference_mode(False)
def channels(values: tuple[float, ...], device: str | torch.device) -> Tensor:
    """(1, 3, 1, 1): one number a channel, put on the device once."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


class SideStream:
    """Makes a batch beside the stream in which the GPU still works on the one before; on a CPU there is nothing beside."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._stream = device, torch.cuda.Stream(device) if device.type == "cuda" else None

    def make(self, batch: Callable[[], Made]) -> Made:
        """What `batch` gives, a tuple; the main stream may use its tensors."""
        if self._stream is None:
            return batch()
        with torch.cuda.stream(self._stream):
            made = batch()
        main = torch.cuda.current_stream(self._device)
        main.wait_stream(self._stream)
        for value in made:
            if isinstance(value, Tensor) and value.is_cuda:
                value.record_stream(main)  # so that its memory is not given away before the main stream is done with it
        return made
