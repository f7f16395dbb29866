"""In which order an epoch visits images: (images, batch size, generator) → their places, of which batches are cut."""

import torch
from torch import Tensor


def shuffled(count: int, size: int, random: torch.Generator) -> Tensor:
    """Each once."""
    return torch.randperm(count, generator=random)


def repeated(count: int, size: int, random: torch.Generator, times: int) -> Tensor:
    """Repeated augmentation: an image comes `times` times in a row, until `count` images in full batches have come.

    So an epoch shows about 1/`times` of the images. Fewer than a batch make one short batch.
    """
    order = torch.randperm(count, generator=random).repeat_interleave(times)
    return order[: count // size * size or count]


def stored(count: int, size: int, random: torch.Generator) -> Tensor:
    """As they lie: half a batch of them, and the same once more. What does not fill half a batch is left out; in an odd batch
    one image comes once.

    That is what two GPUs see in DyTox's finetuning, when both walk through the same memory.
    """
    half = (size + 1) // 2
    kept = torch.arange(count // half * half or count)
    return torch.cat([part.repeat(2)[:size] for part in kept.split(half)])
