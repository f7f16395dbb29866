"""ConViT as in DyTox: blocks over patches, then one class-attention block. Three kinds of self-attention are available."""

import torch
from torch import Tensor, nn

from cil.backbones.base import Backbone, image_spec
from cil.backbones.weights import expects, load
from cil.common.errors import UserError
from cil.common.ranges import Count, Fraction, NonNegative, Positive
from cil.data.transforms.views import ImageSpec
from cil.modules.growing.attention import ATTENTIONS, TaskAttention

RATIO = 4  # of the width of an MLP's hidden layer


class Drop(nn.Module):
    """Stochastic depth: in training, drops a residual branch with probability `p`, per image or per token."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor, dims: int = 1) -> Tensor:
        """`dims`: the number of leading dimensions that are dropped independently."""
        if not self.p or not self.training:
            return x
        keep = torch.rand(x.shape[:dims]).ge(self.p).to(x)  # on the CPU, so that a seed gives the same numbers on a GPU
        return x * (keep / (1 - self.p)).view(*x.shape[:dims], *[1] * (x.dim() - dims))


class Block(nn.Module):
    """Pre-norm transformer block: attention, then an MLP, each with a residual connection."""

    def __init__(self, width: int, attention: nn.Module, drop: float) -> None:
        super().__init__()
        self.norm1, self.attention, self.norm2 = nn.LayerNorm(width), attention, nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, RATIO * width), nn.GELU(), nn.Linear(RATIO * width, width))
        self.drop = Drop(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))

    def read(self, tokens: Tensor, patches: Tensor) -> Tensor:
        """Apply the block to `tokens`, which attend to `patches`; used if the attention is a `TaskAttention`."""
        tokens = tokens + self.drop(self.attention(self.norm1(tokens), self.norm1(patches)), dims=2)
        return tokens + self.drop(self.mlp(self.norm2(tokens)), dims=2)


class ConViT(Backbone):
    """`patches` runs the blocks over patches; `read` runs the last block, for the class token or for one token per task."""

    def __init__(
        self, image: ImageSpec, *, attention: str, patch: int, width: int, heads: int, depth: int, drop: float, std: float,
        content: float | None,
    ) -> None:  # fmt: skip
        """`depth` is the number of blocks over patches. `drop` is the stochastic depth rate of the last block; earlier blocks
        have less. `std` is that of the initial weights, `content` that of `local` attention's content weights (null: `std`)."""
        super().__init__(image, width)
        if attention not in ATTENTIONS:
            raise UserError(f"backbone.attention={attention} is not known; type plain, gated (GPSA) or local (LPA)")
        if image.size % patch or width % heads:
            raise UserError(
                f"backbone.patch={patch} backbone.heads={heads} do not divide the image size {image.size} and the width {width}"
            )
        self.side = image.size // patch
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.position = nn.Parameter(torch.empty(1, self.side**2, width))
        self.token = nn.Parameter(torch.empty(1, 1, width))
        rates = torch.linspace(0, drop, depth + 1).tolist()
        if content is not None and attention != "local":
            raise UserError(f"backbone.content={content} needs backbone.attention=local; type backbone.content=null")
        more = {} if content is None else {"spread": content}
        made = (ATTENTIONS[attention](width, heads, self.side, **more) for _ in range(depth))
        self.blocks = nn.ModuleList(Block(width, layer, rate) for layer, rate in zip(made, rates))
        self.last = Block(width, TaskAttention(width, heads), rates[-1])
        self.std = std
        self.reset()

    @torch.no_grad()
    def reset(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=self.std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for parameter in (self.position, self.token):
            nn.init.trunc_normal_(parameter, std=self.std)
        for block in self.blocks:
            block.attention.reset()

    def forward(self, images: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Return the features, (batch, width); with `tokens` (1, tokens, width) their outputs, (batch, tokens, width)."""
        patches = self.patches(images)
        return self.read(self.token, patches)[:, 0] if tokens is None else self.read(tokens, patches)

    def patches(self, images: Tensor) -> Tensor:
        """Return the patch tokens after all blocks over patches, (batch, patches, width), in row-major order."""
        x = self.embed(images).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            x = block(x)
        return x

    def read(self, tokens: Tensor, patches: Tensor) -> Tensor:
        """(1 or batch, tokens, width) and patches → (batch, tokens, width). Tokens do not attend to one another."""
        # A sum and not `expand`: without gradients, a view of a parameter still requires them, and counting operations fails.
        return self.last.read(tokens + patches.new_zeros(len(patches), 1, 1), patches)

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the attention maps of each block over patches, (batch, heads, queries, keys)."""
        x, found = self.embed(images).flatten(2).transpose(1, 2) + self.position, []
        for block in self.blocks:
            found.append(block.attention.maps(block.norm1(x)))
            x = block(x)
        return found


def convit(
    *, attention: str, patch: Count, width: Count, heads: Count, depth: Count, drop: Fraction, std: Positive,
    content: NonNegative | None, weights: str | None, sha256: str | None, image: dict, root: str | None = None,
) -> ConViT:  # fmt: skip
    """Build a ConViT. `attention`: plain, gated (GPSA) or local (LPA). `root`: a folder with the registered weights."""
    spec = image_spec(image, expects(weights))
    backbone = ConViT(spec, attention=attention, patch=patch, width=width, heads=heads, depth=depth, drop=drop, std=std,
                      content=content)  # fmt: skip
    backbone.identity = load(backbone, weights, sha256, root)
    return backbone
