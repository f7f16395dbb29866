"""Gradient projection: when inputs are collected, which, and what is made of them (sections 7 and 8 of the specification)."""

from itertools import groupby

import pytest
import torch

from cil.backbones.vit import walk
from cil.modifiers.pgp import gram
from cil.modules.prompt_pool import match, similarity
from cil.modules.statistics.subspace import extend_by_scores, scores
from tests.methods.test_contract import trainer_of
from tests.methods.test_prompt_vectors import dualprompt, l2p
from tests.reference import close, images, transformer

HOSTS = ["l2p", "dualprompt", "clip_prompt", "pet"]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("reading", ["paper", "released"])
def test_the_order_of_events(small, host, reading, tmp_path):
    """Section 7: the released code takes L2P's inputs before a task is trained; DualPrompt's, and the text's, come after."""
    trainer, seen = trainer_of(small(host, f"reading={reading}", "train.epochs=1"), tmp_path), []
    record = lambda name, call: lambda *rest: (seen.append(name), call(*rest))[1]  # noqa: E731
    trainer._run_phase = record("train", trainer._run_phase)
    for name in ("_extended", "_extended_by_scores"):
        setattr(trainer.modifiers[0], name, record("collect", getattr(trainer.modifiers[0], name)))
    trainer.fit()
    before = reading == "released" and host == "l2p"
    assert [name for name, _ in groupby(seen)] == ["collect", "train"][:: 1 if before else -1] * 3


def test_the_released_basis_in_use_is_that_of_earlier_tasks(small, tmp_path):
    for host in HOSTS:
        modifier, used = trainer_of(small(host, "reading=released"), tmp_path / host), []
        begin = modifier.modifiers[0].begin_task
        modifier.modifiers[0].begin_task = lambda method, task, m=modifier.modifiers[0], u=used, b=begin: (
            u.append(dict(m.bases)), b(method, task), u.append(dict(m.used)))  # fmt: skip
        modifier.fit()
        for before, in_use in zip(used[::2], used[1::2], strict=True):
            assert before.keys() == in_use.keys()
            assert all(torch.equal(before[name][0], in_use[name][0]) for name in before)


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_prompts_of_l2p_belong_to_what_they_meet(small, reading, tmp_path, monkeypatch):
    """Released: S = R for the first task, R + P afterwards (8.4). Paper: x and p each to its share of energy."""
    trainer, told = trainer_of(small("l2p", f"reading={reading}"), tmp_path), []
    modifier = trainer.modifiers[0]
    monkeypatch.setattr("cil.modifiers.pgp.extend_by_scores", lambda basis, s, energy: told.append((basis, s)) or
                        extend_by_scores(basis, s, energy))  # fmt: skip
    extended, pools = modifier._extended_by_scores, []

    def watch(site, rows, task):
        pools.append((site.name, torch.cat(rows), trainer.method.prompts.detach().clone()))
        return extended(site, rows, task)

    modifier._extended_by_scores = watch
    trainer.fit()
    if reading == "released":
        sums = [(rows, pool, found) for (name, rows, pool), (_, found) in zip(pools, told, strict=True) if name == "prompts"]
        for number, (rows, pool, found) in enumerate(sums):
            wanted = scores(rows, 9) + (scores(pool.reshape(-1, 32).T, 9) if number else 0)
            close(found, wanted, 1e-12)
        return
    (basis,), own = modifier.bases["prompts"], gram(trainer.method.prompts.detach().view(1, -1, 1, 32))[0]
    assert (basis.T @ own @ basis).trace() >= 0.5 * own.trace() - 1e-9


def test_the_image_prompt_of_clip_belongs_to_what_it_meets_from_the_first_task_on(small, tmp_path, monkeypatch):
    """9.3: class token and patches with positions, before the prompts and the first norm; S = R + P after every task."""
    trainer, told = trainer_of(small("clip_prompt", "reading=released"), tmp_path), []
    modifier, method = trainer.modifiers[0], trainer.method
    monkeypatch.setattr(
        "cil.modifiers.pgp.extend_by_scores", lambda basis, s, energy: told.append(s) or extend_by_scores(basis, s, energy)
    )
    extended, wanted = modifier._extended_by_scores, []

    def watch(site, rows, task):
        own = method.image_prompt.detach()
        wanted.append(scores(torch.cat(rows), 5) + scores(own.T, 5))
        return extended(site, rows, task)

    modifier._extended_by_scores = watch
    trainer.fit()
    assert len(told) == 3
    for found, sums in zip(told, wanted, strict=True):
        close(found, sums, 1e-6)
    seen, tower = trainer.scenario[0].test.batch(torch.arange(2)).images, method.backbone.trunk.visual
    with torch.no_grad():
        patches = tower.conv1(seen).flatten(2).transpose(1, 2)
        whole = torch.cat([tower.class_embedding.expand(2, 1, -1), patches], 1) + tower.positional_embedding
        close(method.projection_inputs(seen, True)["image_prompt"][:, :, 0], whole, 1e-6)


@pytest.mark.parametrize("released", [True, False])
def test_what_is_recorded(released):
    """Released, 8.4 and 8.5: patches without positions; attention's queries under the expert that the largest values choose.

    Paper: the tokens that enter the first block; attention's queries under the expert of the task.
    """
    backbone = transformer()
    with torch.no_grad():
        tokens = backbone.tokens(images())
        inputs = l2p(backbone).projection_inputs(images(), released)
        close(inputs["prompts"][:, :, 0], backbone.trunk.patch_embed(images()) if released else tokens, 1e-12)
        close(inputs["keys"][:, 0, 0], backbone.bare(images()), 1e-12)
        host = dualprompt(backbone)
        host.keys.data = host.keys.data.roll(1, 0)  # so that the fallback does not choose the task's own
        recorded = host.projection_inputs(images(), released)
        chosen = match(similarity(tokens.amax(1), host.keys), 1, vote=False)[:, 0]
        assert chosen.tolist() != [1] * 4
        for image, expert in enumerate(chosen.tolist() if released else [1] * 4):
            x, heads = tokens[image : image + 1], (1, 3, -1, 8)
            pairs = {0: host.general[0], 1: host.general[1]} | {2 + n: host.expert[n, :, expert] for n in range(3)}
            for block, pair in pairs.items():
                attention = backbone.trunk.blocks[block].attn
                asked = attention.qkv(backbone.trunk.blocks[block].norm1(x))[..., :24].view(1, 17, 3, 8)
                name = f"{'g' if block < 2 else 'e'}_prefix.{block}"
                close(recorded[name][image : image + 1], asked, 1e-12)
                x = walk(backbone.trunk.blocks[block], x, tuple(half.transpose(0, 1).reshape(heads) for half in pair))
