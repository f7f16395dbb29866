"""What a person sees while a run goes on: a live line in a terminal, plain lines elsewhere. `run.log` has the plain lines too.

A log is a mirror; the record is the run folder. Another mirror has these methods and is named in conf/log.
"""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

SHORT = 12  # numbers that a line has room for


class Console:
    """Tells of tasks, phases and epochs; `live: false` gives plain lines in a terminal too."""

    def __init__(self, *, live: bool) -> None:
        self.live = live and sys.stdout.isatty()
        self._file, self._bar = None, None

    def open(self, folder: Path) -> None:
        self._file = (folder / "run.log").open("a")

    def close(self) -> None:
        self._stop_bar()
        if self._file:
            self._file.close()

    def say(self, line: str) -> None:
        """One plain line, above the live display if there is one."""
        if self._file:
            print(line, file=self._file, flush=True)
        if self._bar:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)

    def begin_phase(self, title: str, *, steps: int, done: int) -> None:
        """`title` says task and phase; `steps` are those of the whole phase, of which `done` came before."""
        self._title, self._steps, self._since, self._images = title, steps, time.perf_counter(), 0
        if self.live:
            self._start_bar(title, steps, done)

    def step(self, epoch: str, images: int, losses: Mapping[str, object]) -> None:
        """After every step; costs nothing but a count unless the display is due."""
        self._images += images
        if not self._bar:
            return
        self._bar.advance(self._row)
        now = time.perf_counter()
        if now - self._shown > 0.2:  # reading a loss waits for the device, so not at every step
            self._shown = now
            told = "  ".join(f"{key} {float(value):.3f}" for key, value in losses.items())
            rate = self._images / max(now - self._since, 1e-9)
            self._bar.update(self._row, description=f"{self._title}  {epoch}", told=f"{told}  {rate:.0f} img/s")

    def end_epoch(self, title: str, losses: Mapping[str, float], rate: float) -> None:
        told = "  ".join(f"{key} {value:.4f}" for key, value in losses.items())
        line = f"{title}  {told}  {rate:.0f} img/s"
        if self._bar:
            print(line, file=self._file, flush=True)
        else:
            self.say(line)

    def end_phase(self) -> None:
        self._stop_bar()

    def _start_bar(self, title: str, steps: int, done: int) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.fields[told]}"))
        self._bar = Progress(*columns, TimeRemainingColumn(compact=True), transient=True)
        self._row = self._bar.add_task(title, total=steps, completed=done, told="")
        self._shown = 0.0
        self._bar.start()

    def _stop_bar(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None


class Silent(Console):
    """Of a process that another one speaks for."""

    def __init__(self) -> None:
        super().__init__(live=False)

    def open(self, folder: Path) -> None:
        pass

    def say(self, line: str) -> None:
        pass


def told(facts: dict) -> str:
    """For the screen: each fact by its name, short lists spelled out."""

    def text(value: object) -> str:
        if not isinstance(value, list):
            return str(value)
        few = len(value) <= SHORT
        return " ".join(map(str, value)) if few else f"{sum(v != 0 for v in value)} of {len(value)}, at most {max(value)}"

    return "  ".join(f"{name} {text(value)}" for name, value in facts.items())
