"""Samplers: functions that return the order in which an epoch visits images. Batches are consecutive parts of that order.

Arguments: the number of images, the batch size and a generator. Returns the positions of the images, (n,) int64.
"""

import torch
from torch import Tensor


def shuffled(count: int, size: int, random: torch.Generator) -> Tensor:
    """Visit each image once, in random order."""
    return torch.randperm(count, generator=random)


def repeated(count: int, size: int, random: torch.Generator, times: int) -> Tensor:
    """Repeated augmentation: each image is repeated `times` times in a row, and an epoch has `count` images in full batches.

    An epoch therefore shows about 1/`times` of the images. If there are fewer images than a batch, it has one short batch.
    """
    order = torch.randperm(count, generator=random).repeat_interleave(times)
    return order[: count // size * size or count]


def stored(count: int, size: int, random: torch.Generator) -> Tensor:
    """Visit images in stored order, each batch being half a batch of them twice. An incomplete half batch is left out; if the
    batch size is odd, one image of a batch occurs once.

    This reproduces DyTox's finetuning on two GPUs, which both read the same memory in the same order.
    """
    half = (size + 1) // 2
    kept = torch.arange(count // half * half or count)
    return torch.cat([part.repeat(2)[:size] for part in kept.split(half)])
