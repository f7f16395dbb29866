"""Low-rank changes of attention weights, against the walk of a network whose weights are overwritten."""

import copy

import pytest
import torch

from cil.backbones.vit import walk
from cil.bench.harness import cost
from cil.modules.adapters.lora import LINEARS, Change, LoRA, spread
from tests.reference import DEPTH, WIDTH, close, images, transformer


def filled(linears: tuple[str, ...], rank: int = 3) -> LoRA:
    torch.manual_seed(rank)
    made = LoRA(DEPTH, WIDTH, linears, rank).double()
    torch.nn.init.normal_(made.up, std=0.3)
    return made


def overwritten(backbone: torch.nn.Module, own: LoRA) -> torch.nn.Module:
    """A copy with W + up · down in place of W, entry by entry where the linear layers lie in timm's weight."""
    other = copy.deepcopy(backbone)
    for block, down, up in zip(other.trunk.blocks, own.down, own.up):
        for number, name in enumerate(own.linears):
            weight = block.attn.proj.weight if name == "projection" else block.attn.qkv.weight
            start = 0 if name == "projection" else LINEARS.index(name) * WIDTH
            weight.data[start : start + WIDTH] += up[number] @ down[number]
    return other


@pytest.mark.parametrize("linears", [LINEARS, ("key", "value"), ("projection",)])
def test_factors_and_their_product_change_the_weight(linears):
    backbone, own = transformer(), filled(linears)
    wanted = overwritten(backbone, own)(images())
    assert (wanted - backbone(images())).abs().max() > 0.01
    close(backbone(images(), changes=own.changes()), wanted, 1e-12)
    close(backbone(images(), changes=spread(linears, matrix=own.merged())), wanted, 1e-12)
    half = 0.5 * own.merged()
    close(backbone(images(), changes=spread(linears, own.down, own.up / 2, half)), wanted, 1e-12)
    tokens, read = backbone.tokens(images()), slice(3, 9)
    changes, block = own.changes()[2], backbone.trunk.blocks[2]
    close(walk(block, tokens, None, read, None, changes), walk(block, tokens, None, None, None, changes)[:, read], 1e-12)


def test_new_factors_change_nothing():
    fresh, backbone = LoRA(DEPTH, WIDTH, LINEARS, 2).double(), transformer()
    close(backbone(images(), changes=fresh.changes()), backbone(images()), 1e-12)
    assert 0.9 * WIDTH**-0.5 < fresh.down.abs().max() <= WIDTH**-0.5 and not fresh.up.any()


def test_inputs_of_attention_are_those_of_the_changed_network():
    backbone, own = transformer(), filled(("key", "value"))
    found, x = backbone.attention_inputs(backbone.tokens(images()), own.changes()), backbone.tokens(images())
    for given, block in zip(found, overwritten(backbone, own).trunk.blocks, strict=True):
        close(given, block.norm1(x), 1e-12)
        x = block(x)


def test_merged_factors_cost_no_more_than_their_product():
    """Beside the weight, r(width + width) multiplications a token and linear layer; merged, none."""
    backbone, own, matrix = transformer(), filled(("key", "value"), 4), filled(("key", "value"), 4).merged().detach()
    with torch.no_grad():
        plain, beside, merged = (
            cost(lambda changes=changes: backbone(images(), changes=changes), backbone).flops
            for changes in ([{"key": Change()}] * DEPTH, own.changes(), spread(own.linears, matrix=matrix))
        )
    tokens = 4 * 17
    assert merged == plain == cost(lambda: backbone(images()), backbone).flops
    assert beside - plain == DEPTH * tokens * 2 * (2 * 4 * WIDTH * 2)
