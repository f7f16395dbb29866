"""Tiny and big backbones come through the same code; the shipped weights are what their record says."""

import hashlib
import json

import open_clip
import pytest
import torch

from cil.backbones.clip import IDS
from cil.backbones.formats import read
from cil.backbones.registry import SHIPPED
from cil.common.errors import UserError
from cil.data.datasets.glyphs import code_points, name
from cil.engine.build import make
from tests.harness import compose


def build(option: str, *words: str) -> torch.nn.Module:
    return make(compose(f"backbone={option}", *words)["backbone"], "backbone").eval()


@pytest.mark.parametrize(
    ("option", "millions", "width"),
    [("vit_b16_in21k", 85.80, 768), ("clip_vit_b16", 149.62, 512), ("resnet32", 0.464, 64), ("vit_tiny", 1.22, 128)],
)
def test_sizes_of_the_papers(option, millions, width):
    with torch.device("meta"):
        node = compose(f"backbone={option}", "backbone.weights=null")["backbone"]
        backbone = make(node, "backbone")
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(millions, abs=0.006)
    assert backbone.width == width


def test_openai_weights_get_their_activation():
    backbone = build("clip_tiny", "backbone.weights=null")
    kinds = {type(m).__name__ for m in backbone.modules()}
    assert "QuickGELU" in kinds and "GELU" not in kinds
    assert all(
        compose(f"backbone={big}")["backbone"]["architecture"].endswith("-quickgelu")
        for big in ("clip_vit_b16", "clip_vit_l14")
    )


@pytest.mark.parametrize("option", ["vit_tiny", "clip_tiny"])
def test_shipped_weights_are_what_their_record_says(option):
    file, record = SHIPPED / f"{option}.safetensors", json.loads((SHIPPED / f"{option}.json").read_text())
    assert hashlib.sha256(file.read_bytes()).hexdigest() == record["weights_sha256"]
    assert compose(f"backbone={option}")["backbone"]["sha256"] == record["weights_sha256"]
    assert build(option).identity["sha256"] == record["weights_sha256"]
    assert sum(f.stat().st_size for f in SHIPPED.glob("*.safetensors")) < 8 * 2**20


def test_text_stops_at_the_end_of_text_and_loses_nothing():
    backbone = build("clip_tiny")
    texts = ["phi", "a photo of a greek small letter phi.", "x " * 40 + "rightwards arrow over leftwards arrow"]
    tokens = open_clip.SimpleTokenizer(context_length=77)(texts)
    with torch.no_grad():
        torch.testing.assert_close(backbone.encode_text(texts), backbone.trunk.encode_text(tokens), atol=1e-5, rtol=1e-5)


def test_every_word_of_the_benchmark_has_its_own_token_rows():
    ids = set(read(SHIPPED / "clip_tiny.safetensors")[IDS].tolist())
    tokens = open_clip.SimpleTokenizer()([f"a photo of a {name(p)}." for p in code_points("classes")])
    assert set(tokens.unique().tolist()) <= ids


def test_resnet_shortcut_has_no_parameters():
    backbone = build("resnet_tiny")
    block = backbone.stages[1]
    block.conv2.weight.data.zero_()
    x = torch.rand(1, 8, 8, 8)
    with torch.no_grad():
        out = block(x)
    assert torch.equal(out[:, :8], x[:, :, ::2, ::2]) and not out[:, 8:].any()


def test_weights_of_another_shape_are_refused(tmp_path):
    torch.save({"cls_token": torch.zeros(1, 1, 7)}, tmp_path / "w.pt")
    (tmp_path / "torn.safetensors").write_bytes(b"12345678{}")
    with pytest.raises(UserError, match="do not fit this backbone"):
        build("vit_tiny", f"backbone.weights={tmp_path / 'w.pt'}", "backbone.sha256=null")
    with pytest.raises(UserError, match="are no whole file of tensors"):
        build("vit_tiny", f"backbone.weights={tmp_path / 'torn.safetensors'}", "backbone.sha256=null")
