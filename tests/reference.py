"""The deterministic filling of section 15 of the prompt specification, and the tiny transformer that it fills."""

import timm
import torch

from cil.backbones.vit import ViT
from cil.data.transforms.views import ImageSpec

DEPTH, WIDTH = 6, 24


def fill(number: int, *shape: int, scale: float = 1.0, offset: float = 0.0) -> torch.Tensor:
    """Tensor `number`, from a linear congruential generator."""
    state, values = (1000003 * number) % 2**32, []
    for _ in range(torch.Size(shape).numel()):
        state = (1664525 * state + 1013904223) % 2**32
        values.append(2 * state / 2**32 - 1)
    return offset + scale * torch.tensor(values, dtype=torch.float64).view(shape)


def transformer() -> ViT:
    """Image 32, patch 8, width 24, 3 heads, 6 blocks, in double precision."""
    trunk = timm.models.VisionTransformer(img_size=32, patch_size=8, embed_dim=WIDTH, depth=DEPTH, num_heads=3, num_classes=0)
    backbone = ViT(trunk.double(), ImageSpec(32, (0.0,) * 3, (1.0,) * 3)).eval()
    names = ["patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed"]
    parts = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    names += [f"blocks.{b}.{part}.{kind}" for b in range(DEPTH) for part in parts for kind in ("weight", "bias")]
    names += ["norm.weight", "norm.bias"]
    state = {}
    for number, name in enumerate(names, 1):
        scale, offset = (0.05, 0.0) if name.endswith("bias") else (0.1, 1.0) if "norm" in name else (0.25, 0.0)
        state[name] = fill(number, *trunk.state_dict()[name].shape, scale=scale, offset=offset)
    trunk.load_state_dict(state)
    backbone.requires_grad_(False)
    return backbone


def head() -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias over six classes."""
    return fill(79, 6, WIDTH, scale=0.25), fill(80, 6, scale=0.05)


def images(count: int = 4) -> torch.Tensor:
    batch = (fill(900, 4, 3, 32, 32) + 1) / 2
    return (batch * torch.arange(1, 5).view(4, 1, 1, 1) / 4)[:count]


def close(found: torch.Tensor | float, wanted: object, tolerance: float = 1e-9) -> None:
    """Equal to within `tolerance`, absolute."""
    found = torch.as_tensor(found, dtype=torch.float64)
    torch.testing.assert_close(found, torch.as_tensor(wanted, dtype=torch.float64).view(found.shape), rtol=0, atol=tolerance)
