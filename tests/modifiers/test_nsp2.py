"""NSP² against its algorithm written out: two null spaces, the projected step, the loss on means and deviations."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cil.common.errors import UserError
from cil.contract import in_pieces
from cil.methods.pet import PET
from cil.modifiers.nsp2 import NSP2
from cil.modules.statistics.subspace import before_corner
from tests import harness
from tests.methods.test_contract import fitted, trainer_of
from tests.methods.test_pet import Data
from tests.reference import WIDTH, close, fill, images, transformer

SETTINGS = dict(
    affinity=0.9, aggregation=0.8, drift=2.0, summed=False, nullity="smoothed", divided=True, scaled=False, images=None
)
BLOCKS, LENGTH, HEADS = 2, 4, 3


def host() -> PET:
    made = PET(transformer(), kind="prompt", size=LENGTH, blocks=BLOCKS, scale=1.0, temperature=2.0, head_epochs=0).double()
    made.module.prompts.data = fill(400, BLOCKS, LENGTH, WIDTH)
    return made.eval()


def task(index: int, given: torch.Tensor) -> SimpleNamespace:
    return SimpleNamespace(index=index, old=range(2 * index), train_plain=Data(given))


def recorded(method: PET, given: torch.Tensor, *, scaled: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """For each block Q·W_kᵀ and the attention weights of the prompts, all heads below each other, from timm's weights."""
    found, x = [], method.backbone.tokens(given)
    for block, own in zip(method.backbone.trunk.blocks, method.module.prompts):
        tokens, width = x.shape[1], WIDTH // HEADS
        normed = block.norm1(torch.cat([x, own.expand(len(x), -1, -1)], 1))
        query, key, value = (normed @ w.T + b for w, b in zip(block.attn.qkv.weight.chunk(3), block.attn.qkv.bias.chunk(3)))
        first, second, mixed = [], [], []
        for head in range(HEADS):
            part = slice(head * width, (head + 1) * width)
            asked = query[:, :tokens, part]
            weights = (asked @ key[..., part].mT / width**0.5).softmax(2)
            lead = asked @ block.attn.qkv.weight[WIDTH : 2 * WIDTH][part]
            first.append(lead * block.norm1.weight if scaled else lead)
            deviations = own.std(1, unbiased=False) if scaled else torch.ones(len(own))
            second.append(weights[..., tokens:] / deviations)
            mixed.append(weights @ value[..., part])
        found.append(tuple(torch.cat(each).flatten(0, 1).detach().numpy() for each in (first, second)))
        x = x + block.attn.proj(torch.cat(mixed, 2))
        x = x + block.mlp(block.norm2(x))
    return found


def corner(values: np.ndarray, smoothed: bool) -> int:
    """Equation 28 keeps the values up to j; the released code takes the null space from j on."""
    bends = {j: values[j - 2] - 2 * values[j - 1] + values[j] for j in range(2, len(values))}  # j counts from 1
    j = max(bends, key=bends.get)
    return j - 1 if smoothed else j


def projections(method: PET, tasks: list[torch.Tensor], settings: dict) -> list[tuple[np.ndarray, np.ndarray]]:
    """Algorithm 2 for each block: B₁ and B₂, with η."""
    made = []
    every = [recorded(method, given, scaled=settings["scaled"]) for given in tasks]
    for block in range(BLOCKS):
        pair = []
        for side, share in ((0, settings["affinity"]), (1, settings["aggregation"])):
            covariance = sum(each[block][side].T @ each[block][side] for each in every)
            _, values, vectors = np.linalg.svd(covariance)
            null = vectors[corner(values, settings["nullity"] == "smoothed") :].T
            matrix = null @ null.T
            matrix = matrix / np.linalg.norm(matrix) if settings["divided"] else matrix
            pair.append(share * matrix + (1 - share) * np.eye(len(matrix)))
        made.append(tuple(pair))
    return made


@pytest.mark.parametrize(
    "changed",
    [{}, {"nullity": "corner"}, {"divided": False}, {"scaled": True}, {"divided": False, "affinity": 1.0, "aggregation": 1.0}],
)
def test_a_step_is_projected_from_both_sides(changed):
    settings, method = SETTINGS | changed, host()
    modifier = NSP2(**settings)
    modifier.attach(method)
    parts = [images()[:2], images()[2:]]
    for index, given in enumerate(parts):
        modifier.begin_task(method, task(index, given))
        modifier.end_task(method, task(index, given))
    modifier.begin_task(method, task(2, images()))
    wanted = projections(method, parts, settings)
    for number in range(2):  # the second step is projected by itself
        before, moved = method.module.prompts.data.clone(), fill(410 + number, BLOCKS, LENGTH, WIDTH, scale=0.1)
        modifier.before_step(method, None)
        method.module.prompts.data += moved
        modifier.after_step(method, None)
        for block, (first, second) in enumerate(wanted):
            step = torch.from_numpy(second @ moved[block].numpy() @ first)
            close(method.module.prompts.data[block] - before[block], step, 1e-6 if settings["scaled"] else 1e-9)


@pytest.mark.parametrize("scaled", [True, False])
def test_the_conditions_are_sufficient_with_the_factors_of_the_norm(scaled):
    """A change that meets both for one token, and keeps means and deviations, leaves what attention gives for it alone.

    It is b·vᵀ for one b with S·b = 0. Each prompt p keeps its deviation if p·v = −b·|v|² / 2. Equations 24 and 25, which leave
    out the norm's weight and deviations, are not sufficient.
    """
    method, block = host(), host().backbone.trunk.blocks[0]
    method.requires_grad_(False)
    x, prompts = method.backbone.tokens(images()[:1])[:, :1], method.module.prompts[0]
    (rows, weights), *_ = method.backbone.meetings(x, method.module.prompts, scaled=scaled)
    change = torch.linalg.svd(weights[0])[2][-1]
    wanted = torch.cat([torch.zeros(HEADS + 1).double(), -change / 2])
    equations = torch.cat([rows[0], torch.ones(1, WIDTH).double(), prompts])
    least = torch.linalg.lstsq(equations, wanted[:, None], driver="gelsd").solution[:, 0]
    free = torch.linalg.svd(equations)[2][-1]
    step = change[:, None] * (least + free * (1 - least.square().sum()).sqrt())
    moments = lambda rows: torch.stack([rows.mean(1), rows.std(1, unbiased=False)])  # noqa: E731
    close(moments(prompts + step), moments(prompts), 1e-12)
    before, after = (block.attn(block.norm1(torch.cat([x, own[None]], 1)))[:, 0].detach() for own in (prompts, prompts + step))
    off = (after - before).abs().max()
    assert step.abs().max() > 0.2 and (off < 1e-12 if scaled else off > 1e-5)


def loss(prompts: torch.Tensor, old: torch.Tensor, summed: bool) -> torch.Tensor:
    """Equation 27; the released code takes means over the prompts of a block."""
    total = torch.zeros(())
    for own, was in zip(prompts, old):
        off = (own.mean(1) - was.mean(1)).abs() + (
            (own.var(1, unbiased=False)).sqrt() - was.var(1, unbiased=False).sqrt()
        ).abs()
        total = total + (off.sum() if summed else off.mean())
    return total


@pytest.mark.parametrize("summed", [True, False])
def test_the_loss_on_means_and_deviations(summed):
    method, modifier = host(), NSP2(**(SETTINGS | {"summed": summed}))
    prompts = method.module.prompts
    prompts.grad = fill(430, *prompts.shape)
    modifier.begin_task(method, task(0, images()))
    modifier.before_step(method, None)
    close(prompts.grad, fill(430, *prompts.shape), 0)  # nothing in the first task
    modifier.begin_task(method, task(1, images()))
    old = prompts.data.clone()
    prompts.data += fill(431, *prompts.shape, scale=0.3)
    moved = prompts.data.clone().requires_grad_()
    (2 * loss(moved, old, summed)).backward()
    modifier.before_step(method, None)
    close(prompts.grad, fill(430, *prompts.shape) + moved.grad, 1e-12)
    modifier.end_task(method, task(1, images()))
    assert modifier.facts()["drift"] == pytest.approx(float(loss(prompts.data, old, summed)), abs=1e-5)


@pytest.mark.parametrize("count", [128, 300])
def test_the_smoothed_corner(count):
    """Against a convolution written out, whose values beyond the ends are mirrored."""
    values = torch.linspace(5, 0.1, count).exp().double() + fill(440, count).sort(descending=True)[0]
    weights = np.exp(-0.5 * (np.arange(-40, 41) / 10) ** 2)
    padded = np.pad(values.numpy(), 40, mode="symmetric")
    smooth = np.array([np.sum(padded[i : i + 81] * weights) / weights.sum() for i in range(count)])
    drop = int(count * 0.03 / 2)
    second = [smooth[i] - 2 * smooth[i + 1] + smooth[i + 2] for i in range(count - 2)]
    inner = second[drop : len(second) - drop]
    assert before_corner(values, smoothed=True) == int(np.argmax(inner)) + drop + 1


@pytest.mark.parametrize("reading", ["paper", "released"])
def test_resume_equals_straight_run(prompted, reading, tmp_path):
    config = prompted(f"reading={reading}")
    straight = fitted(config, tmp_path / "straight")
    resumed, times = in_pieces(lambda stop: fitted(config, tmp_path / "resumed", stop), (1, 4, 2, 1))
    assert times == 4
    harness.assert_same_bits(straight.run, resumed.run)
    told = [event for event in harness.losses(straight.run) if event.get("modifier") == "NSP2"]
    assert [event["task"] for event in told] == [0, 1, 2] and told[0]["drift"] == 0 < told[1]["drift"]
    assert straight.modifiers[0].facts() == resumed.modifiers[0].facts()


def test_hosts_without_deep_prompts_are_refused(small, prompted, tmp_path):
    own = ("modifier=nsp2", "method.kind=adapter")
    with pytest.raises(UserError, match=r"nsp2 needs prompts in the attention of each block; type method=pet method.kind="):
        trainer_of(small("pet", *own), tmp_path / "adapter")
    with pytest.raises(UserError, match=r"nsp2 needs a method that has projection sites"):
        trainer_of(small("finetune", "modifier=nsp2"), tmp_path / "finetune")
    with pytest.raises(UserError, match=r"nsp2 needs 3 prompts or more in a block; method.size=2, type method.size=4"):
        trainer_of(prompted("method.size=2"), tmp_path / "short")
    with pytest.raises(UserError, match=r"pgp and nsp2 would both project each update; type modifier=pgp"):
        trainer_of(small("pet", "method.kind=prompt", "modifier=[pgp,nsp2]"), tmp_path / "both")


@pytest.fixture
def prompted(small):
    return lambda *words: small("pet method.kind=prompt", "modifier=nsp2", "method.head_epochs=0", *words)
