"""ResNet-18 and RPS-net from scratch: sizes, stems, the map of where a network looks."""

import pytest
import torch
import torch.nn.functional as F

from cil.backbones.rps_net import generalised_mean
from cil.capabilities import HasForeground
from cil.common.errors import UserError
from cil.engine.build import make
from tests.harness import compose


def build(option: str, *words: str) -> torch.nn.Module:
    return make(compose(f"backbone={option}", *words)["backbone"], "backbone")


@pytest.mark.parametrize(("option", "millions", "width"), [("resnet18", 11.177, 512), ("rps_net", 1.385, 170)])
def test_sizes_of_the_papers(option, millions, width):
    with torch.device("meta"):
        backbone = build(option)
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.001)
    assert backbone.width == width


@pytest.mark.parametrize(
    ("words", "side"),
    [((), 224 // 4), (("backbone.image.size=64",), 64), (("backbone.image.size=32", "backbone.stem=photo"), 32 // 4)],
)
def test_the_stem_of_resnet18_fits_the_image(words, side):
    backbone = build("resnet18", *words).eval()
    seen = []
    backbone.trunk.layer1.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape))
    with torch.no_grad():
        features = backbone(torch.rand(2, 3, backbone.image.size, backbone.image.size))
    assert seen == [(2, 64, side, side)] and features.shape == (2, 512)
    assert torch.equal(torch.tensor(backbone.image.mean), torch.tensor((0.485, 0.456, 0.406)))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("resnet18", "backbone.stem=tiny"), "backbone.stem=tiny is not known"),
        (("rps_net", "backbone.channels=[]"), "makes no network of stages"),
        (("rps_net", "backbone.pooled=[7]"), "names stages that are not there"),
        (("rps_net", "backbone.power=0.5"), "backbone.power=0.5 is not a number from 1 to 1000"),
    ],
)
def test_wrong_settings_are_told(words, message):
    with pytest.raises(UserError, match=message.replace("[", r"\[")):
        build(*words)


@pytest.mark.parametrize("option", ["rps_net", "rps_net_tiny"])
def test_a_map_at_the_resolution_of_the_input(option):
    torch.manual_seed(0)
    backbone, images = build(option).train(), torch.randn(5, 3, 32, 32)
    assert isinstance(backbone, HasForeground)
    features, looked = (found.detach() for found in backbone.attended(images))
    assert looked.shape == (5, 1, 32, 32) and 0 < float(looked.min()) < float(looked.max()) < 1
    torch.testing.assert_close(features, backbone(images).detach())  # the same batch, so the same norms


def test_attention_is_what_the_release_computes():
    torch.manual_seed(0)
    backbone = build("rps_net_tiny").train()
    x = torch.randn(4, 8, 9, 9)
    both = torch.stack([x.mean(1), x.max(1).values], 1)
    squashed = torch.sigmoid(F.conv2d(both, backbone.attention.conv.weight, padding=3))
    normed = (squashed - squashed.mean()) / (squashed.var(unbiased=False) + 1e-5).sqrt()
    torch.testing.assert_close(backbone.attention(x), torch.sigmoid(normed), atol=1e-5, rtol=1e-5)


def test_pooling_lies_between_mean_and_largest():
    x = torch.rand(2, 3, 4, 4)
    slow = torch.tensor([[sum(float(v) ** 3 for v in x[b, c].flatten()) / 16 for c in range(3)] for b in range(2)]) ** (1 / 3)
    torch.testing.assert_close(generalised_mean(x, 3.0), slow)
    torch.testing.assert_close(generalised_mean(x, 1.0), x.mean((2, 3)))
    assert (generalised_mean(x, 3.0) < x.amax((2, 3))).all()


def test_max_pools_stand_where_they_are_asked_for():
    backbone, shapes = build("rps_net").eval(), []
    for block in backbone.stages:
        block.register_forward_hook(lambda module, _, out: shapes.append((type(module).__name__, *out.shape[1:3])))
    with torch.no_grad():
        backbone(torch.rand(1, 3, 32, 32))
    assert shapes == [("Block", 21, 32)] * 2 + [("Block", 42, 32)] * 2 + [("MaxPool2d", 42, 16)] + [("Block", 85, 16)] * 2 + [
        ("MaxPool2d", 85, 8)] + [("Block", 170, 8)] * 2  # fmt: skip
