"""Sums named losses over an epoch and stops the run if a loss becomes NaN or infinite."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from cil.common.errors import UserError


def mean_of(steps: Sequence[Mapping[str, Tensor]]) -> Mapping[str, Tensor]:
    """Average each loss over the steps that were taken with one batch."""
    if len(steps) == 1:
        return steps[0]
    names = {name: None for losses in steps for name in losses}
    return {name: torch.stack([losses[name] for losses in steps if name in losses]).mean() for name in names}


class Meter:
    """Averages losses over the images of an epoch. Reads them every `read_every` steps, since reading waits for the GPU."""

    def __init__(self, place: str, read_every: int, state: Mapping | None = None) -> None:
        """`place` names task, phase and epoch in messages; `state` is the saved state of an unfinished epoch."""
        self._place, self._read_every = place, read_every
        self._unread: list[tuple[int, Tensor, Mapping[str, Tensor]]] = []
        self.sums: dict[str, float] = dict(state["sums"]) if state else {}
        self.images: int = state["images"] if state else 0

    def add(self, step: int, rows: Tensor, losses: Mapping[str, Tensor]) -> None:
        """Add the scalar losses of a step; `rows` (batch,) are its image numbers, shown if a loss is not finite."""
        self._unread.append((step, rows, losses))
        if len(self._unread) >= self._read_every:
            self.read()

    def read(self) -> None:
        if not self._unread:
            return
        named = [(step, rows, key, loss) for step, rows, losses in self._unread for key, loss in losses.items()]
        values = torch.stack([loss.float() for *_, loss in named]).tolist()
        for (step, rows, key, _), value in zip(named, values, strict=True):
            if not math.isfinite(value):
                shown = ", ".join(map(str, rows.tolist()[:8])) + (", …" if len(rows) > 8 else "")
                raise UserError(f"loss {key} is {value} at {self._place}, step {step + 1} (training images {shown}); "
                                "lower optim.lr or set train.clip=1.0")  # fmt: skip
            self.sums[key] = self.sums.get(key, 0.0) + value * len(rows)
        self.images += sum(len(rows) for _, rows, _ in self._unread)
        self._unread.clear()

    def means(self) -> dict[str, float]:
        self.read()
        return {key: value / self.images for key, value in self.sums.items()}

    def state(self) -> dict:
        self.read()
        return {"sums": dict(self.sums), "images": self.images}
