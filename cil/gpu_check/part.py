"""What the parts of the GPU check share: configuration, working folder, device and time limit."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from cil.backbones.compiled import Passes
from cil.engine.trainer import Trainer

Row = dict[str, Any]  # one result, as it is written to JSON


@dataclass
class Part:
    """Settings of a part of the check. A part starts no new work after `until`."""

    compose: Callable[..., dict]  # arguments of a command line → configuration
    folder: Path  # temporary, for runs and the drawn glyphs
    device: torch.device
    small: bool  # tiny shapes, to test the check itself
    until: float  # in the time of time.perf_counter

    @property
    def over(self) -> bool:
        return time.perf_counter() > self.until

    def configured(self, *words: str) -> dict:
        return self.compose(*words, "log.live=false", "data.features=null", f"data.root={self.folder / 'data'}")


def attempted(part: Part, row: Row, work: Callable[..., Row], *given: Any) -> Row:
    """The row with what `work` finds, or, if it found nothing, with the reason: the time was over, or its error in a line."""
    if part.over:
        return row | {"verdict": "not reached"}
    try:
        return row | work(*given)
    except Exception as error:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
        return row | {"verdict": "failed", "why": f"{type(error).__name__}: {text}"[:200]}


def judged(trainer: Trainer) -> Row:
    """The verdict of a row on speed: "ok", unless compiling the backbone's passes failed."""
    passes = trainer.method.backbone.passes
    failure = passes.failure if isinstance(passes, Passes) else None
    return {"verdict": "ok"} if failure is None else {"verdict": "not compiled", "why": failure}
