"""Adapters and LoRA of the first blocks, one set for all tasks, whose matrices are projection sites (PEGP)."""

from functools import partial
from itertools import product

import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import Kind, ProjectionSite, TakesAdapters, TakesLoRA, require
from cil.modules.adapters.lora import LoRA
from cil.modules.adapters.parallel import Adapter, Adapters

LINEARS = ("query", "key", "value")


class SharedAdapters(nn.Module):
    """Adapters without biases, since a bias changes the output for each input."""

    def __init__(self, backbone: nn.Module, blocks: int, bottleneck: int, scale: float) -> None:
        super().__init__()
        require(backbone, TakesAdapters, "pet")
        self.own = Adapters(blocks, backbone.width, bottleneck=bottleneck, scale=scale, dropout=0.0)
        for adapter in self.own:
            adapter.down.bias = adapter.up.bias = None

    def given(self, backbone: nn.Module) -> dict:
        return {"adapters": [*self.own, *[nothing] * (backbone.depth - len(self.own))]}

    def sites(self) -> list[ProjectionSite]:
        pairs = (_pair("adapter", str(block), own.down.weight, own.up.weight) for block, own in enumerate(self.own))
        return [site for pair in pairs for site in pair]

    def inputs(self, backbone: nn.Module, tokens: Tensor, released: bool) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}

        def watched(block: int, adapter: Adapter, x: Tensor) -> Tensor:
            if block < len(self.own):
                found.update(_met(str(block), x, adapter.down(x).relu()))
            return adapter(x)

        backbone(tokens, adapters=[partial(watched, *pair) for pair in enumerate(self.given(backbone)["adapters"])])
        return found


class SharedLoRA(nn.Module):
    """Low-rank factors for the queries, keys and values."""

    def __init__(self, backbone: nn.Module, blocks: int, rank: int) -> None:
        super().__init__()
        require(backbone, TakesLoRA, "pet")
        self.own = LoRA(blocks, backbone.width, LINEARS, rank)

    def given(self, backbone: nn.Module) -> dict:
        return {"changes": [*self.own.changes(), *[{}] * (backbone.depth - len(self.own.down))]}

    def sites(self) -> list[ProjectionSite]:
        places = product(range(len(self.own.down)), enumerate(LINEARS))
        pairs = (_pair("lora", f"{block}.{name}", self.own.down, self.own.up, (block, n)) for block, (n, name) in places)
        return [site for pair in pairs for site in pair]

    def inputs(self, backbone: nn.Module, tokens: Tensor, released: bool) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for block, (x, downs) in enumerate(zip(backbone.attention_inputs(tokens, **self.given(backbone)), self.own.down)):
            for name, down in zip(LINEARS, downs):
                found |= _met(f"{block}.{name}", x, F.linear(x, down))
        return found


def nothing(x: Tensor) -> Tensor:
    return x.new_zeros(())


def _pair(kind: Kind, name: str, down: nn.Parameter, up: nn.Parameter, index: tuple = ()) -> list[ProjectionSite]:
    """The rows of the first matrix are multiplied with inputs, those of the second with the output of the first."""
    return [ProjectionSite(f"{part}.{name}", kind, own, index) for part, own in (("down", down), ("up", up))]


def _met(name: str, x: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    return {f"down.{name}": x[:, :, None], f"up.{name}": hidden[:, :, None]}
