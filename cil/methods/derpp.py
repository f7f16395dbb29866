"""DER++: replays stored images with their labels and their old logits (Buzzega et al., NeurIPS 2020)."""

from dataclasses import replace
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.common.ranges import Count, Weight
from cil.common.transfer import sent
from cil.data.memory import Reservoir
from cil.method import Batch, Losses, Method, Phase, Task
from cil.modules.heads.linear_host import LinearHost


class DERpp(LinearHost, Method):
    """Draws two batches from a reservoir memory at each step. The loss on the first compares its logits with the stored ones
    (mean squared error); the loss on the second is the cross-entropy with its labels."""

    def __init__(
        self, backbone: nn.Module, *, strength: Weight, replay: Weight, memory: Count, memory_batch: Count | None,
        columns: Literal["all", "seen"], counts: Literal["showing", "image"],
    ) -> None:  # fmt: skip
        """`strength`: weight of the loss on old logits (0: ER). `replay`: weight of the loss on old labels (0: DER).
        `memory_batch`: images per draw; null: as many as the batch.

        `columns`: the head covers `all` classes from the start, or only those `seen`. With `seen`, stored logits are compared
        only for the classes that existed when they were stored. `counts`: the reservoir samples from every `showing` of an
        image (mammoth), or from every `image` once.
        """
        super().__init__(backbone)
        self.strength, self.replay, self.memory_batch = strength, replay, memory_batch
        self.columns, self.counts = columns, counts
        self.memory = Reservoir(memory)
        self.seen, self.epoch = 0, 0

    def begin_task(self, task: Task) -> None:
        self.head.grow(task.total if self.columns == "all" else len(task.seen))
        self.seen = len(task.seen)

    def phases(self, task: Task) -> list[Phase]:
        return [Phase("train", task, task.train, self.everything())]

    def begin_epoch(self, phase: Phase, epoch: int) -> None:
        self.epoch = epoch
        self.memory.forget(phase.task.remembered)

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        task, count = phase.task, self.memory_batch or len(batch.labels)
        first = task.rivals.start
        logits = self.head(self.features(batch.images))
        losses = {"ce": F.cross_entropy(logits[:, first:], batch.labels - first)}
        if self.strength and len(places := self.memory.draw(count, task.remembered)):
            now, device = self.head(self.features(self.replayed(places, task, batch))), batch.labels.device
            then = self.memory.logits[sent(places, device), first:]
            apart = now[:, first : first + then.shape[1]] - then
            given = torch.arange(first, first + then.shape[1]) < self.memory.known[places, None]
            losses["mse"] = self.strength * apart.flatten()[sent(given.flatten().nonzero()[:, 0], device)].square().mean()
        if self.replay and len(places := self.memory.draw(count, task.remembered)):
            now, labels = self.head(self.features(self.replayed(places, task, batch))), self.memory.labels[places]
            losses["replay"] = self.replay * F.cross_entropy(now[:, first:], sent(labels, batch.labels.device) - first)
        if self.counts == "showing" or self.epoch == 0:
            self.memory.show(batch.indices, batch.cpu_labels, logits.detach())
        return losses

    def replayed(self, places: Tensor, task: Task, batch: Batch) -> Tensor:
        """Returns the images at these `places` of the memory, newly augmented, on the batch's device."""
        images = replace(task.train, rows=self.memory.rows[places], labels=self.memory.labels[places])
        return images.batch(torch.arange(len(places)), batch.labels.device, torch.default_generator).images

    def predict(self, images: Tensor) -> Tensor:
        return self.head(self.features(images))[:, : self.seen]
