"""timm's vision transformers, with register or distillation tokens and layer scale where they have them.

The weights are timm's; the forward pass is written here. It takes prompts, prefixes and adapters as arguments and computes the
last block only for the tokens from which the feature is read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence

import timm
import torch
import torch.nn.functional as F
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn

from cil.backbones.base import Backbone, image_spec
from cil.backbones.compiled import plainly
from cil.backbones.weights import expects, load
from cil.common.errors import UserError, nearest
from cil.common.ranges import Count, check
from cil.data.transforms.views import ImageSpec
from cil.modules.adapters.lora import LINEARS, Change, Changes, linear
from cil.modules.together import joined

Prefix = tuple[Tensor, Tensor]  # keys and values, each (batch or 1, heads, length, width of a head)
Adapter = Callable[[Tensor], Tensor]  # (batch, tokens, width) → what is added to the MLP's output


class ViT(Backbone):
    """timm's VisionTransformer as a backbone.

    The feature is the class token after the final norm, or the mean of class and distillation token.
    """

    def __init__(self, trunk: nn.Module, image: ImageSpec) -> None:
        super().__init__(image, trunk.embed_dim)
        self.trunk = trunk
        self.first = trunk.num_prefix_tokens  # tokens before the patches
        self.read = 2 if hasattr(trunk, "dist_token") else 1  # those of them that the feature is read from
        self.passes = plainly

    @property
    def heads(self) -> int:
        return self.trunk.blocks[0].attn.num_heads

    @property
    def depth(self) -> int:
        return len(self.trunk.blocks)

    def forward(
        self, images: Tensor, *, prompts: Tensor | None = None, prefixes: Mapping[int, Prefix] | None = None,
        adapters: Sequence[Adapter] | None = None, changes: Sequence[Changes] | None = None, read: str = "class",
    ) -> Tensor:  # fmt: skip
        """Return the features, (batch, width), of images or of the output of `tokens`.

        `prompts` (batch or 1, length, width) are inserted before the patches, with the position of the class token. `prefixes`
        add keys and values to the given blocks. `adapters`, one for each block, run in parallel to the MLPs. `changes`, one
        mapping for each block, change the weights of its attention.
        `read`: "class" returns the class token, anything else the mean over the `prompts`.
        """
        x = self.tokens(images) if images.dim() == 4 else images
        if adapters is not None or changes is not None:
            return through(self, x, prompts, prefixes, adapters, changes, read)

        def run(x: Tensor, prompts: Tensor | None, prefixes: Mapping[int, Prefix] | None) -> Tensor:
            return self.passes(through, self, x, prompts=prompts, prefixes=prefixes, read=read)

        return joined(run, x, prompts, prefixes)

    def tokens(self, images: Tensor) -> Tensor:
        """Return the input of the first block, (batch, 1 + patches, width), or more tokens where there are registers."""
        return joined(lambda images: self.trunk.norm_pre(self.trunk._pos_embed(self.trunk.patch_embed(images))), images)

    def patches(self, images: Tensor) -> Tensor:
        """Return the patch embeddings without position embeddings, (batch, patches, width)."""
        return self.trunk.patch_embed(images)

    def attention_queries(self, x: Tensor, blocks: list[int], prefixes: Mapping[int, Prefix]) -> dict[int, Tensor]:
        """Return the attention queries of the tokens `x` in each of `blocks`, (batch, heads, tokens, width of a head)."""
        queries = {}
        for number, block in enumerate(self.trunk.blocks[: max(blocks) + 1]):
            if number in blocks:
                queries[number] = attended(block.attn, block.norm1(x))[0]
            if number < max(blocks):
                x = walk(block, x, prefixes.get(number))
        return queries

    def attention_inputs(self, x: Tensor, changes: Sequence[Changes]) -> list[Tensor]:
        """Return what the attention of each block is given, (batch, tokens, width), as the tokens `x` pass the blocks."""
        inputs = []
        for block, change in zip(self.trunk.blocks, changes, strict=True):
            inputs.append(block.norm1(x))
            x = walk(block, x, None, changes=change)
        return inputs

    def deep(self, prompts: Tensor) -> dict[int, Prefix]:
        """Return the keys and values of prompts, (blocks, length, width), that join the attention of the first blocks only.

        They are prefixes: a prompt passes the first norm of its block, and what attention gives for it is discarded.
        """
        blocks = enumerate(zip(self.trunk.blocks, prompts[:, None]))
        return {number: attended(block.attn, block.norm1(own))[1:] for number, (block, own) in blocks}

    def meetings(self, x: Tensor, prompts: Tensor, *, scaled: bool) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what prompts are multiplied with in the attention of each block, as the tokens `x` pass.

        The first are the queries times the weight of the keys, (batch, heads · tokens, width), with which a prompt after the
        norm is multiplied. The second are the attention weights of the prompts, (batch, heads · tokens, length), with which
        their values are multiplied. `scaled`: the norm's factors are included, its weight in the first, and one over the
        deviation of each prompt in the second.
        """
        for block, own, (key, value) in zip(self.trunk.blocks, prompts, self.deep(prompts).values()):
            attention, (query, others, _) = block.attn, attended(block.attn, block.norm1(x))
            keys = torch.cat([key.expand(len(x), -1, -1, -1), others], 2)
            weights = (query @ keys.mT * attention.scale).softmax(3)[..., : len(own)]
            of_keys = attention.qkv.weight.chunk(3)[1].unflatten(0, (attention.num_heads, -1))
            if scaled:
                of_keys = of_keys * block.norm1.weight
                weights = weights * (own.var(1, unbiased=False) + block.norm1.eps).rsqrt()
            yield (query @ of_keys).flatten(1, 2), weights.flatten(1, 2)
            x = walk(block, x, (key, value))

    def bare(self, images: Tensor) -> Tensor:
        """timm's own forward pass over all tokens, the baseline that `make bench` compares with."""
        return self.trunk.forward_features(images)[:, 0]


def through(
    backbone: ViT, x: Tensor, prompts: Tensor | None = None, prefixes: Mapping[int, Prefix] | None = None,
    adapters: Sequence[Adapter] | None = None, changes: Sequence[Changes] | None = None, read: str = "class",
) -> Tensor:  # fmt: skip
    """Run all blocks, from tokens to features; the other arguments are those of `ViT.forward`."""
    trunk = backbone.trunk
    first = backbone.first
    if prompts is not None:
        if not trunk.no_embed_class:
            prompts = prompts + trunk.pos_embed[:, :1]
        x = torch.cat([x[:, :first], prompts.expand(len(x), -1, -1), x[:, first:]], 1)
    places = slice(0, backbone.read) if read == "class" else slice(first, first + prompts.shape[1])  # type: ignore[union-attr]
    prefixes, last = prefixes or {}, len(trunk.blocks) - 1
    for number, block in enumerate(trunk.blocks):
        adapter, own = None if adapters is None else adapters[number], None if changes is None else changes[number]
        x = walk(block, x, prefixes.get(number), places if number == last else None, adapter, own)
    return trunk.norm(x).mean(1)


def walk(
    block: nn.Module, x: Tensor, prefix: Prefix | None, read: slice | None = None, beside: Adapter | None = None,
    changes: Changes | None = None,
) -> Tensor:  # fmt: skip
    """Run one block: (batch, tokens, width) → (batch, tokens or those in `read`, width). `beside` is the parallel adapter."""
    query, key, value = attended(block.attn, block.norm1(x), read, changes)
    if prefix is not None:
        key, value = (torch.cat([p.to(t.dtype).expand(len(t), -1, -1, -1), t], 2) for p, t in zip(prefix, (key, value)))
    drop = block.attn.attn_drop.p if block.training else 0.0
    mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=drop).transpose(1, 2).flatten(2)
    x = x if read is None else x[:, read]
    proj = block.attn.proj
    joined = linear(mixed, proj.weight, proj.bias, (changes or {}).get("projection", Change()))
    x = x + block.drop_path1(block.ls1(block.attn.proj_drop(joined)))
    more = block.drop_path2(block.ls2(block.mlp(block.norm2(x))))
    return x + (more if beside is None else more + beside(x))


def attended(
    attention: nn.Module, x: Tensor, read: slice | None = None, changes: Changes | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries (of the tokens in `read`), keys and values, each (batch, heads, tokens, width of a head)."""
    heads = (attention.num_heads, attention.head_dim)
    if changes:
        weights, bias = attention.qkv.weight.chunk(3), attention.qkv.bias
        biases = (None, None, None) if bias is None else bias.chunk(3)
        given = (x if read is None else x[:, read], x, x)
        query, key, value = (
            linear(own, weight, shift, changes.get(name, Change())).unflatten(2, heads).transpose(1, 2)
            for own, weight, shift, name in zip(given, weights, biases, LINEARS)
        )
    elif read is None:
        query, key, value = attention.qkv(x).unflatten(2, (3, *heads)).permute(2, 0, 3, 1, 4).unbind(0)
    else:
        width, (weight, bias) = x.shape[2], (attention.qkv.weight, attention.qkv.bias)
        biases = (None, None) if bias is None else (bias[:width], bias[width:])
        query = F.linear(x[:, read], weight[:width], biases[0]).unflatten(2, heads).transpose(1, 2)
        key, value = F.linear(x, weight[width:], biases[1]).unflatten(2, (2, *heads)).permute(2, 0, 3, 1, 4).unbind(0)
    return attention.q_norm(query), attention.k_norm(key), value


CHANGES = {"depth": Count, "num_heads": Count, "embed_dim": Count, "patch_size": Count}  # stricter than timm's annotations


def vit(
    *, architecture: str, weights: str | None, sha256: str | None, image: dict, changes: dict, root: str | None = None
) -> ViT:
    """Build a ViT. `architecture` is a timm name; `changes` are arguments that change its size (patch_size, depth, …).

    `root` is a folder with copies of the registered weights.
    """
    spec = image_spec(image, expects(weights))
    check(timm.models.VisionTransformer, "backbone.changes", changes, CHANGES)
    if not timm.is_model(architecture):
        raise UserError(
            f"backbone.architecture={architecture} is not a model of timm; {nearest(architecture, timm.list_models())}"
        )
    if not issubclass(kind_of(architecture), timm.models.VisionTransformer):
        raise UserError(f"backbone.architecture={architecture} is no vision transformer of timm; type backbone=timm "
                        f"backbone.name={architecture}")  # fmt: skip
    trunk = timm.create_model(architecture, pretrained=False, num_classes=0, img_size=spec.size, **changes)
    if not plain(trunk):
        raise UserError(f"backbone.architecture={architecture} is no plain vision transformer (a class token, position "
                        "embeddings, ordinary blocks); type backbone.architecture=vit_base_patch16_224, or backbone=timm "
                        f"backbone.name={architecture} for its features alone")  # fmt: skip
    backbone = ViT(trunk, spec)
    backbone.identity = load(trunk, weights, sha256, root)
    return backbone


def plain(trunk: nn.Module) -> bool:
    """Whether `walk` computes everything that timm's own forward pass computes."""
    if type(trunk) not in (timm.models.VisionTransformer, VisionTransformerDistilled):
        return False
    if trunk.cls_token is None or trunk.pos_embed is None or trunk.global_pool != "token":
        return False
    if {type(block).__name__ for block in trunk.blocks} != {"Block"}:
        return False
    kinds = {(type(block.attn).__name__, block.attn.gate is None) for block in trunk.blocks}
    norms = (trunk.blocks[0].attn.norm, trunk.fc_norm)
    return kinds == {("Attention", True)} and all(isinstance(norm, nn.Identity) for norm in norms)


def kind_of(architecture: str) -> type:
    """Return the class of a timm model; none of its weights are made."""
    with torch.device("meta"):
        return type(timm.create_model(architecture, pretrained=False, num_classes=0))
