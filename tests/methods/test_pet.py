"""PET against networks written out, and gradient projection on its adapters and LoRA against PEGP's steps (with NumPy)."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cil.common.errors import UserError
from cil.data.images import Batch
from cil.methods.pet import PET
from cil.modifiers.pgp import PGP
from tests.methods.test_contract import fitted, small  # noqa: F401
from tests.modules.test_lora import overwritten
from tests.reference import DEPTH, WIDTH, close, fill, images, transformer

SETTINGS = dict(size=3, blocks=2, scale=0.5, temperature=4.0, head_epochs=2)
PGP_SETTINGS = dict(space="feature", project="update", inputs="met", sampled="after", images=None,
                    energy={"token": 0.5, "key": 0.97, "prefix": 0.5, "image": 0.9},
                    components={"token": 9, "key": 5, "prefix": 50, "image": 5})  # fmt: skip
KINDS = ("adapter", "lora", "prompt")


def pet(kind: str, **settings) -> PET:
    made = PET(transformer(), kind=kind, **(SETTINGS | settings))
    for number, parameter in enumerate(made.module.parameters()):
        parameter.data = fill(200 + number, *parameter.shape, scale=0.4)
    return made.double().eval()


def task(index: int):
    classes = range(2 * index, 2 * index + 2)
    return SimpleNamespace(index=index, classes=classes, seen=range(classes.stop), old=range(classes.start), train=None)


def written_out(method: PET, kind: str, given: torch.Tensor) -> torch.Tensor:
    """The features, with the module of the first two blocks computed beside timm's layers."""
    if kind == "lora":
        zeros = torch.zeros(DEPTH, 3, 3, WIDTH).double()
        down, up = zeros.clone(), zeros.mT.clone()
        down[:2], up[:2] = method.module.own.down.detach(), method.module.own.up.detach()
        return overwritten(method.backbone, SimpleNamespace(linears=("query", "key", "value"), down=down, up=up)).bare(given)
    trunk = method.backbone.trunk
    x = method.backbone.tokens(given)
    for number, block in enumerate(trunk.blocks):
        if kind == "prompt" and number < 2:
            own = method.module.prompts[number].expand(len(x), -1, -1)
            x = x + block.attn(block.norm1(torch.cat([x, own], 1)))[:, : x.shape[1]]
        else:
            x = x + block.attn(block.norm1(x))
        beside = torch.zeros_like(x)
        if kind == "adapter" and number < 2:
            down, up = (part.weight for part in (method.module.own[number].down, method.module.own[number].up))
            beside = 0.5 * (x @ down.T).relu() @ up.T
        x = x + block.mlp(block.norm2(x)) + beside
    return trunk.norm(x)[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_features_losses_and_phases(kind):
    method = pet(kind)
    assert (method.features(images()) - method.backbone(images())).abs().max() > 0.01
    close(method.features(images()), written_out(method, kind, images()), 1e-10)
    for index in range(2):
        method.begin_task(task(index))
        method.double()
        (*first, last), module = method.phases(task(index)), list(method.module.parameters())
        assert [(phase.epochs, len(phase.parameters)) for phase in first] == ([(2, 2)] if index else [])
        assert [id(p) for p in last.parameters] == [id(p) for p in (*module, *method.heads[-1].parameters())]
        labels = torch.tensor([2 * index, 2 * index + 1] * 2)
        loss = method.training_step(Batch(images(), labels, torch.arange(4)), SimpleNamespace(task=task(index)))["ce"]
        logits = F.linear(written_out(method, kind, images()), method.heads[-1].weight, method.heads[-1].bias)
        close(loss, F.cross_entropy(logits / 4, labels - 2 * index), 1e-10)
        close(method.predict(images())[:, 2 * index :], logits, 1e-10)
    assert method.predict(images()).shape == (4, 4)


def hidden_and_inputs(method: PET, kind: str, given: torch.Tensor) -> dict[str, np.ndarray]:
    """What the rows of each matrix are multiplied with, (images, tokens, width), from hooks on timm's norms."""
    found, norms, tokens = {}, [], []
    trunk = method.backbone.trunk
    handles = [block.norm1.register_forward_hook(lambda _, x, y: norms.append(y)) for block in trunk.blocks]
    handles += [block.norm2.register_forward_hook(lambda _, x, y: tokens.append(x[0])) for block in trunk.blocks]
    with torch.no_grad():
        method.features(given)
    for handle in handles:
        handle.remove()
    for block in range(2):
        if kind == "adapter":
            down = method.module.own[block].down.weight
            found |= {f"down.{block}": tokens[block], f"up.{block}": (tokens[block] @ down.T).relu()}
        else:
            for number, name in enumerate(("query", "key", "value")):
                down = method.module.own.down[block, number]
                found |= {f"down.{block}.{name}": norms[block], f"up.{block}.{name}": norms[block] @ down.T}
    return {name: value.detach().numpy() for name, value in found.items()}


@pytest.mark.parametrize("kind", KINDS[:2])
def test_inputs_of_the_sites(kind):
    method = pet(kind)
    with torch.no_grad():
        found = method.projection_inputs(images(), False)
    wanted = hidden_and_inputs(method, kind, images())
    assert [site.name for site in method.projection_sites()] == list(found) == list(wanted)
    for site in method.projection_sites():
        close(found[site.name][:, :, 0], torch.from_numpy(wanted[site.name]), 1e-12)
        assert site.kind == kind and site.width == wanted[site.name].shape[-1]


class Data:
    """A task's images under a transform that changes nothing."""

    def __init__(self, given: torch.Tensor) -> None:
        self.images, self.labels = given, torch.zeros(len(given))

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows, device=None, random=None):
        return Batch(self.images[rows], self.labels[rows], rows)


def collected(method: PET, modifier: PGP, *tasks: torch.Tensor) -> None:
    for index, given in enumerate(tasks):
        modifier.begin_task(method, SimpleNamespace(index=index, train=Data(given)))
        modifier.end_task(method, SimpleNamespace(index=index, train=Data(given)))
    modifier.begin_task(method, SimpleNamespace(index=len(tasks), train=Data(tasks[0])))


@pytest.mark.parametrize("kind", KINDS[:2])
def test_a_projected_step_leaves_old_features_alone(kind):
    """Of one image all 17 directions are kept, which the width of 24 leaves room for. Block by block nothing changes."""
    method = pet(kind)
    modifier = PGP(**PGP_SETTINGS, adapter=1 - 1e-12, lora=1 - 1e-12)
    collected(method, modifier, images()[:1])
    before = method.features(images()).detach()
    for number, parameter in enumerate(method.module.parameters()):
        parameter.data += fill(300 + number, *parameter.shape, scale=0.3)
    modifier.after_step(method, None)
    after = method.features(images())
    close(after[0], before[0], 1e-5)
    assert (after[1:] - before[1:]).abs().max() > 0.01


@pytest.mark.parametrize("kind", KINDS[:2])
def test_bases_hold_their_share(kind):
    """From a singular value decomposition of the inputs themselves, the second task's after those of the first."""
    method, energy = pet(kind), 0.9
    modifier = PGP(**PGP_SETTINGS, adapter=energy, lora=energy)
    parts = images()[:2], images()[2:]
    collected(method, modifier, *parts)
    first, second = (hidden_and_inputs(method, kind, part) for part in parts)
    for name, (basis,) in modifier.bases.items():
        rows = first[name].reshape(-1, first[name].shape[-1])
        _, values, vectors = np.linalg.svd(rows, full_matrices=False)
        kept = np.searchsorted(np.cumsum(values**2) / np.sum(values**2), energy) + 1
        wanted = vectors[:kept].T
        rows = second[name].reshape(-1, second[name].shape[-1])
        _, values, vectors = np.linalg.svd(rows - rows @ wanted @ wanted.T, full_matrices=False)
        while np.sum((rows @ wanted) ** 2) < energy * np.sum(rows**2):
            wanted = np.concatenate([wanted, vectors[:1].T], 1)
            vectors = vectors[1:]
        close(basis @ basis.T, torch.from_numpy(wanted @ wanted.T), 1e-8)


def released_basis(tasks: list[np.ndarray], width: int, threshold: float) -> np.ndarray:
    """PEGP's code: a PCA of flattened images, then the decomposition of the Gram matrix of its scores."""
    feature = None
    for inputs in tasks:
        rows = inputs.reshape(len(inputs), -1)
        rows = rows - rows.mean(0)
        _, _, axes = np.linalg.svd(rows, full_matrices=False)
        scores = rows @ axes[:width].T
        gram = scores.T @ scores
        left, values, _ = np.linalg.svd(gram)
        if feature is None:
            feature = left[:, : np.sum(np.cumsum(values**2) / np.sum(values**2) < threshold)]
            continue
        rest = gram - feature @ feature.T @ gram
        left, some, _ = np.linalg.svd(rest)
        total = np.sum(values**2)
        reached, more = (total - np.sum(some**2)) / total, 0
        while reached < threshold and more < len(some):
            reached, more = reached + some[more] ** 2 / total, more + 1
        feature = np.concatenate([feature, left[:, :more]], 1)
    return feature


@pytest.mark.parametrize("kind", KINDS[:2])
def test_the_released_basis_is_of_unit_vectors(kind):
    method = pet(kind)
    switches = dict(space="sample", project="gradient", inputs="released", sampled="released")
    modifier = PGP(**(PGP_SETTINGS | switches), adapter=0.9, lora=0.9)
    parts = [torch.cat([images() + shift + 0.1 * fill(40 + part * 10 + number, 4, 3, 32, 32)
                        for number, shift in enumerate((0.0, 0.1, 0.2, 0.3, 0.4, 0.5))]) for part in range(2)]  # fmt: skip
    collected(method, modifier, *parts)
    found = [hidden_and_inputs(method, kind, part) for part in parts]
    for site in method.projection_sites():
        wanted = released_basis([part[site.name] for part in found], site.width, 0.9)
        (basis,) = modifier.bases[site.name]
        assert basis.shape == wanted.shape
        close(basis @ basis.T, torch.diag((torch.arange(site.width) < basis.shape[1]).double()), 1e-8)
        close(basis @ basis.T, torch.from_numpy(wanted @ wanted.T), 1e-8)


def test_blocks_that_are_not_there_are_told():
    with pytest.raises(UserError, match=r"method.blocks=7, but the backbone has 6; type method.blocks=null for all"):
        pet("adapter", blocks=7)


@pytest.mark.parametrize("kind", KINDS)
def test_one_module_is_trained_on_all_tasks(small, kind, tmp_path):  # noqa: F811
    method = fitted(small("pet", f"method.kind={kind}", "method.blocks=null", "train.first=null"), tmp_path).method
    assert len(method.heads) == 3 and all(parameter.any() for parameter in method.module.parameters())
