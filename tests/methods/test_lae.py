"""LAE against its steps written out: the moving average, the frozen epochs and the larger probability."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from cil.common.errors import UserError
from cil.data.images import Batch
from cil.methods.lae import LAE
from tests.methods.test_contract import fitted, small  # noqa: F401
from tests.modules.test_lora import overwritten
from tests.reference import DEPTH, WIDTH, close, images, transformer

BLOCKS = [0, 2]


def changed(module: dict[str, torch.Tensor]) -> torch.nn.Module:
    """The network with scale · up · down on the keys and values of BLOCKS."""
    down, up = torch.zeros(DEPTH, 2, 3, WIDTH).double(), torch.zeros(DEPTH, 2, WIDTH, 3).double()
    for number, block in enumerate(BLOCKS):
        for part in range(2):
            down[block, part] = module["down"][number, part]
            up[block, part] = module["scale"][number, part].item() * module["up"][number, part]
    return overwritten(transformer(), SimpleNamespace(linears=("key", "value"), down=down, up=up))


def online(method: LAE) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in method.online.named_parameters()}


def test_averages_and_answers():
    torch.manual_seed(0)
    method = LAE(transformer(), rank=3, blocks=BLOCKS, decay=0.7, head_epochs=2)
    offline: dict[str, torch.Tensor] = {}
    for index in range(3):
        classes = range(2 * index, 2 * index + 2)
        task = SimpleNamespace(index=index, classes=classes, seen=range(classes.stop), old=range(classes.start), train=None)
        method.begin_task(task)
        method.double().eval()
        if index == 1:
            offline = online(method)
        first, *more = method.phases(task)
        assert (first.name, first.epochs, len(first.parameters)) == (("head", 2, 2) if index else ("train", None, 5))
        assert len(more) == bool(index) and all(len(phase.parameters) == 5 for phase in more)
        labels = torch.tensor([classes.start, classes.start + 1] * 2)
        for _ in range(2):
            steps = method.training_steps(Batch(images(), labels, torch.arange(4)), SimpleNamespace(task=task))
            loss = next(steps)["ce"]
            logits = method.head(changed(online(method))(images()))
            close(loss.detach(), F.cross_entropy(logits[:, classes.start :], labels - classes.start).detach(), 1e-10)
            for parameter in method.online.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)  # the optimizer's step
            assert next(steps, None) is None
            if index:
                offline = {name: 0.7 * offline[name] + 0.3 * value for name, value in online(method).items()}
        with torch.no_grad():
            wanted = method.head(changed(online(method))(images())).softmax(1)
            if index:
                wanted = torch.maximum(wanted, method.head(changed(offline)(images())).softmax(1))
            close(method.predict(images()), wanted, 1e-6)


def test_the_average_moves_with_every_step(small, tmp_path):  # noqa: F811
    """Also while only the head is trained; and with a decay of 0 it is the online module."""
    method = fitted(small("lae", "method.decay=0.0"), tmp_path).method
    for name, parameter in method.online.named_parameters():
        torch.testing.assert_close(method.get_buffer(f"offline_{name}"), parameter.data)


def test_blocks_that_are_not_there_are_told():
    with pytest.raises(UserError, match=r"method.blocks=\[0, 6\] must name some of 0…5, each once; type method.blocks="):
        LAE(transformer(), rank=3, blocks=[0, 6], decay=0.9, head_epochs=0)
