"""Packed text against the plain tower: one causal sequence of 77 tokens for each context and name."""

import pytest
import torch
import torch.nn.functional as F

from cil.backbones import packed_text
from cil.common.errors import UserError
from cil.engine.build import make
from tests.harness import compose

NAMES = ["ox", "greek small letter phi", "rightwards arrow over leftwards arrow", "x", "aquarium_fish", "digit one"]


@pytest.fixture(scope="module")
def clip():
    return make(compose("backbone=clip_tiny")["backbone"], "backbone").eval().requires_grad_(False)


def plain(clip, contexts: torch.Tensor, names: list[str]) -> torch.Tensor:
    """As CoOp has it: placeholders are tokenised with the name, embedded, and replaced."""
    trunk, length = clip.trunk, contexts.shape[1]
    tokens = clip.tokenizer([f"{'x ' * length}{name}." for name in names])
    encoded = []
    for context in contexts:
        x = trunk.token_embedding(tokens)
        x = torch.cat([x[:, :1], context.expand(len(names), -1, -1), x[:, 1 + length :]], 1) + trunk.positional_embedding
        x = trunk.ln_final(trunk.transformer(x, attn_mask=trunk.attn_mask))
        encoded.append(x[torch.arange(len(names)), tokens.argmax(1)] @ trunk.text_projection)
    return torch.stack(encoded)


@pytest.mark.parametrize(("sets", "length"), [(1, 4), (3, 12), (2, 45)])
@pytest.mark.parametrize("together", [32, 4])
def test_packed_text_is_the_plain_tower(clip, sets, length, together, monkeypatch):
    """Loss to 1e-6 and gradients to 1e-5, for unequal names, several contexts, a long one, and in pieces."""
    monkeypatch.setattr(packed_text, "TOGETHER", together)
    random = torch.Generator().manual_seed(0)
    contexts = 0.02 * torch.randn(sets, length, clip.trunk.token_embedding.embedding_dim, generator=random)
    images, labels = torch.randn(4, clip.width, generator=random), torch.tensor([0, 3, 5, 1])
    losses, gradients = [], []
    for call in (clip.encode_contexts, lambda own, names: plain(clip, own, names)):
        own = contexts.clone().requires_grad_()
        logits = clip.logit_scale * F.normalize(images, dim=1) @ F.normalize(call(own, NAMES), dim=2).mT
        loss = F.cross_entropy(logits.flatten(0, 1), labels.repeat(sets))
        loss.backward()
        losses.append(loss.detach())
        gradients.append(own.grad)
    assert abs(losses[0] - losses[1]) < 1e-6 * max(1, losses[1])
    assert (gradients[0] - gradients[1]).norm() < 1e-5 * gradients[1].norm()


def test_a_name_alone_is_a_text(clip):
    """An empty context is the sentence "name."."""
    with torch.no_grad():
        packed = clip.encode_contexts(torch.zeros(1, 0, clip.trunk.token_embedding.embedding_dim), NAMES)[0]
        torch.testing.assert_close(packed, clip.encode_text([f"{name}." for name in NAMES]), atol=1e-5, rtol=1e-5)


def test_tokens_are_paid_for_once(clip, monkeypatch):
    """Distinct contexts × (start, context and the names), whatever the number of names."""
    seen, through = [], packed_text.through
    monkeypatch.setattr(packed_text, "through", lambda of, x, mask: seen.append(x.shape) or through(of, x, mask))
    clip.encode_contexts(torch.zeros(3, 12, clip.trunk.token_embedding.embedding_dim), NAMES)
    names = sum(len(clip.tokenizer.encode(f"{name}.")) + 1 for name in NAMES)
    assert [shape[:2] for shape in seen] == [(3, 1 + 12 + names)]


def test_blocks_are_walked_as_the_library_does(clip):
    """To the bit for one sequence, up to rounding for several, and by the library itself for blocks of another kind."""
    transformer, random = clip.trunk.transformer, torch.Generator().manual_seed(0)
    mask = torch.zeros(9, 9).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
    one, three = (torch.randn(count, 9, clip.text_width, generator=random, requires_grad=True) for count in (1, 3))
    assert torch.equal(packed_text.through(transformer, one, mask), transformer(one, attn_mask=mask))
    torch.testing.assert_close(packed_text.through(transformer, three, mask), transformer(three, attn_mask=mask))
    other = torch.nn.Module()
    other.resblocks, other.forward = [torch.nn.Identity()], lambda x, attn_mask: x + 1
    assert torch.equal(packed_text.through(other, one, mask), one + 1)


def test_a_name_is_tokenised_once(clip, monkeypatch):
    contexts, names = torch.zeros(1, 2, clip.text_width), ["a name that no other test has", "and another"]
    tokenise, seen = clip.tokenizer.encode, []
    monkeypatch.setattr(clip.tokenizer, "encode", lambda text: seen.append(text) or tokenise(text))
    for _ in range(3):
        clip.encode_contexts(contexts, names)
    assert sorted(seen) == sorted(f"{name}." for name in names)


def test_a_context_that_does_not_fit_is_told_in_one_line(clip):
    with pytest.raises(UserError, match="a context of 74 tokens and the class name 'x' of 3 make 78, the text tower takes 77"):
        clip.room_for(["x"], 74)


def test_image_prompts_stand_before_the_first_norm(clip):
    tower, images = clip.trunk.visual, torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    prompts = 0.1 * torch.ones(1, 5, tower.class_embedding.shape[0])
    tokens = clip.tokens(images)
    whole = torch.cat([tokens[:, :1], prompts.expand(2, -1, -1), tokens[:, 1:]], 1)
    with torch.no_grad():
        wanted = tower.ln_post(tower.transformer(tower.ln_pre(whole)))[:, 0] @ tower.proj
        torch.testing.assert_close(clip(images, prompts=prompts), wanted)
        torch.testing.assert_close(clip(tokens), clip.bare(images), atol=1e-6, rtol=1e-5)
