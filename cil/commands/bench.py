"""Measure the speed of training and testing, relative to the bare backbone.

python scripts/bench.py                          # all rows for the default run
python scripts/bench.py step method=finetune     # one row, for another method
python scripts/bench.py floor eval method=continual_clip --batch 16 --rounds 5

Each row is printed as one line of JSON:
  floor     forward and backward pass of the bare backbone
  step      a training step
  eval      a test batch, without and with cached features
  data      loading batches, compared with Pillow image by image; photographs
            also: time from files to first batch, with and without decoding
  subspace  the basis update of gradient projection
  text      the text encoder of AttriCLIP at the size of CLIP ViT-B/16
  stack     steps of several runs in one pass; only if named
  features  whole runs with and without cached features; only if named, since it
            takes minutes
Words that contain = are settings, as for python run.py.
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cil.common.errors import UserError, nearest
from cil.launch.compose import compose, guarded

ROWS = ("floor", "step", "eval", "data", "subspace", "text")
OPTIONAL = ("features", "stack")  # only if named, since they take minutes


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help=f"rows ({', '.join(ROWS + OPTIONAL)}), settings (key=value)")
    parser.add_argument("--rounds", type=int, default=7, help="repetitions of each measurement (%(default)s)")
    parser.add_argument("--batch", type=int, default=64, help="images per batch (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (%(default)s)")
    asked = parser.parse_intermixed_args(words)
    out = sys.stdout

    def work() -> None:
        with contextlib.redirect_stdout(sys.stderr):  # stdout has the rows only
            for row in bench(asked):
                print(json.dumps(row, ensure_ascii=False), file=out, flush=True)

    return guarded(work)


def bench(asked: argparse.Namespace) -> Iterator[dict]:
    for key in ("rounds", "batch", "threads"):
        if getattr(asked, key) < 1:
            raise UserError(f"--{key} {getattr(asked, key)} is not a whole number from 1 on; type --{key} 1")
    settings = [word for word in asked.words if "=" in word]
    chosen = [word for word in asked.words if "=" not in word] or ROWS
    for word in chosen:
        if word not in ROWS + OPTIONAL:
            raise UserError(f"bench: {word!r} is not known; {nearest(word, ROWS + OPTIONAL)}")
    config = compose(*settings)

    import torch

    from cil.bench.data import archive, data
    from cil.bench.features import features
    from cil.bench.harness import Bench
    from cil.bench.stacked import stacked
    from cil.bench.subspace import subspace
    from cil.bench.text import text
    from cil.common.signals import StopRequest
    from cil.data.image_store import Pixels
    from cil.engine.build import device_of, experiment
    from cil.engine.trainer import Trainer
    from cil.runs.run_folder import RunDir

    def run_of_seed(config: dict, like: Trainer, number: int) -> Trainer:
        """A run on the backbone of `like`. If the configuration has modifiers, every second run of a pair has them."""
        modifiers = config.get("modifier") or {}
        seed = number // 2 if modifiers else number
        own = {**config, "seed": seed, "modifier": modifiers if number % 2 else {}, "log": {**config["log"], "live": False}}
        run = RunDir(like.run.path / str(number))
        run.path.mkdir()
        return experiment(own, run, like.machine.device, StopRequest(), like)

    torch.set_num_threads(asked.threads)
    fixed = {"subspace": subspace, "text": text}  # rows that use no configured method
    with tempfile.TemporaryDirectory() as folder:
        trainer = experiment(config, RunDir(Path(folder)), device_of(config["machine"]["device"]), StopRequest())
        try:
            first, prepared = trainer.scenario[0].train, None
            for word in chosen:
                if word == "data":
                    yield from data(first, batch=asked.batch, rounds=asked.rounds)
                    if isinstance(first.pixels, Pixels):
                        yield from archive(config, trainer.method.backbone)
                elif word == "features":
                    yield from features(config)
                elif word == "stack":
                    yield from stacked(lambda seed: run_of_seed(config, trainer, seed), asked.rounds)
                elif word in fixed:
                    yield from fixed[word](asked.rounds)
                else:
                    prepared = prepared or Bench(trainer, batch=asked.batch, rounds=asked.rounds)
                    yield from getattr(prepared, word)()
        finally:
            trainer.log.close()
