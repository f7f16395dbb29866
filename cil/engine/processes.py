"""Trains one run in several processes of `torchrun`: each process takes a part of every batch, and gradients are averaged.

Only what is computed per image is split: losses, gradients and test predictions. Everything else, such as exemplars and
statistics, is computed by every process on all images. Values that may differ in the last bit are then copied from rank 0.
Only rank 0 writes files.
"""

import atexit
import os
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor, nn

from cil.common.errors import UserError
from cil.method import Batch, Known, LabelledImages, Losses, Method

Means = dict[str, Tensor]


class Processes:
    """The position of this process among the processes of its run."""

    def __init__(self, device: torch.device | None = None, rank: int = 0, size: int = 1) -> None:
        self.device, self.rank, self.size = device, rank, size

    def part(self, batch: Batch | Known) -> tuple[Batch | Known, float]:
        """Return this process's part of a batch and its share of the images; an empty part is one image of weight 0."""
        count = len(batch.labels)
        if self.size == 1:
            return batch, 1.0
        mine = self._slice(count)
        own = mine if mine.start < mine.stop else slice(0, 1)
        values = {name: value[own] for name, value in batch._asdict().items() if isinstance(value, Tensor)}
        return batch._replace(**values), (mine.stop - mine.start) / count

    def tests(self, images: LabelledImages) -> LabelledImages:
        """The test images that this process evaluates."""
        return images if self.size == 1 else images.take(torch.arange(len(images))[self._slice(len(images))])

    def _slice(self, count: int) -> slice:
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def averaged(self, optimizer: torch.optim.Optimizer, losses: Losses, weight: float, stop: object) -> tuple[Means, bool]:
        """Average gradients over all processes; returns the averaged losses and whether any process was asked to stop."""
        means = {name: loss.detach() for name, loss in losses.items()}
        if self.size == 1:
            return means, bool(stop)
        learned = [p for group in optimizer.param_groups for p in group["params"]]
        flags = torch.tensor([float(p.grad is not None) for p in learned] + [float(bool(stop))], device=self.device)
        own = [*(torch.zeros_like(p) if p.grad is None else p.grad for p in learned), *means.values()]
        message = torch.cat([flags, *(weight * value.flatten().float() for value in own)])
        dist.all_reduce(message)
        counts, found = message[: len(flags)].tolist(), message[len(flags) :].split([value.numel() for value in own])
        for parameter, count, value in zip(learned, counts, found):
            parameter.grad = value.view_as(parameter).to(parameter.dtype) if count else None
        return {name: value[0] for name, value in zip(means, found[len(learned) :])}, bool(counts[-1])

    def sums(self, counts: dict[str, int | Tensor]) -> dict[str, int]:
        """Sum each count over all processes."""
        totals = torch.stack([torch.as_tensor(count) for count in counts.values()])
        if self.size > 1:
            dist.all_reduce(totals := totals.to(self.device))
        return dict(zip(counts, totals.tolist()))

    def gathered(self, values: Tensor, count: int) -> Tensor:
        """The values of all `count` test images, of which each process has those that `tests` gave it."""
        if self.size == 1:
            return values
        own = values.new_zeros((-(-count // self.size), *values.shape[1:]), device=self.device)
        own[: len(values)] = values
        found = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(found, own)
        ends = [rank * count // self.size for rank in range(self.size + 1)]
        return torch.cat([some[: stop - start] for some, start, stop in zip(found, ends, ends[1:])])

    def total(self, count: int) -> int:
        return self.sums({"": count})[""]

    def any(self, flag: object) -> bool:
        """Whether `flag` is true in any process."""
        return self.total(int(bool(flag))) > 0

    def agree(self, value: int, what: str) -> int:
        """Return `value` if it is equal in all processes; otherwise raise a `UserError`."""
        if self.total(value) != self.size * value:
            raise UserError(f"the processes of this run see different {what}; they need one file system, or one machine")
        return value

    def same(self, *modules: nn.Module) -> None:
        """Copy the parameters and buffers of rank 0 to all processes."""
        if self.size > 1:
            for value in (value for module in modules for value in module.state_dict().values() if isinstance(value, Tensor)):
                sent = value.to(self.device).contiguous()
                dist.broadcast(sent, 0)
                value.copy_(sent)


ALONE = Processes()


def parts(batch: Batch | Known, count: int) -> list[tuple[Batch | Known, float]]:
    """Split a batch into `count` parts of nearly equal size, each with its weight; empty parts are left out."""
    if count == 1:
        return [(batch, 1.0)]
    found = (Processes(None, rank, count).part(batch) for rank in range(count))
    return [(part, weight) for part, weight in found if weight]


def own_device(device: torch.device) -> torch.device:
    """The device of this process: with several processes and machine.device=cuda, each uses its own GPU."""
    several = dist.is_torchelastic_launched() and device == torch.device("cuda")
    return torch.device("cuda", int(os.environ["LOCAL_RANK"])) if several else device


def joined(device: torch.device) -> Processes:
    """Join the process group of torchrun; without torchrun, return a group of one process."""
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        return ALONE
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(dist.destroy_process_group)  # only at exit, since the runs of a sweep share it
    return Processes(device, dist.get_rank(), dist.get_world_size())


SHARED = "processes cannot share it; type python run.py instead of torchrun"
IN_PARTS = "it cannot be learned in parts; type train.accumulate=1"


def divides(method: Method, modules: Iterable[nn.Module], why: str = SHARED) -> None:
    """Raise a `UserError` if the loss or a batch normalization depends on the whole batch; `why` completes the message."""
    if not method.divisible:
        raise UserError(f"{type(method).__name__} with these settings learns from a batch as a whole, so {why}")
    if normalises(modules):
        raise UserError(f"{type(method.backbone).__name__} normalises over a batch, so {why}")


def normalises(modules: Iterable[nn.Module]) -> bool:
    """Whether any module is a batch normalization."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in modules)
