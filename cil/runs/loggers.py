"""Loggers that copy the run's record to Weights & Biases or TensorBoard. All that they show is read from the run folder.

A logger reads `events.jsonl` from its first line and uses the line number as wandb's step. A resumed run therefore logs no
point twice, and a run that began without the logger is logged completely once the logger is added.
"""

import hashlib
import json
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from netrc import NetrcParseError, netrc
from pathlib import Path
from typing import Any, Literal
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

import yaml

from cil.common.errors import UserError
from cil.common.files import write_text
from cil.common.tables import grid, number, one_line
from cil.metrics import COUNTS, AccuracyMatrix
from cil.runs.console import Console
from cil.runs.record import Point, Record, table
from cil.runs.run_folder import RunDir, address, names, read_matrices

TOTALS = ("tasks", "seconds", "trained_parameters", "image_encodes", "peak_memory_mib")


def absent(library: str, how: str) -> str:
    return f"{library} {how}; type pip install {library}, or log=console"


class Mirror(Console, ABC):
    """A console that also forwards new records of the run folder. If this fails, it prints one line; the run continues."""

    library: str  # the package that must be installed

    def __init__(self, *, live: bool) -> None:
        super().__init__(live=live)
        self._on = False
        self._rate: float | None = None  # images per second of the epoch that is being logged

    # what a subclass implements

    @abstractmethod
    def load(self) -> None:
        """Import the library."""

    @abstractmethod
    def begin(self, config: dict) -> str:
        """Start or resume logging of the run in `self.folder`; returns a line that says where to view it."""

    @abstractmethod
    def add(self, point: Point) -> None:
        """Log one line of the record."""

    @abstractmethod
    def end(self, summary: dict, matrices: dict[str, AccuracyMatrix], pictures: list[Path]) -> None:
        """Log the results of a finished run."""

    @abstractmethod
    def leave(self, done: bool) -> None:
        """Close the logger at the end of this process; `done` says whether the run is finished."""

    # what the trainer calls

    def open(self, folder: Path) -> None:
        try:
            self.load()
        except ImportError as error:
            raise UserError(absent(self.library, f"cannot be imported ({error})")) from None
        super().open(folder)
        self.folder, self._record = folder, Record(folder)
        self._on = True
        if where := self._try(lambda: self.begin(yaml.safe_load((folder / "config.yaml").read_text()))):
            self.say(where)

    def say(self, line: str) -> None:
        super().say(line)
        self._try(self._follow)

    def end_epoch(self, title: str, losses: Mapping[str, float], rate: float) -> None:
        self._rate = rate
        super().end_epoch(title, losses, rate)
        self._try(self._follow)
        self._rate = None

    def close(self) -> None:
        self._try(self._follow)
        done = self._on and (self.folder / "DONE").exists()
        if done:
            self._try(self._log_results)
        self._try(lambda: self.leave(done))
        self._on = False
        super().close()

    def _follow(self) -> None:
        for point in self._record.fresh(self._rate):
            self.add(point)

    def _log_results(self) -> None:
        self.end(RunDir(self.folder).summary(), read_matrices(self.folder), sorted((self.folder / "pictures").glob("*.png")))

    def _try(self, action: Callable[[], Any]) -> Any:
        """Call `action`. Any error switches the logger off and is printed, so that it cannot end the run."""
        try:
            return action() if self._on else None
        except Exception as error:
            self._on = False
            why = " ".join(str(error).split()) or type(error).__name__
            self.say(f"{self.library} failed ({why[:200]}); the run goes on without it, and its folder has everything")


class Wandb(Mirror):
    """Logs to Weights & Biases. Mode `auto` falls back to offline if there is no API key or no network; it never asks."""

    library = "wandb"

    def __init__(self, *, live: bool, project: str, entity: str | None, mode: Literal["auto", "online", "offline"]) -> None:
        super().__init__(live=live)
        self.project, self.entity, self.mode = project, entity, mode

    def load(self) -> None:
        import wandb

        self.wandb = wandb

    def begin(self, config: dict) -> str:
        mode = self.mode if self.mode != "auto" else os.environ.get("WANDB_MODE") or found()
        self._run = self._start(mode, config)
        for kind in COUNTS:
            self._run.define_metric(f"{kind}/*", step_metric="task")
        self._run.define_metric("train/*", step_metric="epochs")
        self._first = self._run.starting_step  # above 0 if an earlier process already logged online
        if mode == "disabled":
            return "wandb is switched off by WANDB_MODE"
        if mode == "online":
            return f"wandb: {self._run.url}"
        return f"wandb: offline; to upload it, type wandb sync {self.folder}/wandb/offline-run-*"

    def _start(self, mode: Any, config: dict) -> Any:
        place = address(config)
        settings = self.wandb.Settings(silent=True, console="off", init_timeout=30, finish_timeout=60)
        return self.wandb.init(
            project=self.project, entity=self.entity, mode=mode, dir=self.folder, config={**config, "address": place},
            name=place, group=place.rpartition("/")[0], tags=list(names(config)), id=own_id(self.folder, place),
            resume="allow", reinit="create_new", allow_val_change=True, settings=settings,
        )  # fmt: skip

    def add(self, point: Point) -> None:
        if point.line >= self._first:
            self._run.log({**point.clock, **point.values}, step=point.line)

    def end(self, summary: dict, matrices: dict[str, AccuracyMatrix], pictures: list[Path]) -> None:
        for key in matrices:
            self._run.summary.update({f"{key}/{name}": value for name, value in summary[key].items()})
        self._run.summary.update({name: summary[name] for name in TOTALS})
        self._run.config.update({"identity": summary["identity"]}, allow_val_change=True)
        shown = {f"tables/{key}": self._table(matrix) for key, matrix in matrices.items()}
        shown |= {f"pictures/{file.stem}": self.wandb.Image(str(file)) for file in pictures}
        self._run.log(shown, step=self._record.lines)

    def _table(self, matrix: AccuracyMatrix) -> Any:
        head, rows = table(matrix)
        return self.wandb.Table(columns=[*head], data=rows)

    def leave(self, done: bool) -> None:
        self._run.finish(exit_code=0 if done else 1)


def found() -> str:
    """The mode for `auto`: "online" if an API key is configured and the wandb server can be reached, else "offline"."""
    service = os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai"
    return "online" if has_key(urlsplit(service).hostname) and answers(service) else "offline"


def has_key(host: str | None) -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        return host in netrc(Path(os.environ.get("NETRC") or "~/.netrc").expanduser()).hosts
    except (OSError, NetrcParseError):
        return False


def answers(service: str) -> bool:
    """Whether the server responds at all, even with an error. Cluster nodes often have a key but no internet access."""
    try:
        urlopen(service, timeout=10).close()
    except HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


def own_id(folder: Path, place: str) -> str:
    """The wandb id of a run, kept in its folder. A run that is deleted and started again gets a new id."""
    file = folder / "wandb_id"
    if not file.exists():
        write_text(file, hashlib.sha256(f"{place} {time.time_ns()}".encode()).hexdigest()[:16])
    return file.read_text().strip()


class TensorBoard(Mirror):
    """Writes TensorBoard event files to `tensorboard/` in the run folder. Each process rewrites them from the record."""

    library = "tensorboard"

    def load(self) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer_of = SummaryWriter

    def begin(self, config: dict) -> str:
        place = self.folder / "tensorboard"
        for old in place.glob("events.out.tfevents.*"):
            old.unlink()
        self._writer = self.writer_of(str(place), flush_secs=30)
        self._writer.add_text("configuration", code(yaml.safe_dump({"address": address(config), **config}, sort_keys=False)))
        return f"tensorboard --logdir {place}"

    def add(self, point: Point) -> None:
        for name, value in point.values.items():
            self._writer.add_scalar(name, value, point.clock[point.axis])
        if point.axis == "epochs":
            for name in ("task", "images"):
                self._writer.add_scalar(f"progress/{name}", point.clock[name], point.clock["epochs"])

    def end(self, summary: dict, matrices: dict[str, AccuracyMatrix], pictures: list[Path]) -> None:
        import numpy as np
        from PIL import Image

        numbers = {key: summary[key] for key in (*matrices, *TOTALS)}
        self._writer.add_text("summary", f"{one_line(summary)}\n\n{code(json.dumps(numbers, indent=2))}")
        self._writer.add_text("identity", code(json.dumps(summary["identity"], indent=2, default=str)))
        for kind, matrix in matrices.items():
            head, rows = table(matrix)
            cells = [[str(first), *map(number, rest)] for first, *rest in rows]
            self._writer.add_text(f"table/{kind}", grid(head, cells, markdown=True))
        for file in pictures:
            with Image.open(file) as image:
                self._writer.add_image(f"pictures/{file.stem}", np.asarray(image.convert("RGB")), dataformats="HWC")

    def leave(self, done: bool) -> None:
        self._writer.close()


def code(text: str) -> str:
    """Indent the text, so that Markdown shows it as a code block."""
    return "\n".join(f"    {line}" for line in text.splitlines())
