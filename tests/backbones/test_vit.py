"""The walk through a vision transformer against the library's own, and against attention written out."""

import pytest
import timm
import torch

from cil.backbones.vit import ViT, plain, walk
from cil.bench.harness import cost
from cil.common.errors import UserError
from cil.engine.build import make
from cil.runs.precision import in_half
from tests.harness import compose
from tests.reference import WIDTH, close, fill, images, transformer


@pytest.fixture(scope="module")
def backbone():
    return transformer()


def test_the_feature_is_that_of_the_library(backbone):
    close(backbone(images()), backbone.bare(images()), 1e-12)
    close(backbone(backbone.tokens(images())), backbone.bare(images()), 1e-12)


def test_prefixes_are_more_keys_and_values(backbone):
    """Softmax over [prefix, tokens], spelled out for one block."""
    block, x = backbone.trunk.blocks[2], backbone.tokens(images())
    pair = fill(1, 4, 3, 2, 8), fill(2, 4, 3, 2, 8)
    q, k, v = block.attn.qkv(block.norm1(x)).view(4, 17, 3, 3, 8).permute(2, 0, 3, 1, 4)
    keys, values = torch.cat([pair[0], k], 2), torch.cat([pair[1], v], 2)
    mixed = ((q @ keys.mT) * 8**-0.5).softmax(-1) @ values
    wanted = x + block.attn.proj(mixed.transpose(1, 2).reshape(4, 17, WIDTH))
    wanted = wanted + block.mlp(block.norm2(wanted))
    close(walk(block, x, pair), wanted, 1e-12)
    close(walk(block, x, pair, slice(0, 1)), wanted[:, :1], 1e-12)
    close(walk(block, x, pair, slice(3, 9)), wanted[:, 3:9], 1e-12)


def test_prompts_stand_after_the_class_token_at_its_position(backbone):
    """The library's blocks on a sequence put together by hand."""
    trunk, prompts = backbone.trunk, fill(3, 1, 5, WIDTH)
    first = (trunk.cls_token + trunk.pos_embed[:, :1]).expand(4, -1, -1)
    sequence = [
        first,
        (prompts + trunk.pos_embed[:, :1]).expand(4, -1, -1),
        trunk.patch_embed(images()) + trunk.pos_embed[:, 1:],
    ]
    wanted = trunk.norm(trunk.blocks(torch.cat(sequence, 1)))
    close(backbone(images(), prompts=prompts), wanted[:, 0], 1e-12)
    close(backbone(images(), prompts=prompts, read="prompts"), wanted[:, 1:6].mean(1), 1e-12)


def test_queries_are_recorded_under_the_prefixes(backbone):
    x, pair = backbone.tokens(images()), (fill(1, 1, 3, 2, 8), fill(2, 1, 3, 2, 8))
    asked = backbone.attention_queries(x, [0, 2], {1: pair})
    assert asked.keys() == {0, 2} and asked[2].shape == (4, 3, 17, 8)
    blocks = backbone.trunk.blocks
    x = walk(blocks[1], walk(blocks[0], x, None), pair)
    close(asked[2], blocks[2].attn.qkv(blocks[2].norm1(x)).view(4, 17, 3, 3, 8)[:, :, 0].transpose(1, 2), 1e-12)


def test_the_tiny_twin_agrees_with_the_library_in_single_precision():
    made = make(compose("backbone=vit_tiny")["backbone"], "backbone").eval()
    x = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(made(x), made.bare(x), atol=1e-5, rtol=1e-5)


def test_layer_scale_and_norms_of_queries_are_kept():
    changes = dict(patch_size=8, embed_dim=24, depth=2, num_heads=3, init_values=0.3, qk_norm=True)
    node = compose("backbone=vit_tiny", "backbone.weights=null", "backbone.sha256=null")["backbone"] | {"changes": changes}
    made = make(node, "backbone").eval()
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(made(x), made.bare(x))


@pytest.fixture(scope="module")
def dinov2() -> ViT:
    """ViT-S/14 at 98 px with random weights, and factors of its blocks that are not all the same."""
    torch.manual_seed(0)
    made = make(compose("backbone=vit_s14_photographs", "backbone.weights=null")["backbone"], "backbone").eval()
    for name, parameter in made.trunk.named_parameters():
        if name.endswith("gamma"):
            torch.nn.init.uniform_(parameter, 0.1, 2.0)
    return made


@torch.no_grad()
def test_layer_scale_of_dinov2_agrees_with_the_library(dinov2):
    """Bare, and with prompts: the library's blocks on a sequence put together by hand."""
    trunk, x, prompts = dinov2.trunk, torch.rand(3, 3, 98, 98), torch.randn(1, 5, 384)
    torch.testing.assert_close(dinov2(x), dinov2.bare(x), atol=1e-5, rtol=1e-5)
    tokens, place = trunk._pos_embed(trunk.patch_embed(x)), trunk.pos_embed[:, :1]
    sequence = torch.cat([tokens[:, :1], (prompts + place).expand(3, -1, -1), tokens[:, 1:]], 1)
    wanted = trunk.norm(trunk.blocks(sequence))
    torch.testing.assert_close(dinov2(x, prompts=prompts), wanted[:, 0], atol=1e-5, rtol=1e-5)
    read = dinov2(x, prompts=prompts, read="prompts")
    torch.testing.assert_close(read, wanted[:, 1:6].mean(1), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_layer_scale_with_prefixes_and_adapters(dinov2):
    """Factors act on attention and MLP, prefixes inside the first, adapters beside the second."""
    block, x = dinov2.trunk.blocks[2], torch.randn(2, 50, 384)
    pair, beside = (torch.randn(1, 6, 4, 64), torch.randn(1, 6, 4, 64)), torch.nn.Linear(384, 384)
    q, k, v = block.attn.qkv(block.norm1(x)).view(2, 50, 3, 6, 64).permute(2, 0, 3, 1, 4)
    keys, values = torch.cat([pair[0].expand(2, -1, -1, -1), k], 2), torch.cat([pair[1].expand(2, -1, -1, -1), v], 2)
    mixed = ((q @ keys.mT) / 8).softmax(-1) @ values
    wanted = x + block.ls1.gamma * block.attn.proj(mixed.transpose(1, 2).reshape(2, 50, 384))
    wanted = wanted + block.ls2.gamma * block.mlp(block.norm2(wanted)) + beside(wanted)
    torch.testing.assert_close(walk(block, x, pair, beside=beside), wanted, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("name", ["vit_base_patch16_clip_224", "vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224"])
def test_an_unusual_transformer_is_refused_or_the_same(name):
    with torch.device("meta"):
        trunk = timm.create_model(name, num_classes=0)
    assert plain(trunk) == ("siglip" not in name)  # its feature is not a class token
    if not plain(trunk):
        node = compose("backbone=vit_tiny", f"backbone.architecture={name}", "backbone.weights=null")["backbone"]
        with pytest.raises(UserError, match=f"backbone.architecture={name} is no plain vision transformer"):
            make(node | {"changes": {"depth": 1}, "image": {"size": 224, "norm": "unit"}}, "backbone")


def test_half_precision_rounds_frozen_weights_once():
    """To the bit what autocast gives, without a copy of every weight in every pass."""
    made = make(compose("backbone=vit_tiny")["backbone"], "backbone").eval()
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def features() -> torch.Tensor:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            return made(x)

    before, kernels = features(), cost(features, made).kernels
    in_half(made)
    assert torch.equal(features(), before)
    assert cost(features, made).kernels <= kernels - 6 * 8  # weight and bias of four layers a block
    assert made.trunk.norm.weight.dtype == torch.float32
