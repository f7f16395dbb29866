"""Benchmark of the feature cache: whole runs without it, with an empty cache (cold) and with a full one (warm)."""

import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from cil.bench.harness import figures, name, opened
from cil.common.errors import UserError
from cil.data.images import LabelledImages
from cil.engine.build import device_of
from cil.engine.trainer import Trainer
from cil.modules.heads.frozen_images import FrozenImages


def features(config: dict) -> Iterator[dict]:
    """Times each run from the first task to the last test; loading weights and images is not counted."""
    with TemporaryDirectory() as folder:
        data = {**config["data"], "features": str(Path(folder) / "features")}
        whole = {**config, "data": data, "log": {**config["log"], "live": False}}
        rows = [run(whole, Path(folder), what) for what in ("encoding at every use", "cold", "warm")]
    for row in rows:
        row["times_faster"] = figures(rows[0]["seconds"] / row["seconds"])
        yield row


def run(config: dict, folder: Path, what: str) -> dict:
    with opened(config, folder / what.split()[0], device_of(config["machine"]["device"])) as trainer:
        if not isinstance(trainer.method, FrozenImages):
            raise UserError(f"{type(trainer.method).__name__} does not cache features; type method=rapf, awpf or class_mean")
        if what == "encoding at every use":  # as released code does
            trainer.frozen = trainer.evaluation.frozen = None
            method: Any = trainer.method
            method.frozen = Encoding(trainer)
        since = time.perf_counter()
        trainer.fit()
        seconds = time.perf_counter() - since
    return {
        "row": "features", "method": name(trainer.method), "what": what,
        "images": len(trainer.scenario.images.train) + len(trainer.scenario.images.test),
        "image_encodes": trainer.encodes.total, "seconds": figures(seconds),
    }  # fmt: skip


class Encoding:
    """Stand-in for the feature cache that encodes the images each time they are asked for."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    @torch.no_grad()
    def of(self, images: LabelledImages) -> torch.Tensor:
        batches = images.batches(self.trainer.machine.eval_batch_size, self.trainer.machine.device)
        return torch.cat([self.trainer.method.frozen_stage(batch.images) for batch in batches])
