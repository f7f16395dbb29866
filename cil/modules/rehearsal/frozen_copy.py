"""Frozen copies of networks, used as teachers."""

import copy

import torch
from torch import Tensor, nn


class FrozenCopy(nn.Module):
    """Copies the given modules, without gradients and always in evaluation mode. Subclasses define `answer`."""

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
