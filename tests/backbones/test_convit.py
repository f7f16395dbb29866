"""DyTox's transformer: sizes as published, tokens that do not see one another, what its initial weights are."""

import math

import pytest
import torch
from torch import nn

from cil.backbones.convit import Drop
from cil.common.errors import UserError
from cil.engine.build import make
from tests.harness import compose


def built(name: str, *words: str) -> nn.Module:
    return make(compose(f"backbone={name}", *words)["backbone"], "backbone").eval()


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize(("name", "block", "cifar", "imagenet"), [
    ("convit_dytox", 1_773_372, 10_683_948, 11_011_116),
    ("convit_dytox_lpa", 1_773_360, 10_683_888, 11_011_056),
])  # fmt: skip
def test_numbers_of_parameters(name, block, cifar, imagenet):
    made = built(name)
    assert count(made.blocks[0]) == block and count(made.last) == 1_773_312 and count(made) == cifar
    assert count(built(name, "backbone.patch=16", "backbone.image.size=224")) == imagenet
    heads, tokens = 10 * (2 * 384 + 384 * 10 + 10), 9 * 384
    assert (
        count(made) + heads + tokens == {"convit_dytox": 10_733_584, "convit_dytox_lpa": 10_733_524}[name]
    )  # the published 10.73 M


@pytest.mark.parametrize("name", ["convit_tiny", "convit_tiny_plain", "convit_tiny_lpa"])
def test_each_token_reads_for_itself(name):
    made, images = built(name), torch.randn(3, 3, 32, 32)
    tokens = torch.randn(1, 4, made.width)
    with torch.no_grad():
        patches = made.patches(images)
        together = made.read(tokens, patches)
        for number in range(4):
            torch.testing.assert_close(together[:, number], made.read(tokens[:, number : number + 1], patches)[:, 0])
        torch.testing.assert_close(made(images), made.read(made.token, patches)[:, 0])
    maps = made.maps(images)
    assert len(maps) == len(made.blocks) and all(
        m.shape == (3, 9, 64, 64) and torch.allclose(m.sum(3), torch.ones(())) for m in maps
    )


def test_initial_weights():
    torch.manual_seed(0)
    made = built("convit_dytox_lpa")
    for block in made.blocks:
        assert torch.equal(block.attention.v.weight, torch.eye(384))
        position = block.attention.position.weight
        assert position[4].tolist()[:3] == [0, 0, -1] and position[0].tolist()[:3] == [-2, -2, -1]
        assert position[9:].abs().max() < 0.1 and position[:, 3].abs().max() < 0.1
        assert abs(float(block.mlp[0].weight.detach().std()) - 0.02) < 1e-3 and not block.mlp[0].bias.any()
    assert [round(block.drop.p, 2) for block in (*made.blocks, made.last)] == [0, 0.02, 0.04, 0.06, 0.08, 0.1]


def test_stochastic_depth_leaves_whole_rows_out_and_keeps_the_mean():
    drop, rows = Drop(0.25), torch.ones(4000, 3, 2)
    assert torch.equal(drop.eval()(rows), rows)
    kept = drop.train()(rows)
    assert set(kept.flatten().tolist()) == {0.0, float(torch.tensor(1 / 0.75))}
    assert torch.equal(kept.amin((1, 2)), kept.amax((1, 2)))
    assert math.isclose(kept.mean(), 1, abs_tol=0.03)
    each = drop(rows, dims=2)
    assert not torch.equal(each.amin((1, 2)), each.amax((1, 2))) and torch.equal(each.amin(2), each.amax(2))


@pytest.mark.parametrize("word", ["backbone.attention=lcoal", "backbone.patch=5", "backbone.heads=7"])
def test_slips_are_named(word):
    with pytest.raises(UserError, match=word.split("=")[0].replace(".", r"\.")):
        built("convit_tiny", word)
