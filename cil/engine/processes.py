"""One run over several processes of `torchrun`: each learns from its part of every batch, and all take the same step.

What an image alone decides is divided: losses, gradients, answers to tests. All the rest, exemplars and statistics too, every
process does for itself on all images; where they may have parted by a bit, the first one's values hold. It alone writes.
"""

import atexit
import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cil.common.errors import UserError
from cil.data.frozen_features import Known
from cil.data.images import Batch, LabelledImages
from cil.method import Losses, Method

Means = dict[str, Tensor]


class Processes:
    """This process among those of its run."""

    def __init__(self, device: torch.device | None = None, rank: int = 0, size: int = 1) -> None:
        self.device, self.rank, self.size = device, rank, size

    def part(self, batch: Batch | Known) -> tuple[Batch | Known, float]:
        """This process's images of a batch, and their weight in it; where images are fewer than processes, one of weight 0."""
        count = len(batch.labels)
        if self.size == 1:
            return batch, 1.0
        mine = self._slice(count)
        own = mine if mine.start < mine.stop else slice(0, 1)
        values = (value[own] if isinstance(value, Tensor) else value for value in batch)
        return type(batch)(*values), (mine.stop - mine.start) / count

    def tests(self, images: LabelledImages) -> LabelledImages:
        """Those that this process answers."""
        return images if self.size == 1 else images.take(torch.arange(len(images))[self._slice(len(images))])

    def _slice(self, count: int) -> slice:
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def averaged(self, optimizer: torch.optim.Optimizer, losses: Losses, weight: float, stop: object) -> tuple[Means, bool]:
        """Makes the gradients those of the whole batch; its losses, and whether a process was asked to stop. One message."""
        means = {name: loss.detach() for name, loss in losses.items()}
        if self.size == 1:
            return means, bool(stop)
        learned = [p for group in optimizer.param_groups for p in group["params"]]
        had = torch.tensor([float(p.grad is not None) for p in learned] + [float(bool(stop))], device=self.device)
        own = [*(torch.zeros_like(p) if p.grad is None else p.grad for p in learned), *means.values()]
        message = torch.cat([had, *(weight * value.flatten().float() for value in own)])
        dist.all_reduce(message)
        had, found = message[: len(had)].tolist(), message[len(had) :].split([value.numel() for value in own])
        for parameter, some, value in zip(learned, had, found):
            parameter.grad = value.view_as(parameter).to(parameter.dtype) if some else None
        return {name: value[0] for name, value in zip(means, found[len(learned) :])}, bool(had[-1])

    def sums(self, counts: dict[str, int | Tensor]) -> dict[str, int]:
        """Of all processes."""
        both = torch.stack([torch.as_tensor(count) for count in counts.values()])
        if self.size > 1:
            dist.all_reduce(both := both.to(self.device))
        return dict(zip(counts, both.tolist()))

    def total(self, count: int) -> int:
        return self.sums({"": count})[""]

    def any(self, flag: object) -> bool:
        return self.total(int(bool(flag))) > 0

    def agree(self, value: int, what: str) -> int:
        if self.total(value) != self.size * value:
            raise UserError(f"the processes of this run see different {what}; they need one file system, or one machine")
        return value

    def same(self, *modules: nn.Module) -> None:
        """The first process's values in all."""
        if self.size > 1:
            for value in (value for module in modules for value in module.state_dict().values() if isinstance(value, Tensor)):
                sent = value.to(self.device).contiguous()
                dist.broadcast(sent, 0)
                value.copy_(sent)


ALONE = Processes()


def parts(batch: Batch | Known, count: int) -> list[tuple[Batch | Known, float]]:
    """The batch in `count` parts of about one size, each with its weight; fewer where images are fewer."""
    if count == 1:
        return [(batch, 1.0)]
    found = (Processes(None, rank, count).part(batch) for rank in range(count))
    return [(part, weight) for part, weight in found if weight]


def own_device(device: torch.device) -> torch.device:
    """A GPU each, where there are several processes."""
    several = dist.is_torchelastic_launched() and device == torch.device("cuda")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if several else device


def joined(device: torch.device) -> Processes:
    """With the other processes that torchrun started; alone without it."""
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        return ALONE
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)  # of a sweep the runs share it
    return Processes(device, dist.get_rank(), dist.get_world_size())


SHARED = "processes cannot share it; type python run.py instead of torchrun"
IN_PARTS = "it cannot be learned in parts; type train.accumulate=1"


def divides(method: Method, modules: Iterable[nn.Module], why: str = SHARED) -> None:
    """Refuses what looks at a batch as a whole; `why`: what it cannot do then, and what to type."""
    if not method.divisible:
        raise UserError(f"{type(method).__name__} with these settings learns from a batch as a whole, so {why}")
    if normalises(modules):
        raise UserError(f"{type(method.backbone).__name__} normalises over a batch, so {why}")


def normalises(modules: Iterable[nn.Module]) -> bool:
    """Whether a batch norm is among them."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)
