"""What a shelf of features saves: a whole run that finds it empty, one that finds it full, one that encodes at every use."""

import time
from collections.abc import Iterator
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from cil.common.errors import UserError
from cil.common.signals import StopRequest
from cil.data.images import LabelledImages
from cil.engine.build import device_of, experiment
from cil.engine.trainer import Trainer
from cil.modules.heads.frozen_images import FrozenImages
from cil.runs.run_folder import RunDir


def features(config: dict) -> Iterator[dict]:
    """Seconds from the first task to the last test, weights and images loaded."""
    with TemporaryDirectory() as folder:
        shelf = {**config["data"], "features": str(Path(folder) / "features")}
        whole = {**config, "data": shelf, "log": {**config["log"], "live": False}}
        told = [run(whole, Path(folder), what) for what in ("encoding at every use", "cold", "warm")]
    for row in told:
        row["times_faster"] = float(f"{told[0]['seconds'] / row['seconds']:.4g}")
        yield row


def run(config: dict, folder: Path, what: str) -> dict:
    with redirect_stdout(StringIO()):
        path = RunDir(folder / what.split()[0]).open(config)
        trainer = experiment(config, path, device_of(config["machine"]["device"]), StopRequest())
        if not isinstance(trainer.method, FrozenImages):
            raise UserError(f"{type(trainer.method).__name__} keeps no features; type method=rapf, awpf or class_mean")
        if what == "encoding at every use":  # as released code: each batch of training and test, statistics at a task's end
            trainer.frozen = trainer.evaluation.frozen = None
            trainer.method.frozen = Encoding(trainer)
        since = time.perf_counter()
        with path:
            trainer.fit()
        seconds = time.perf_counter() - since
        trainer.log.close()
    return {
        "row": "features", "method": type(trainer.method).__module__.rpartition(".")[2], "what": what,
        "images": len(trainer.scenario.images.train) + len(trainer.scenario.images.test),
        "image_encodes": trainer.encodes.total,
        "seconds": float(f"{seconds:.4g}"),
    }  # fmt: skip


class Encoding:
    """In the place of results that are kept."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer

    @torch.no_grad()
    def of(self, images: LabelledImages) -> torch.Tensor:
        batches = images.batches(self.trainer.machine.eval_batch_size, self.trainer.machine.device)
        return torch.cat([self.trainer.method.frozen_stage(batch.images) for batch in batches])
