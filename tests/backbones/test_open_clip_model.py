"""Any model of open_clip: its features and texts are open_clip's own, and what it cannot do is one line."""

import open_clip
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from timm.models import register_model
from torch import nn

from cil.backbones.clip import CLIP
from cil.backbones.open_clip_model import OpenCLIP, OpenCLIPWithTokens
from cil.common.errors import UserError
from cil.engine.build import make
from tests.harness import compose

TEXT = {"width": 32, "heads": 2, "layers": 2}
VISION = {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8}
SMALL = {  # of each model: what makes it small; and the class of the backbone
    "ViT-B-16": ({"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}, CLIP),
    "ViT-B-16-SigLIP": (
        {"embed_dim": 64, "vision_cfg": {"timm_model_name": "siglip_small"},
         "text_cfg": TEXT | {"hf_tokenizer_name": None, "tokenizer_kwargs": None, "vocab_size": 49408}}, OpenCLIPWithTokens),
    "EVA02-B-16": ({"vision_cfg": {"timm_model_name": "eva02_tiny_patch14_224"}, "text_cfg": TEXT}, OpenCLIP),  # RoPE
    "convnext_base": ({"vision_cfg": {"timm_model_name": "convnext_atto"}, "text_cfg": TEXT}, OpenCLIP),
    "RN50": ({"embed_dim": 32, "vision_cfg": {"layers": [1, 1, 1, 1], "width": 16}, "text_cfg": TEXT}, OpenCLIP),
    "ViT-B-16-plus": (
        {"embed_dim": 32, "vision_cfg": VISION | {"no_ln_pre": True, "pool_type": "avg"}, "text_cfg": TEXT}, OpenCLIP),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def siglip_small():
    """SigLIP's image encoder in small: patches without a class token, pooled by attention."""

    @register_model
    def siglip_small(pretrained: bool = False, **given) -> nn.Module:
        assert not pretrained
        shape = dict(img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2, class_token=False)
        return timm.models.VisionTransformer(**shape, **{key: given[key] for key in ("num_classes", "global_pool")})


def build(name: str | None, *, noise: float = 0.02, **changed) -> CLIP | OpenCLIP:
    torch.manual_seed(0)
    node = compose("backbone=open_clip", "backbone.weights=null")["backbone"]
    made = make({**node, "name": name, "changes": SMALL.get(name, [{}])[0], **changed}, "backbone").eval()
    with torch.no_grad():
        for parameter in made.parameters():  # some begin at nothing
            parameter.add_(noise * torch.randn_like(parameter))
    return made


def twin(name: str, size: int, state: dict) -> nn.Module:
    """open_clip's own model with the same weights, made by open_clip."""
    changes = SMALL[name][0]
    config = open_clip.get_model_config(name)
    given = {key: {**config[key], **value} if isinstance(value, dict) else value for key, value in changes.items()}
    if "layers" in given["vision_cfg"]:
        given["vision_cfg"]["image_size"] = size
    own = open_clip.create_model(name, force_image_size=size if "layers" not in given["vision_cfg"] else None, **given).eval()
    if "text.positional_embedding" in state and not hasattr(own, "text"):
        state = {key.removeprefix("text."): value for key, value in state.items()}
    own.load_state_dict(state)
    return own


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_features_and_texts_are_those_of_open_clip(name):
    size = 56 if name == "EVA02-B-16" else 64
    made = build(name, size=size)
    assert type(made) is SMALL[name][1]
    own, images = twin(name, size, made.trunk.state_dict()), torch.rand(2, 3, size, size)
    torch.testing.assert_close(made(images), own.encode_image(images), atol=1e-5, rtol=1e-5)
    assert made(images).shape == (2, made.width)
    texts = ["a photo of a bird.", "an upside-down house of many words"]
    wanted = own.encode_text(open_clip.tokenize(texts, own.context_length))
    torch.testing.assert_close(made.encode_text(texts), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(made.logit_scale, own.logit_scale.exp())


@torch.no_grad()
@pytest.mark.parametrize("name", SMALL)
def test_a_context_of_words_is_the_text_of_these_words(name):
    """A learned context stands where the words "a photo of" would stand."""
    made, names = build(name), ["bird", "steam locomotive"]
    texts = made.encode_contexts(torch.stack([made.embed("a photo of"), made.embed("the big old")]), names)
    for row, phrase in enumerate(("a photo of", "the big old")):
        wanted = made.encode_text([f"{phrase} {name}." for name in names])
        torch.testing.assert_close(texts[row], wanted, atol=1e-5, rtol=1e-5)
    made.room_for(names, made.trunk.context_length - 8)
    with pytest.raises(UserError, match=r"the class name 'steam locomotive' of \d+ make \d+, the text tower takes"):
        made.room_for(names, made.trunk.context_length - 3)
    with pytest.raises(UserError, match=r"has \d+ tokens, the text encoder takes .*dataset.names=FILE"):
        made.room_for(["word " * 80], 0)


def test_gradients_reach_a_context():
    made = build("ViT-B-16-SigLIP")
    context = made.context(2, 3, "a photo of").requires_grad_()
    F.normalize(made.encode_contexts(context, ["bird", "house"]), dim=2)[..., 0].sum().backward()
    assert (context.grad.abs().sum((1, 2)) > 0).all()


@torch.no_grad()
def test_the_bias_of_siglip_decides_nothing():
    made = build("ViT-B-16-SigLIP")
    images, texts = torch.rand(3, 3, made.image.size, made.image.size), ["a bird", "a house", "a boat"]
    ids = open_clip.tokenize(texts, made.trunk.context_length)
    own = made.trunk.get_logits(images, ids)[0]
    cosines = F.normalize(made(images), dim=1) @ F.normalize(made.encode_text(texts), dim=1).T
    torch.testing.assert_close(made.logit_scale * cosines + made.trunk.logit_bias, own, atol=1e-4, rtol=1e-4)
    assert float(made.trunk.logit_bias) < -9


@torch.no_grad()
def test_image_prompts_stand_before_the_patches():
    made = build("ViT-B-16-SigLIP", size=32)
    vit, images, prompts = made.trunk.visual.trunk, torch.rand(2, 3, 32, 32), torch.randn(1, 3, made.image_width)
    x = torch.cat([prompts.expand(2, -1, -1), vit.patch_embed(images) + vit.pos_embed], 1)
    wanted = vit.attn_pool(vit.norm(vit.blocks(x)))
    torch.testing.assert_close(made(images, prompts=prompts), wanted)
    torch.testing.assert_close(made(images, prompts=prompts[:, :0]), made(images))


@torch.no_grad()
@pytest.mark.parametrize("name", ["ViT-B-16", "ViT-B-16-SigLIP", "ViT-B-16-plus"])
def test_positions_are_resampled_as_open_clip_does(name, tmp_path):
    large = build(name, size=64).trunk
    save_file(large.state_dict(), tmp_path / "model.safetensors")
    made = build(name, size=32, weights=str(tmp_path / "model.safetensors"), noise=0)
    assert made.identity["weights_positions"] == "resampled from 8×8 to 4×4 patches"
    state = large.state_dict()
    if name == "ViT-B-16-SigLIP":
        large.visual.set_input_size(32)
        wanted, found = large.visual.trunk.pos_embed, made.trunk.visual.trunk.pos_embed
    else:
        open_clip.model.resize_pos_embed(state, made.trunk)
        wanted, found = state["visual.positional_embedding"], made.trunk.visual.positional_embedding
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_a_file_of_the_older_form_fits(tmp_path):
    """open_clip's files of a model without its own text encoder have no `text.` before the names."""
    made = build("convnext_base")
    torch.save({"state_dict": {f"module.{key.removeprefix('text.')}": value for key, value in made.trunk.state_dict().items()}},
               tmp_path / "model.pt")  # fmt: skip
    again = build("convnext_base", weights=str(tmp_path / "model.pt"), noise=0)
    for key, value in again.trunk.state_dict().items():
        assert torch.equal(value, made.trunk.state_dict()[key]), key


@pytest.mark.parametrize(("changed", "line"), [
    ({"name": None}, r"backbone=open_clip needs a model; type backbone.name=ViT-B-16-SigLIP backbone.pretrained=webli"),
    ({"name": "ViT-B-16-SigLop"}, r"is not a model of open_clip; did you mean ViT-B-16-SigLIP"),
    ({"name": "ViT-B-16-SigLIP", "weights": "open_clip"}, r"no weights with the tag None; type backbone.pretrained=webli"),
    ({"name": "ViT-B-16", "pretrained": "openai"}, r"with the quick GELU, .*; type backbone.name=ViT-B-16-quickgelu$"),
    ({"name": "coca_ViT-B-32"}, r"is CoCa, with a decoder, which this project does not run; type backbone.name="),
    ({"name": "roberta-ViT-B-32"}, r"has a text encoder of the package transformers, which this project does not run"),
    ({"name": "RN50", "changes": {"text_cfg": {"layer": 3}}}, r"backbone cannot be made of these settings \(.*layer.*\)"),
    ({"name": "ViT-B-16", "tokenizer": "there"}, r"backbone.tokenizer=there is not a folder with tokenizer.json and"),
])  # fmt: skip
def test_what_cannot_be_is_told_in_a_line(changed, line):
    with pytest.raises(UserError, match=line):
        build(**changed)


@pytest.mark.parametrize(("name", "line"), [
    ("ViT-B-16-SigLIP", "type backbone=open_clip backbone.name=ViT-B-16-SigLIP"),
    ("RN50", "is not a CLIP like OpenAI's; type backbone=open_clip backbone.name=RN50"),
    ("ViT-B-61", "is not a model of open_clip; did you mean ViT-B-16"),
])  # fmt: skip
def test_another_architecture_of_a_named_clip(name, line):
    node = compose("backbone=clip_vit_b16", "backbone.weights=null", f"backbone.architecture={name}")["backbone"]
    with pytest.raises(UserError, match=line):
        make(node, "backbone")


@pytest.mark.parametrize("name", ["EVA02-B-16", "convnext_base", "RN50"])
def test_image_prompts_for_an_encoder_without_them_are_refused(name):
    """EVA's positions are rotary."""
    with pytest.raises(UserError, match="clip_prompt needs a backbone that takes prompts in front of its image patches"):
        make(compose("method=clip_prompt")["method"], "method", build(name))
