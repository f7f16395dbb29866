"""One linear head per task, on the outputs of tokens that attend to the patches of an image."""

import torch
from torch import Tensor, nn


def head(width: int, classes: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, classes))


class TaskReader(nn.Module):
    """Heads that share the backbone's token, or that have one token per task, the first of which is the backbone's."""

    def __init__(self, width: int, *, token_a_task: bool, std: float) -> None:
        super().__init__()
        self.width, self.token_a_task, self.std = width, token_a_task, std
        self.tokens, self.heads = nn.ParameterList(), nn.ModuleList()

    def grow(self, classes: int) -> None:
        if self.token_a_task and len(self.heads):
            self.tokens.append(nn.Parameter(nn.init.trunc_normal_(torch.empty(1, 1, self.width), std=self.std)))
        self.heads.append(head(self.width, classes))

    def read(self, backbone: nn.Module, images: Tensor) -> Tensor:
        """Return the outputs of the tokens, (batch, tokens, width)."""
        return backbone(images, torch.cat([backbone.token, *self.tokens], 1))

    def classify(self, read: Tensor) -> Tensor:
        """(batch, tokens, width) → (batch, classes seen)."""
        own = read.expand(-1, len(self.heads), -1).unbind(1)
        return torch.cat([head(embedding) for head, embedding in zip(self.heads, own, strict=True)], 1)
