"""What the parts of the check share: the command line's composer, a folder, the device, and how long they may take."""

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from cil.common.signals import StopRequest
from cil.engine.build import experiment
from cil.engine.trainer import Trainer
from cil.runs.run_folder import RunDir

Row = dict[str, object]


@dataclass
class Part:
    """A part of the check at work; it begins nothing after `until`."""

    compose: Callable[..., dict]  # words of a command line → configuration
    folder: Path  # for runs and glyphs; nobody needs it afterwards
    device: torch.device
    small: bool  # shapes for a test of the check itself
    until: float  # of time.perf_counter

    @property
    def over(self) -> bool:
        return time.perf_counter() > self.until

    def configured(self, *words: str) -> dict:
        return self.compose(*words, "log.live=false", "data.features=null", f"data.root={self.folder / 'data'}")


@contextmanager
def opened(config: dict, folder: Path, device: torch.device) -> Iterator[Trainer]:
    """The trainer of a configuration in a folder of its own, which says nothing on the screen."""
    with contextlib.redirect_stdout(io.StringIO()), RunDir(folder).open(config) as run:
        trainer = experiment(config, run, device, StopRequest())
        try:
            yield trainer
        finally:
            trainer.log.close()


def told(error: Exception) -> str:
    """One short line."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {text}"[:200]


def fallback(trainer: Trainer) -> Row:
    """What a row says where the passes should have been compiled and were not."""
    failure = getattr(trainer.method.backbone.passes, "failure", None)
    return {} if failure is None else {"verdict": "not compiled", "why": failure}
