"""InfLoRA against its steps written out: a loop over layers and directions, on the inputs themselves."""

from types import SimpleNamespace

import pytest
import torch

from cil.common.errors import UserError
from cil.methods.inflora import InfLoRA
from tests.modules.test_lora import overwritten
from tests.reference import DEPTH, WIDTH, close, fill, transformer

RANK, ENERGY = 3, 0.9


def task(index: int) -> SimpleNamespace:
    """One of three tasks of two classes: ten images without augmentation."""
    shown = (fill(500 + index, 10, 3, 32, 32) + 1) / 2

    class Shown:
        __len__ = lambda self: 10  # noqa: E731
        batch = lambda self, rows, device, random: SimpleNamespace(images=shown[rows])  # noqa: E731

    return SimpleNamespace(index=index, classes=range(2 * index, 2 * index + 2), old=range(2 * index), total=6, train=Shown(),
                           shown=shown)  # fmt: skip


def inputs(backbone: torch.nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """The inputs of attention, (images · tokens, width) for each block, from the library's blocks."""
    x, found = backbone.tokens(images), []
    for block in backbone.trunk.blocks:
        found.append(block.norm1(x).flatten(0, 1))
        x = block(x)
    return found


def grown(old: torch.Tensor, given: torch.Tensor, share: float, released: bool) -> torch.Tensor:
    """A basis, (width, rank), with the directions that the steps of the paper or of the released code add."""
    moments = given.T @ given
    source = moments if released else given.T
    left = source - old @ old.T @ source
    directions, sizes, _ = torch.linalg.svd(left, full_matrices=False)
    whole, held, count = source.square().sum(), source.square().sum() - left.square().sum(), 0
    while held / whole < share:
        held, count = held + sizes[count] ** 2, count + 1
    if released and not old.shape[1]:
        count = max(count - 1, 1)
    return torch.cat([old, directions[:, :count]], 1)


@pytest.mark.parametrize("released", [False, True])
def test_branches_are_those_of_the_steps(released):
    backbone, plain = transformer(), transformer()
    scale = 3**-0.5 if released else 1.0
    method = InfLoRA(backbone, rank=RANK, energy=ENERGY, scale=scale, squared=released, short=released).double().eval()
    bases = [torch.zeros(WIDTH, 0).double()] * DEPTH
    for index in range(3):
        now = task(index)
        method.begin_task(now)
        method.heads.double()
        method.begin_epoch(SimpleNamespace(task=now), 0)
        for own, basis, given in zip(method.down, bases, inputs(plain, now.shown)):
            source = given.T @ given if released else given.T
            wanted = scale * torch.linalg.svd(source - basis @ basis.T @ source)[0][:, :RANK]
            close(own.T @ own, wanted @ wanted.T, 1e-8)  # the sign of a direction is free
            close(own @ own.T, scale**2 * torch.eye(RANK).double(), 1e-10)
            assert basis.shape[1] + RANK <= WIDTH and (own @ basis).abs().max() < 1e-9 if index else True
        chosen = method.down.clone()
        method.up.data = fill(40 + index, *method.up.shape, scale=0.2)
        method.begin_epoch(SimpleNamespace(task=now), 0)  # of a resumed run
        assert torch.equal(method.down, chosen)
        branch = SimpleNamespace(
            linears=("key", "value"), up=method.up.data.clone(), down=chosen[:, None].expand(-1, 2, -1, -1)
        )
        plain = overwritten(plain, branch)
        close(method.backbone(now.shown, changes=method.changes()), plain(now.shown), 1e-10)
        method.end_task(now)
        share = ENERGY + (1 - ENERGY) * index / 3
        bases = [grown(old, given, share, released) for old, given in zip(bases, inputs(plain, now.shown))]
        for own, basis in zip(method.projector, bases):
            close(own, basis @ basis.T, 1e-8)
        assert method.facts()["old directions"] == [basis.shape[1] for basis in bases]
        with torch.no_grad():
            wanted = torch.cat([head(plain(now.shown)) for head in method.heads], 1)
            close(method.predict(now.shown), wanted, 1e-10)
    assert method.heads[0].weight.shape == (2, WIDTH) and not method.up.any()


def test_a_rank_beyond_the_width_is_told():
    with pytest.raises(UserError, match=r"method.rank=25, but the backbone is 24 wide; type method.rank=10"):
        InfLoRA(transformer(), rank=25, energy=0.9, scale=1.0, squared=False, short=False)
