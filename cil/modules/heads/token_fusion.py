"""One layer of self-attention over features of images, texts and prototypes (PROOF)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class TokenFusion(nn.Module):
    """Attention with one head, then dropout, the residual and a norm."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.query, self.key, self.value = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.out, self.norm = nn.Linear(width, width), nn.LayerNorm(width)
        for layer in (self.query, self.key, self.value):
            nn.init.normal_(layer.weight, std=width**-0.5)
        nn.init.xavier_normal_(self.out.weight)

    def forward(self, images: Tensor, rest: Tensor) -> Tensor:
        """Fuse each image, (batch, width), with all of the `rest`, (tokens, width): (batch, 1 + tokens, width)."""

        def joined(images: Tensor, rest: Tensor) -> Tensor:
            return torch.cat([images[:, None], rest.expand(len(images), -1, -1)], 1)

        query, key, value = (joined(layer(images), layer(rest)) for layer in (self.query, self.key, self.value))
        chance = self.dropout if self.training else 0.0
        read = F.scaled_dot_product_attention(query, key, value, dropout_p=chance)
        return self.norm(F.dropout(self.out(read), self.dropout, self.training) + joined(images, rest))


def summed(layers: nn.ModuleList, features: Tensor) -> Tensor:
    """Apply linear layers and add their outputs, in one product."""
    weights, biases = (torch.stack([getattr(layer, name) for layer in layers]).sum(0) for name in ("weight", "bias"))
    return F.linear(features, weights, biases)
