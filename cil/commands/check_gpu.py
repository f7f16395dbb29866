"""Check that results on a GPU can be trusted, and measure its speed.

make check-gpu                              # all parts, at most 11 minutes
python scripts/check_gpu.py --only speed,run --minutes 5

  accuracy  every method on the GPU against the CPU, and twice on the GPU
  resume    every method is killed and started again
  speed     training steps and test batches of ViT-B/16 at 224 pixels, compared
            with a bare forward pass
  run       the complete first task of CIFAR-100 in 10 tasks

No dataset and no network are needed. Prints tables and writes
outputs/check_gpu.json and, on a real GPU, docs/results/gpu.md.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cil.common import places
from cil.common.errors import UserError, nearest
from cil.launch.compose import compose, guarded, options

MINUTES = {"accuracy": 3.0, "resume": 1.0, "speed": 5.0, "run": 2.0}  # limit of each part; unused time goes to the next


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(MINUTES), metavar="PARTS", help=f"comma-separated, of {', '.join(MINUTES)}")
    parser.add_argument("--minutes", type=float, help=f"limit of all parts together (default: {sum(MINUTES.values()):.0f})")
    parser.add_argument("--methods", default="", help="methods for accuracy and resume, comma-separated (default: all)")
    parser.add_argument("--small", action="store_true", help="tiny shapes, to test the check itself")
    parser.add_argument("--page", type=Path, help="write the page to this file")
    parser.add_argument("--json", type=Path, default=places.outputs() / "check_gpu.json", help="write the results to this file")
    asked = parser.parse_args(words)
    return guarded(lambda: check(asked))


def check(asked: argparse.Namespace) -> int:
    parts = chosen(asked.only, list(MINUTES), "--only")
    methods = chosen(asked.methods, options("method"), "--methods") if asked.methods else options("method")
    if asked.minutes is not None and asked.minutes <= 0:
        raise UserError(f"--minutes {asked.minutes} is not a positive number; type --minutes 11")

    import torch

    from cil.common.files import write_json
    from cil.gpu_check import page
    from cil.runs.identity import git_commit

    if not torch.cuda.is_available():
        raise UserError("torch sees no GPU here, so there is nothing to check; type make test to check the CPU")
    device, began = torch.device("cuda", torch.cuda.current_device()), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        rows = []
        for row in checked(parts, methods, Path(folder), device, asked):
            minutes = (time.perf_counter() - began) / 60
            print(f"{minutes:5.1f} min  {page.named(row)}: {row['verdict']}", file=sys.stderr, flush=True)
            rows.append(row)
    good, line = page.judgement(rows)
    found = {"device": torch.cuda.get_device_name(device), "torch": torch.__version__, "commit": git_commit(),
             "small": asked.small, "minutes": (time.perf_counter() - began) / 60, "judgement": line, "rows": rows}  # fmt: skip
    write_json(asked.json, found)
    print(f"{page.tables(rows, markdown=False)}\n\n{found['device']}: {line}")
    own = places.CHECKOUT / "docs" / "results" / "gpu.md" if places.CHECKOUT and real() and not asked.small else None
    if target := asked.page or own:
        page.write(target, found)
    return 0 if good else 1


def checked(parts: list[str], methods: list[str], folder: Path, device: object, asked: argparse.Namespace) -> Iterator[dict]:
    """Yield the result rows of all parts; each part may use its share of the time that is left."""
    from cil.gpu_check.part import Part
    from cil.gpu_check.runs import Runs, accuracy, resume
    from cil.gpu_check.speed import FORMS, speed
    from cil.gpu_check.whole import whole

    end = time.perf_counter() + 60 * (asked.minutes or sum(MINUTES[part] for part in parts))
    part = Part(compose, folder, device, asked.small, end)
    runs = Runs(part)
    forms, of_run = (tuple(FORMS), ("auto", "auto, compiled")) if real() else (("tf32",), ("tf32",))
    work = {"accuracy": lambda: accuracy(runs, methods), "resume": lambda: resume(runs, methods),
            "speed": lambda: speed(part, forms), "run": lambda: whole(part, of_run)}  # fmt: skip
    for number, name in enumerate(parts):
        now = time.perf_counter()
        part.until = now + (end - now) * MINUTES[name] / sum(MINUTES[left] for left in parts[number:])
        yield from work[name]()


def real() -> bool:
    """Whether torch can profile CUDA, so that the GPU is real and not simulated by a test."""
    from torch.profiler import ProfilerActivity, supported_activities

    return ProfilerActivity.CUDA in supported_activities()


def chosen(words: str, known: list[str], option: str) -> list[str]:
    for word in words.split(","):
        if word not in known:
            raise UserError(f"{option}: {word!r} is not known; {nearest(word, known)}")
    return [name for name in known if name in words.split(",")]
