"""Networks as they were, to teach those that they have become."""

import copy

import torch
from torch import Tensor, nn


class FrozenCopy(nn.Module):
    """Copies of the parts by their names. Nothing in them learns, drops out or counts statistics; `answer` is theirs."""

    def __init__(self, **parts: nn.Module) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, copy.deepcopy(part))
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "FrozenCopy":
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        return self.answer(images)
