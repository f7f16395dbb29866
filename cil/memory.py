"""Exemplars: rows of the training split that are kept for later tasks."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from cil.data import LabelledImages, join
from cil.mistakes import Mistake


class Memory(nn.Module):
    """At most `total` images, as many of each class seen: the first of the data set's order (iTAML, ARI, AttriCLIP's CoOp).

    What is kept are rows and labels, so that a checkpoint has no images.
    """

    def __init__(self, total: int) -> None:
        super().__init__()
        if total < 0:
            raise Mistake(f"method.memory={total} is not a whole number from 0 on; type method.memory=1000")
        self.total = total
        self.register_buffer("rows", torch.empty(0, dtype=torch.long))
        self.register_buffer("labels", torch.empty(0, dtype=torch.long))

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, like: LabelledImages) -> LabelledImages:
        """What is kept, seen through the view of `like`."""
        return replace(like, rows=self.rows.cpu(), labels=self.labels.cpu())

    def joined(self, images: LabelledImages) -> LabelledImages:
        """`images` and what is kept."""
        return join([images, self.of(images)])

    def after(self, images: LabelledImages, seen: int) -> LabelledImages:
        """What will be kept once `images` have been met and `seen` classes are: the first total // seen of each."""
        both, each = join([self.of(images), images]), self.total // seen
        first = torch.cat([(both.labels == label).nonzero()[:each, 0] for label in both.labels.unique()])
        return both.take(first)

    def keep(self, images: LabelledImages) -> None:
        self.rows, self.labels = images.rows.to(self.rows.device), images.labels.to(self.rows.device)

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *rest) -> None:
        for name in ("rows", "labels"):  # they grow with the tasks
            if prefix + name in state:
                setattr(self, name, torch.empty_like(state[prefix + name], device=self.rows.device))
        super()._load_from_state_dict(state, prefix, *rest)
