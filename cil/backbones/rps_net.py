"""RPS-Net with spatial attention (ARI, ECCV 2022): a ResNet-18 with a third of the channels, for small images."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cil.backbones.base import Backbone, image_spec
from cil.backbones.weights import expects, load
from cil.common.errors import UserError
from cil.common.ranges import Count, Range, Whole
from cil.data.transforms.views import ImageSpec


def conv_norm(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs))  # biases as in the released code


class Block(nn.Module):
    """Two 3×3 convolutions and a shortcut. If the number of channels changes, the shortcut is a 3×3 convolution too."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*conv_norm(inputs, outputs), nn.ReLU(), *conv_norm(outputs, outputs))
        self.shortcut = nn.Identity() if inputs == outputs else conv_norm(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class Attention(nn.Module):
    """Spatial attention: (batch, channels, height, width) → (batch, 1, height, width) with values from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.norm(self.conv(both).sigmoid()).sigmoid()


class RPSNet(Backbone):
    """Stages of blocks, some followed by a 2×2 max-pooling, and an attention map at the resolution of the input."""

    def __init__(self, image: ImageSpec, *, channels: Sequence[int], blocks: int, pooled: Sequence[int], power: float) -> None:
        super().__init__(image, channels[-1])
        self.power = power
        self.stem, self.attention = nn.Conv2d(3, channels[0], 3, padding=1), Attention()
        self.norm = nn.BatchNorm2d(channels[0])
        stages = [nn.MaxPool2d(2)] if 0 in pooled else []
        for number, (inputs, outputs) in enumerate(pairwise([channels[0], *channels]), 1):
            stages += [Block(inputs, outputs), *(Block(outputs, outputs) for _ in range(blocks - 1))]
            if number in pooled:
                stages.append(nn.MaxPool2d(2))
        self.stages = nn.Sequential(*stages)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        self.to(memory_format=torch.channels_last)  # on a CPU 1.5× faster for few channels

    def forward(self, images: Tensor, with_map: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """Return the features, (batch, width), and `with_map` also the attention map, (batch, 1, height, width)."""
        x = self.stem(images)
        attention = self.attention(x)
        x = self.stages(F.relu(self.norm(attention * x)))
        features = generalised_mean(x, self.power)
        return (features, attention) if with_map else features

    def attended(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features and the attention map."""
        return self(images, with_map=True)  # called as a module, so that hooks count the pass


def generalised_mean(x: Tensor, power: float) -> Tensor:
    """Generalised-mean pooling: (batch, channels, height, width) → (batch, channels)."""
    x = x.float() if x.dtype == torch.bfloat16 else x  # a power multiplies the rounding error
    return x.clamp_min(1e-6).pow(power).mean((2, 3)).pow(1 / power)


def rps_net(
    *, channels: Sequence[Count], blocks: Count, pooled: Sequence[Whole], power: Annotated[float, Range(1, 1000, example=1.0)],
    weights: str | None, sha256: str | None, image: dict, root: str | None = None,
) -> RPSNet:  # fmt: skip
    """Build an RPS-Net. `channels`: of each stage; `blocks`: how many a stage has.

    `pooled`: the stages followed by max-pooling, where 0 is the stem; `power`: of the final pooling, where 1 is the mean;
    `root`: a folder with copies of the registered weights.
    """
    if not channels:
        raise UserError(f"backbone.channels={channels} makes no network of stages; type backbone.channels=[21,42,85,170]")
    if not set(pooled) <= set(range(len(channels) + 1)):
        raise UserError(
            f"backbone.pooled={pooled} names stages that are not there; type numbers from 0, the stem, to {len(channels)}"
        )
    backbone = RPSNet(image_spec(image, expects(weights)), channels=channels, blocks=blocks, pooled=pooled, power=power)
    backbone.identity = load(backbone, weights, sha256, root)
    return backbone
