"""Compiles the forward pass of a backbone with torch.compile: fewer, larger kernels, and on a GPU one CUDA graph per pass.

Only the few batch sizes that occur again and again are compiled; other batches run without compilation. Outputs differ only
by rounding, so `machine.compile` does not change the name of the output folder.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

Walk = Callable[..., Tensor]  # (backbone, batch, …) → features

BACKEND = "inductor"  # of torch.compile; on a CPU it needs a C++ compiler
VARIANTS = 64  # of one forward pass: batch sizes, with and without gradients, prompts and prefixes, teacher copies


def plainly(walk: Walk, backbone: nn.Module, x: Tensor, **given: object) -> Tensor:
    """Run a forward pass without compilation."""
    return walk(backbone, x, **given)


class Passes:
    """Runs forward passes, compiled if the batch has one of `sizes`. After a compiler failure nothing is compiled any more."""

    def __init__(self, sizes: Iterable[int], device: torch.device, log: Callable[[str], None]) -> None:
        self.sizes, self._log = frozenset(sizes), log
        self.failure: str | None = None  # the compiler's error
        self._graphs = device.type == "cuda"
        self._compiled: dict[Walk, Walk] = {}
        torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, VARIANTS)

    def __deepcopy__(self, memo: dict) -> "Passes":
        """Share the compiled passes with copies of the backbone, such as teachers."""
        return self

    def __call__(self, walk: Walk, backbone: nn.Module, x: Tensor, **given: object) -> Tensor:
        if len(x) not in self.sizes:
            return walk(backbone, x, **given)
        try:
            found = self._form(walk)(backbone, x, **given)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            plain = walk(backbone, x, **given)  # raises again if the error is not the compiler's
            self.sizes = frozenset()
            why = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            self.failure = why[:160]
            self._log(f"machine.compile=on: the compiler failed, so that passes are not compiled from here on ({self.failure})")
            return plain
        return found.clone() if self._graphs else found  # the next replay of a CUDA graph overwrites its output

    def _form(self, walk: Walk) -> Walk:
        if walk not in self._compiled:
            mode = {"mode": "reduce-overhead"} if self._graphs else {}
            self._compiled[walk] = torch.compile(walk, backend=BACKEND, dynamic=False, **mode)
        return self._compiled[walk]


def divided(count: int, parts: int) -> set[int]:
    """Return the sizes that occur when a batch of `count` images is split into `parts`."""
    return {(n + 1) * count // parts - n * count // parts for n in range(parts)} - {0}
