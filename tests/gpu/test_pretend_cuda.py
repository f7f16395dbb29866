"""The pretended GPU refuses what CUDA refuses, and counts what makes the processor wait."""

import copy
import io

import pytest
import torch
from torch import nn

from tests.gpu.pretend_cuda import PretendCuda


@pytest.fixture
def gpu():
    with PretendCuda() as pretended:
        yield pretended


def kinds(gpu) -> dict[str, int]:
    found: dict[str, int] = {}
    for event, count in gpu.traffic.items():
        found[event.kind] = found.get(event.kind, 0) + count
    return found


@pytest.mark.parametrize(
    "mixed",
    [
        lambda here, there: here + there,
        lambda here, there: here @ there.T,
        lambda here, there: torch.cat([here, there]),
        lambda here, there: there.index_copy_(0, torch.tensor([0, 1, 2]), here),
        lambda here, there: there[torch.zeros(1, dtype=torch.long, device="cuda")],
        lambda here, there: here.index_select(0, torch.tensor([0])),
        lambda here, there: there.add_(here),
    ],
)
def test_devices_do_not_mix(gpu, mixed):
    with pytest.raises(RuntimeError, match="same device"):
        mixed(torch.ones(3, 3, device="cuda"), torch.ones(3, 3))


def test_numbers_and_places_from_the_cpu_are_taken(gpu):
    here = torch.ones(3, 3, device="cuda")
    assert (here * torch.tensor(2.0) + 1).sum().item() == 27
    assert here[torch.tensor([0, 2])].shape == (2, 3)


def test_numpy_and_cpu_generators_are_refused(gpu):
    with pytest.raises(TypeError, match="numpy"):
        torch.ones(3, device="cuda").numpy()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(3, device="cuda", generator=torch.Generator())


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: torch.ones(3).to("cuda"), {"to device": 1, "wait": 1}),
        (lambda: torch.ones(3).pin_memory().to("cuda", non_blocking=True), {"to device": 1}),
        (lambda: torch.tensor([1, 2], device="cuda"), {"to device": 1, "wait": 1}),
        (lambda: torch.zeros(3, device="cuda").to("cuda"), {}),
        (lambda: torch.zeros(3, device="cuda").cpu(), {"from device": 1, "wait": 1}),
        (lambda: torch.zeros(3, device="cuda").tolist(), {"from device": 1, "wait": 1}),
        (lambda: torch.zeros(3, device="cuda").sum().item(), {"wait": 1}),
        (lambda: bool(torch.zeros(3, device="cuda").any()), {"wait": 1}),
        (lambda: torch.zeros(3, device="cuda").nonzero(), {"wait": 1}),
        (lambda: torch.zeros(3, device="cuda").unique(), {"wait": 1}),
        (lambda: torch.arange(3, device="cuda").bincount(), {"wait": 1}),
        (lambda: torch.zeros(3, device="cuda")[torch.zeros(3, device="cuda") > 0], {"wait": 1}),
        (lambda: torch.arange(3, device="cuda").repeat_interleave(torch.arange(3, device="cuda")), {"wait": 1}),
        (lambda: torch.arange(3, device="cuda").repeat_interleave(2), {}),
        (lambda: torch.zeros(3, device="cuda").where(torch.zeros(3, device="cuda") > 0, 1.0), {}),
    ],
)
def test_what_is_counted(gpu, call, expected):
    call()
    assert kinds(gpu) == expected


def test_learns_as_the_cpu_does():
    """Gradients, optimizers, copies of modules and checkpoints, to the bit."""

    def learned(device: str) -> dict:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 2)).to(device)
        teacher = copy.deepcopy(net)
        adam, sgd = torch.optim.Adam(net[0].parameters(), fused=True), torch.optim.SGD(net[2].parameters(), 0.1, momentum=0.9)
        images = torch.randn(6, 4).to(device)
        for _ in range(3):
            loss = (net(images) - teacher(images.flip(0)).detach()).square().mean()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1)
            for optimizer in (adam, sgd):
                optimizer.step()
                optimizer.zero_grad()
        file = io.BytesIO()
        torch.save(net.state_dict(), file)
        file.seek(0)
        return torch.load(file, weights_only=True, map_location="cpu")

    expected = learned("cpu")
    with PretendCuda():
        found = learned("cuda")
    for key, value in expected.items():
        assert torch.equal(found[key], value), key
    assert not torch.cuda.is_available()
