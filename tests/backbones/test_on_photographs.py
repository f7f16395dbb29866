"""Photographs from folders through each kind of backbone: features are the library's own, and a method runs to the end."""

import zipfile
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import checkpoint_filter_fn
from torch import nn

from cil.engine.build import reopened
from tests import harness
from tests.backbones.test_open_clip_model import siglip_small, twin  # noqa: F401
from tests.harness import ROOT

ARCHIVE = ROOT.parent / "shared" / "data" / "tiny-imagenet-200.zip"
CLASSES = {"n01443537": "goldfish", "n02123045": "tabby_cat", "n03584254": "iPod", "n07753592": "banana"}
TEXT = "{width:32,heads:2,layers:2,hf_tokenizer_name:null,tokenizer_kwargs:null,vocab_size:49408}"  # CLIP's tokenizer
SIGLIP = ("backbone=siglip_b16", "backbone.weights=null", "backbone.size=64",
          f"+backbone.changes={{embed_dim:64,vision_cfg:{{timm_model_name:siglip_small}},text_cfg:{TEXT}}}")  # fmt: skip
pytestmark = pytest.mark.skipif(not ARCHIVE.is_file(), reason="the photographs (../shared/data) are not here")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """A data root with a folder of four classes, eight photographs each."""
    root = tmp_path_factory.mktemp("photographs")
    with zipfile.ZipFile(ARCHIVE) as archive:
        for wnid, name in CLASSES.items():
            (root / "few" / name).mkdir(parents=True)
            for number in range(8):
                content = archive.read(f"tiny-imagenet-200/train/{wnid}/images/{wnid}_{number}.JPEG")
                (root / "few" / name / f"{number}.jpg").write_bytes(content)
    return root


@pytest.fixture
def run(photographs, tmp_path):
    """Words → the trainer of a finished run on the photographs, and a batch of its test images."""

    def made(*words: str):
        config = harness.compose("scenario=folder", "dataset.path=few", "dataset.share=0.75", "scenario.tasks=2",
                                 f"data.root={photographs}", f"outputs={tmp_path}", "data.features=null", "machine=cpu",
                                 "log.live=false", "train.epochs=1", *words)  # fmt: skip
        trainer = reopened(harness.execute(config).path)
        assert trainer.scenario.class_names == tuple(sorted(name.replace("_", " ") for name in CLASSES.values()))
        assert trainer.matrix.learned == 2
        return trainer.method, trainer.scenario[1].test.batch(torch.arange(4)).images

    return made


def own(name: str, state: dict, **settings) -> nn.Module:
    """timm's own model with these weights."""
    model = timm.create_model(name, num_classes=0, **settings).eval()
    model.load_state_dict(checkpoint_filter_fn(state, model) if "img_size" in settings else state)
    return model


@pytest.mark.parametrize(("words", "settings"), [
    (["backbone.name=resnet18", "backbone.size=64"], {}),
    (["backbone.name=vit_small_patch14_reg4_dinov2", "backbone.size=98", "+backbone.changes.depth=2"],
     {"img_size": 98, "depth": 2}),
])  # fmt: skip
def test_a_model_of_timm(run, words, settings):
    method, images = run("backbone=timm", "backbone.weights=null", "method=class_mean", *words)
    name = words[0].partition("=")[2]
    wanted = own(name, method.backbone.trunk.state_dict(), **settings)(images)
    torch.testing.assert_close(method.backbone(images), wanted, atol=1e-5, rtol=1e-5)


def test_dinov2_at_98_pixels_with_resampled_positions(run, tmp_path):
    torch.manual_seed(0)
    large = timm.create_model("vit_small_patch14_dinov2", num_classes=0, depth=2)  # at 518 px, as DINOv2's weights are
    nn.init.normal_(large.pos_embed)
    save_file(large.state_dict(), tmp_path / "dinov2.safetensors")
    method, images = run("backbone=dinov2_s14", f"backbone.weights={tmp_path}/dinov2.safetensors", "backbone.image.size=98",
                         "+backbone.changes.depth=2", "method=class_mean")  # fmt: skip
    wanted = own("vit_small_patch14_dinov2", large.state_dict(), img_size=98, depth=2)(images)
    torch.testing.assert_close(method.backbone(images), wanted, atol=1e-5, rtol=1e-5)
    assert method.backbone.identity["weights_positions"] == "resampled from 37×37 to 7×7 patches"


@pytest.mark.parametrize("method", ["continual_clip", "coop", "class_mean"])
def test_siglip(run, method):
    """In small and untrained."""
    made, images = run(*SIGLIP, f"method={method}")
    library = twin("ViT-B-16-SigLIP", 64, made.backbone.trunk.state_dict())
    torch.testing.assert_close(made.backbone(images), library.encode_image(images), atol=1e-5, rtol=1e-5)
    if method == "continual_clip":
        names = sorted(name.replace("_", " ") for name in CLASSES.values())
        texts = open_clip.tokenize([made.class_texts.templates[0].format(name) for name in names], 64)
        wanted = library.get_logits(images, texts)[0] - library.logit_bias
        torch.testing.assert_close(made.predict(images), wanted, atol=1e-4, rtol=1e-4)


def test_a_prompt_method_of_both_encoders_on_siglip(run):
    made, images = run(*SIGLIP, "method=clip_prompt",
                       "method.leaky_batch=null")  # fmt: skip
    assert made.predict(images).shape == (4, 4)
