"""Tokenizers from files: SigLIP's kind, made small by the test; where they are looked for; what is said without them."""

import json

import pytest
import torch

from cil.backbones.tokens import FILES, FileTokenizer, tokenizer_of
from cil.common.errors import UserError

REPO = "timm/ViT-B-16-SigLIP"
TEXT = {"context_length": 12, "hf_tokenizer_name": REPO, "tokenizer_kwargs": {"clean": "canonicalize"}}


@pytest.fixture
def files(tmp_path):
    """A unigram tokenizer with pieces for a few words; the end token also pads, as in SigLIP."""
    tokenizers = pytest.importorskip("tokenizers", reason="the package tokenizers is not installed (extra tokenizers)")
    pieces = ["<pad>", "</s>", "<unk>", "▁a", "▁photo", "▁of", "▁bird", "s", "▁", "b", "i", "r", "d"]
    model = tokenizers.models.Unigram([(piece, -float(rank)) for rank, piece in enumerate(pieces)], unk_id=2)
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    made.post_processor = tokenizers.processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    made.add_special_tokens(["</s>"])
    folder = tmp_path / "siglip_b16"
    folder.mkdir()
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": {"content": "</s>"}}))
    return folder


def test_texts_are_cleaned_ended_cut_and_padded(files):
    words = tokenizer_of("ViT-B-16-SigLIP", TEXT, str(files), None, None)
    assert isinstance(words, FileTokenizer) and words.first == 0
    assert words(["A photo, of BIRDS!"]).tolist() == [[3, 4, 5, 6, 7, *[1] * 7]]
    assert words(["bird " * 20]).tolist() == [[6] * 11 + [1]]
    assert words.encode("a photo of a bird.") == [3, 4, 5, 3, 6]


def test_files_lie_beside_registered_weights_or_as_the_hub_has_them(files, tmp_path):
    assert tokenizer_of("ViT-B-16-SigLIP", TEXT, None, "siglip_b16", str(tmp_path)).sha256
    mirror = tmp_path / REPO
    mirror.parent.mkdir()
    files.rename(mirror)
    for weights in ("mine.safetensors", None):
        assert tokenizer_of("ViT-B-16-SigLIP", TEXT, None, weights, str(tmp_path)).sha256


def test_a_context_and_a_name_in_the_tokens_of_siglip(files):
    from cil.engine.build import make
    from tests.backbones.test_open_clip_model import SMALL, siglip_small  # noqa: F401
    from tests.backbones.test_open_clip_model import TEXT as NARROW
    from tests.harness import compose

    text = NARROW | {"context_length": 12, "vocab_size": 13}
    changes = SMALL["ViT-B-16-SigLIP"][0] | {"text_cfg": text, "vision_cfg": {"timm_model_name": "vit_tiny_patch16_224"}}
    node = compose("backbone=siglip_b16", "backbone.weights=null")["backbone"]
    made = make({**node, "tokenizer": str(files), "changes": changes | {"embed_dim": 192}, "size": 32}, "backbone")
    assert len(made.identity["tokenizer"]) == 64
    with torch.no_grad():
        found = made.encode_contexts(made.embed("a photo of")[None], ["bird", "birds"])[0]
        torch.testing.assert_close(found, made.encode_text(["a photo of bird.", "a photo of birds."]))
    made.room_for(["bird"], 10)
    with pytest.raises(UserError, match="make 13, the text tower takes 12; shorten the context"):
        made.room_for(["bird"], 11)


def test_what_is_missing_is_told_in_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UserError, match=f"its own tokenizer, .*; fetch {' and '.join(FILES)} of {REPO} .*tokenizer=FOLDER"):
        tokenizer_of("ViT-B-16-SigLIP", TEXT, None, "siglip_b16", str(tmp_path))
    with pytest.raises(UserError, match=r"prepares tokens in a way \(strip_sep_token\) that this project does not know"):
        tokenizer_of("ViT-L-14-CLIPA", TEXT | {"tokenizer_kwargs": {"strip_sep_token": True}}, None, None, None)


def test_damaged_files_are_told_in_a_line(files):
    (files / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"has no whole tokenizer; fetch tokenizer.json and tokenizer_config.json again"):
        tokenizer_of("ViT-B-16-SigLIP", TEXT, str(files), None, None)
