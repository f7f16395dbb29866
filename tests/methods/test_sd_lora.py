"""SD-LoRA against weights that are put together one layer and one task at a time."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from cil.methods.sd_lora import LINEARS, SDLoRA
from tests.modules.test_lora import overwritten
from tests.reference import DEPTH, WIDTH, close, fill, images, transformer

RANK = 3


def task(index: int) -> SimpleNamespace:
    return SimpleNamespace(index=index, classes=range(2 * index, 2 * index + 2), seen=range(2 * index + 2))


def learned(method: SDLoRA, index: int) -> None:
    """What training could have made of the newest branch and of the magnitudes."""
    method.double()
    method.branch.down.data = fill(10 + index, DEPTH, 2, RANK, WIDTH, scale=0.3)
    method.branch.up.data = fill(20 + index, DEPTH, 2, WIDTH, RANK, scale=0.3)
    method.magnitudes.data = fill(30 + index, *method.magnitudes.shape, scale=0.5, offset=1.0)


def changed(pairs: list[tuple]) -> torch.nn.Module:
    """The network with Σ magnitude · up · down on its weights; `pairs` has (down, up, magnitude) of each task."""
    backbone = transformer()
    for down, up, magnitude in pairs:
        own = torch.stack([torch.stack([magnitude[b][n] * up[b, n] for n in range(2)]) for b in range(DEPTH)])
        backbone = overwritten(backbone, SimpleNamespace(linears=LINEARS, down=down, up=own))
    return backbone


@pytest.mark.parametrize("magnitudes", ["kept", "restarted"])
def test_branches_and_magnitudes(magnitudes):
    method, fixed = SDLoRA(transformer(), rank=RANK, magnitude=0.8, magnitudes=magnitudes), []
    for index in range(3):
        if index:
            before = method.predict(images()).detach()
        method.begin_task(task(index))
        method.double().eval()
        assert method.magnitudes.shape == (index + 1, *((DEPTH, 2) if magnitudes == "kept" else (1, 1)))
        close(method.magnitudes[-1], torch.full(method.magnitudes.shape[1:], 0.8), 1e-6)
        if index and magnitudes == "kept":
            close(method.predict(images())[:, : 2 * index], before, 1e-10)
        elif index:
            close(method.magnitudes, torch.full(method.magnitudes.shape, 0.8), 1e-6)
            assert (method.predict(images())[:, : 2 * index] - before).abs().max() > 1e-4
        learned(method, index)
        sizes = method.magnitudes.detach().expand(-1, DEPTH, 2)
        newest = (method.branch.down.detach(), method.branch.up.detach(), sizes[-1])
        plain = changed([(down, up, size) for (down, up), size in zip(fixed, sizes)] + [newest])
        with torch.no_grad():
            logits = method.head(plain(images()))
            close(method.predict(images()), logits, 1e-10)
        labels = torch.tensor([2 * index, 2 * index + 1, 2 * index, 2 * index])
        loss = method.training_step(SimpleNamespace(images=images(), labels=labels), SimpleNamespace(task=task(index)))["ce"]
        close(loss.detach(), F.cross_entropy(logits[:, 2 * index :], labels - 2 * index), 1e-10)
        gradients = torch.autograd.grad(loss, [*method.branch.parameters(), method.magnitudes])
        assert all(gradient.abs().sum() > 0 for gradient in gradients) and (gradients[-1] != 0).all()
        down, up = (part.clone() for part in newest[:2])
        for block in range(DEPTH):
            for number in range(2):
                down[block, number] /= down[block, number].square().sum().sqrt()
                up[block, number] /= up[block, number].square().sum().sqrt()
        fixed.append((down, up))
    assert method.facts()["magnitudes"] == [round(float(size.mean()), 3) for size in method.magnitudes.detach()]
