"""Passes through a backbone by torch.compile: fewer and larger kernels, and on a GPU one launch a pass instead of hundreds.

A batch of one of a few sizes, those that come again and again, is compiled; others pass as they are written. Outputs agree
within what the order of a sum moves, so that `machine.compile` is no part of an address.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Walk = Callable[..., Tensor]  # (backbone, batch, …) → features

BACKEND = "inductor"  # of torch.compile; on a CPU it needs a C++ compiler
VARIANTS = 64  # of one pass: batch sizes, with and without a gradient, prompts and prefixes, copies that teach


def plainly(walk: Walk, backbone: nn.Module, x: Tensor, **given: object) -> Tensor:
    """As it is written."""
    return walk(backbone, x, **given)


class Passes:
    """Compiled where the batch has one of `sizes`; as they are written from the first failure of the compiler on."""

    def __init__(self, sizes: Iterable[int], device: torch.device, say: Callable[[str], None]) -> None:
        self.sizes, self._say = frozenset(sizes), say
        self.failure: str | None = None  # of the compiler
        self._graphs = device.type == "cuda"
        self._compiled: dict[Walk, Walk] = {}
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)

    def __deepcopy__(self, memo: dict) -> "Passes":
        """A copied backbone, a teacher, passes in the same way."""
        return self

    def __call__(self, walk: Walk, backbone: nn.Module, x: Tensor, **given: object) -> Tensor:
        if len(x) not in self.sizes:
            return walk(backbone, x, **given)
        try:
            found = self._form(walk)(backbone, x, **given)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            plain = walk(backbone, x, **given)  # raises again what is no fault of the compiler
            self.sizes = frozenset()
            why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            self.failure = why[:160]
            self._say(f"machine.compile=on: the compiler failed, so that passes are not compiled from here on ({self.failure})")
            return plain
        return found.clone() if self._graphs else found  # a graph writes its next result to the same place

    def _form(self, walk: Walk) -> Walk:
        if walk not in self._compiled:
            mode = {"mode": "reduce-overhead"} if self._graphs else {}
            self._compiled[walk] = torch.compile(walk, backend=BACKEND, dynamic=False, **mode)
        return self._compiled[walk]


def divided(count: int, parts: int) -> set[int]:
    """Sizes of the parts of a batch of `count` images."""
    return {(n + 1) * count // parts - n * count // parts for n in range(parts)} - {0}
