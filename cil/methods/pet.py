"""PET: one module of parameter-efficient tuning for all tasks, without a protection against forgetting of its own."""

from functools import partial
from itertools import product
from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from cil.capabilities import Kind, ProjectionSite, TakesAdapters, TakesDeepPrompts, TakesLoRA, require
from cil.common.errors import UserError
from cil.common.ranges import Count, Positive, Rate, Whole
from cil.method import Batch, Losses, Method, Phase, Task
from cil.modules.adapters.lora import LoRA
from cil.modules.adapters.parallel import Adapter, Adapters
from cil.modules.heads.linear import TaskHeads
from cil.modules.prompt_pool import uniform

LINEARS = ("query", "key", "value")


class PET(Method):
    """Trains adapters, LoRA or deep prompts on each task in turn, on a frozen transformer, with one linear head per task."""

    divisible = True

    def __init__(
        self, backbone: nn.Module, *, kind: Literal["adapter", "lora", "prompt"], size: Count, blocks: Count | None,
        scale: Rate, temperature: Positive, head_epochs: Whole,
    ) -> None:  # fmt: skip
        """`kind`: adapters beside the MLPs, LoRA on queries, keys and values, or prompts in the attention. `size`: bottleneck,
        rank, or number of prompts. `blocks`: only the first so many; null: all. `scale`: factor of an adapter's output.
        `temperature`: divides the logits in the loss. `head_epochs`: from the second task on, epochs in which only the head is
        trained, before those of train.epochs."""
        super().__init__()
        self.backbone, self.temperature, self.head_epochs = backbone, temperature, head_epochs
        depth = getattr(backbone, "depth", 1)
        blocks = depth if blocks is None else blocks
        if blocks > depth:
            raise UserError(f"method.blocks={blocks}, but the backbone has {depth}; type method.blocks=null for all")
        self.module: SharedAdapters | SharedLoRA | DeepPrompts
        if kind == "adapter":
            self.module = SharedAdapters(backbone, blocks, size, scale)
        else:
            self.module = (SharedLoRA if kind == "lora" else DeepPrompts)(backbone, blocks, size)
        self.heads = TaskHeads()

    def begin_task(self, task: Task) -> None:
        self.heads.add(self.backbone.width, len(task.classes))

    def phases(self, task: Task) -> list[Phase]:
        head = list(self.heads[-1].parameters())
        first = [Phase("head", task, task.train, head, self.head_epochs)] if task.old and self.head_epochs else []
        return [*first, Phase("train", task, task.train, [*self.module.parameters(), *head])]

    def training_step(self, batch: Batch, phase: Phase) -> Losses:
        logits = self.heads[-1](self.features(batch.images)) / self.temperature
        return {"ce": F.cross_entropy(logits, batch.labels - phase.task.classes.start)}

    def features(self, images: Tensor) -> Tensor:
        return self.backbone(images, **self.module.given(self.backbone))

    def predict(self, images: Tensor) -> Tensor:
        return self.heads(self.features(images))

    # --- gradient projection ------------------------------------------------------------------------------------------

    def projection_sites(self) -> list[ProjectionSite]:
        return self.module.sites()

    def projection_inputs(self, images: Tensor, released: bool) -> dict[str, Tensor]:
        return self.module.inputs(self.backbone, self.backbone.tokens(images), released)


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


class DeepPrompts(nn.Module):
    """Prompts of the first blocks, one set for all images. The tokens of a block attend to them; none is passed on."""

    def __init__(self, backbone: nn.Module, blocks: int, length: int) -> None:
        super().__init__()
        require(backbone, TakesDeepPrompts, "pet")
        self.prompts = uniform(blocks, length, backbone.width)

    def given(self, backbone: nn.Module) -> dict:
        """Return the arguments of the backbone's forward pass."""
        return {"prefixes": backbone.deep(self.prompts)}

    def sites(self) -> list[ProjectionSite]:
        """Rows are multiplied with queries. Columns, the values of one entry over all prompts, with attention weights."""
        blocks = range(len(self.prompts))
        rows = [ProjectionSite(f"prompt.{block}", "token", self.prompts, (block,)) for block in blocks]
        return rows + [ProjectionSite(f"weight.{block}", "weight", self.prompts, (block,), columns=True) for block in blocks]

    def inputs(self, backbone: nn.Module, tokens: Tensor, released: bool) -> dict[str, Tensor]:
        """NSP² leaves out the factors of the norm between prompts and attention."""
        found: dict[str, Tensor] = {}
        for block, met in enumerate(backbone.meetings(tokens, self.prompts, scaled=not released)):
            found |= {f"{name}.{block}": own[:, :, None] for name, own in zip(("prompt", "weight"), met)}
        return found


def nothing(x: Tensor) -> Tensor:
    return x.new_zeros(())


def _pair(kind: Kind, name: str, down: nn.Parameter, up: nn.Parameter, index: tuple = ()) -> list[ProjectionSite]:
    """The rows of the first matrix are multiplied with inputs, those of the second with the output of the first."""
    return [ProjectionSite(f"{part}.{name}", kind, own, index) for part, own in (("down", down), ("up", up))]


def _met(name: str, x: Tensor, hidden: Tensor) -> dict[str, Tensor]:
    return {f"down.{name}": x[:, :, None], f"up.{name}": hidden[:, :, None]}
