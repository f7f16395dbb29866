"""Sums of named losses over an epoch, and the guard against losses that are no longer numbers."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cil.common.errors import UserError


def mean_of(steps: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Of each loss over the steps that were taken with one batch."""
    if len(steps) == 1:
        return steps[0]
    names = {name: None for losses in steps for name in losses}
    return {name: torch.stack([losses[name] for losses in steps if name in losses]).mean() for name in names}


class Meter:
    """Losses wait in a list and are read together, since reading one makes an accelerator wait; on the CPU each at once."""

    def __init__(self, place: str, read_every: int, state: Mapping | None = None) -> None:
        """`place` says task, phase and epoch; `state` is what a checkpoint kept of an unfinished epoch."""
        self._place, self._read_every = place, read_every
        self._waiting: list[tuple[int, Tensor, Mapping[str, Tensor]]] = []
        self.sums: dict[str, float] = dict(state["sums"]) if state else {}
        self.images: int = state["images"] if state else 0

    def add(self, step: int, rows: Tensor, losses: Mapping[str, Tensor]) -> None:
        self._waiting.append((step, rows, losses))
        if len(self._waiting) >= self._read_every:
            self.read()

    def read(self) -> None:
        if not self._waiting:
            return
        named = [(step, rows, key, loss) for step, rows, losses in self._waiting for key, loss in losses.items()]
        values = torch.stack([loss.float() for *_, loss in named]).tolist()
        for (step, rows, key, _), value in zip(named, values, strict=True):
            if not math.isfinite(value):
                shown = ", ".join(map(str, rows.tolist()[:8])) + (", …" if len(rows) > 8 else "")
                raise UserError(f"loss {key} is {value} at {self._place}, step {step + 1} (training images {shown}); "
                                "lower optim.lr or set train.clip=1.0")  # fmt: skip
            self.sums[key] = self.sums.get(key, 0.0) + value * len(rows)
        self.images += sum(len(rows) for _, rows, _ in self._waiting)
        self._waiting.clear()

    def means(self) -> dict[str, float]:
        self.read()
        return {key: value / self.images for key, value in self.sums.items()}

    def state(self) -> dict:
        self.read()
        return {"sums": dict(self.sums), "images": self.images}
