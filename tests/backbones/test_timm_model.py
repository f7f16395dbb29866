"""Any model of timm: its features are timm's own, a plain transformer takes prompts, and a wrong name is one line."""

import argparse

import pytest
import timm
import torch
from safetensors.torch import save_file

from cil.backbones.timm_model import TimmModel
from cil.backbones.vit import ViT
from cil.common.errors import UserError
from cil.engine.build import make
from tests.harness import compose

CONVOLUTIONS = ("resnet18", "convnext_atto", "efficientnet_lite0", "mobilenetv3_small_050")
OTHERS = ("swin_tiny_patch4_window7_224", "eva02_tiny_patch14_224", "vit_pwee_patch16_reg1_gap_256", "mixer_s32_224")
PLAIN = ("vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224")


def build(name: str | None, **changed) -> ViT | TimmModel:
    torch.manual_seed(0)
    node = compose("backbone=timm", "backbone.weights=null")["backbone"]
    return make({**node, "name": name, **changed}, "backbone").eval()


@torch.no_grad()
@pytest.mark.parametrize("name", [*CONVOLUTIONS, *OTHERS, *PLAIN])
def test_features_are_those_of_timm(name):
    made = build(name)
    assert isinstance(made, ViT) == (name in PLAIN)
    for parameter in made.parameters():  # layer scales and registers begin at almost nothing
        parameter.add_(0.05 * torch.randn_like(parameter))
    images = torch.rand(2, 3, made.image.size, made.image.size)
    wanted = made.trunk(images)  # without a classifier
    torch.testing.assert_close(made(images), wanted, atol=1e-5, rtol=1e-5)
    assert made.width == wanted.shape[1]
    config = timm.models.get_pretrained_cfg(name)
    assert made.image.mean == tuple(config.mean) and made.image.size == config.input_size[1]


@torch.no_grad()
@pytest.mark.parametrize("name", PLAIN)
def test_prompts_stand_between_the_first_tokens_and_the_patches(name):
    made = build(name, size=112, changes={"depth": 2})
    for parameter in made.parameters():
        parameter.add_(0.05 * torch.randn_like(parameter))
    trunk, images, prompts = made.trunk, torch.rand(2, 3, 112, 112), torch.randn(1, 3, made.width)
    count, x = trunk.num_prefix_tokens, made.tokens(images)
    placed = prompts if trunk.no_embed_class else prompts + trunk.pos_embed[:, :1]
    x = torch.cat([x[:, :count], placed.expand(2, -1, -1), x[:, count:]], 1)
    wanted = trunk.norm(trunk.blocks(x))
    torch.testing.assert_close(made(images, prompts=prompts, read="prompts"), wanted[:, count : count + 3].mean(1))
    torch.testing.assert_close(made(images, prompts=prompts), trunk.forward_head(wanted, pre_logits=True))


@torch.no_grad()
@pytest.mark.parametrize("name", PLAIN)
def test_positions_are_resampled_for_another_size_and_the_identity_says_so(name, tmp_path):
    changes = {"depth": 1}
    large = timm.create_model(name, num_classes=0, img_size=224, **changes)
    torch.nn.init.normal_(large.pos_embed)
    save_file(large.state_dict(), tmp_path / "model.safetensors")
    made = build(name, size=112, changes=changes, weights=str(tmp_path / "model.safetensors"))
    own = timm.create_model(name, num_classes=0, img_size=112, **changes).eval()
    from timm.models.vision_transformer import checkpoint_filter_fn

    own.load_state_dict(checkpoint_filter_fn(large.state_dict(), own))
    images = torch.rand(2, 3, 112, 112)
    torch.testing.assert_close(made(images), own(images), atol=1e-5, rtol=1e-5)
    old, new = (model.patch_embed.grid_size[0] for model in (large, own))
    assert made.identity["weights_positions"] == f"resampled from {old}×{old} to {new}×{new} patches"


@pytest.mark.parametrize(("wrap", "prefix"), [
    (lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)}, ""),
    (lambda state: {"state_dict": state, "epoch": 3}, "module."),
    (lambda state: {"teacher": {**state, "head.mlp.0.weight": torch.ones(2, 2)}, "student": {}}, "backbone."),
    (lambda state: state, "module.backbone."),
])  # fmt: skip
def test_checkpoints_as_they_come(tmp_path, wrap, prefix):
    model = timm.create_model("vit_tiny_patch16_224", num_classes=5, depth=1)
    state = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
    torch.save(wrap(state), tmp_path / "checkpoint.pth")
    made = build("vit_tiny_patch16_224", changes={"depth": 1}, weights=str(tmp_path / "checkpoint.pth"))
    for key, value in made.trunk.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key


@pytest.mark.parametrize(("changed", "line"), [
    ({"name": None}, r"backbone=timm needs a model; type backbone.name=resnet50.a1_in1k"),
    ({"name": "resnet81"}, r"backbone.name=resnet81 is not a model of timm; did you mean resnet18"),
    ({"name": "resnet18.nothing"}, r"backbone.name=resnet18.nothing: .*; type backbone.name=resnet18$"),
    ({"name": "vit_base_patch16_18x2_224", "weights": "timm"}, r"has no weights of its own; type .* or backbone.weights=null"),
    ({"name": "resnet18", "changes": {"dept": 3}}, r"backbone cannot be made of these settings \(.*dept.*\)"),
])  # fmt: skip
def test_what_cannot_be_is_told_in_a_line(changed, line):
    with pytest.raises(UserError, match=line):
        build(**changed)


@pytest.mark.parametrize("name", ["resnet18", "eva02_tiny_patch14_224"])  # the latter with RoPE
def test_prompts_for_a_network_without_them_are_refused(name):
    made = build(name)
    with pytest.raises(UserError, match="l2p needs a backbone that takes prompts and prefixes"):
        make(compose("method=l2p")["method"], "method", made)


@pytest.mark.parametrize(("words", "line"), [
    (["backbone.architecture=vit_base_patch16_242"], "is not a model of timm; did you mean vit_base_patch16_224"),
    (["backbone.architecture=resnet18"], "is no vision transformer of timm; type backbone=timm backbone.name=resnet18"),
])  # fmt: skip
def test_a_wrong_architecture_of_a_named_backbone(words, line):
    node = compose("backbone=vit_b16_in21k", "backbone.weights=null", *words)["backbone"]
    with pytest.raises(UserError, match=line):
        make(node, "backbone")
