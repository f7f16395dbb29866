"""Progress output of a run: a live progress bar in a terminal, plain lines elsewhere. `run.log` gets the plain lines too.

The console only displays; the results of a run are the files in its folder. Other loggers subclass `Console` and are chosen
in conf/log.
"""

import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, SupportsFloat, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

SHORT = 12  # the longest list that is printed in full


class Console:
    """Prints the progress of tasks, phases and epochs; `live: false` prints plain lines in a terminal too."""

    prints = True  # whether plain lines are printed; `run.log` gets them in any case

    def __init__(self, *, live: bool) -> None:
        self.live = live and sys.stdout.isatty()
        self._file: TextIO | None = None
        self._bar: Progress | None = None
        self._shown = 0.0  # when the bar was last updated

    @staticmethod
    @contextmanager
    def silenced() -> Iterator[None]:
        """All consoles print nothing but the progress bar while the block runs, as in a sweep."""
        Console.prints = False
        try:
            yield
        finally:
            Console.prints = True

    def open(self, folder: Path) -> None:
        self._file = (folder / "run.log").open("a")

    def close(self) -> None:
        self.end_phase()
        if self._file:
            self._file.close()

    def say(self, line: str) -> None:
        """Print one plain line, above the progress bar if there is one, and write it to `run.log`."""
        if self._file:
            print(line, file=self._file, flush=True)
        if not self.prints:
            return
        if self._bar:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            print(line, flush=True)

    def begin_phase(self, title: str, *, steps: int, done: int) -> None:
        """Start a phase of `steps` training steps, of which `done` were taken before a resume; `title` names task and phase."""
        self._title, self._steps, self._since, self._images = title, steps, time.perf_counter(), 0
        if not self.live:
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=16), TextColumn("{task.fields[losses]}"))
        self._bar, self._shown = Progress(*columns, TimeRemainingColumn(compact=True), transient=True), 0.0
        self._row = self._bar.add_task(title, total=steps, completed=done, losses="")
        self._bar.start()

    def step(self, epoch: str, images: int, losses: Mapping[str, SupportsFloat]) -> None:
        """Count a training step of `images` images; updates the progress bar at most every 0.2 seconds."""
        self._images += images
        if not self._bar:
            return
        self._bar.advance(self._row)
        now = time.perf_counter()
        if now - self._shown > 0.2:  # reading a loss waits for the GPU, so not after every step
            self._shown = now
            shown = "  ".join(f"{key} {float(value):.3f}" for key, value in losses.items())
            rate = self._images / max(now - self._since, 1e-9)
            self._bar.update(self._row, description=f"{self._title}  {epoch}", losses=f"{shown}  {rate:.0f} img/s")

    def end_epoch(self, title: str, losses: Mapping[str, float], rate: float) -> None:
        shown = "  ".join(f"{key} {value:.4f}" for key, value in losses.items())
        line = f"{title}  {shown}  {rate:.0f} img/s"
        if self._bar:
            print(line, file=self._file, flush=True)
        else:
            self.say(line)

    def end_phase(self) -> None:
        if self._bar:
            self._bar.stop()
            self._bar = None


class Silent(Console):
    """A console that prints nothing, for all processes of a run but the first (rank 0)."""

    def __init__(self) -> None:
        super().__init__(live=False)

    def open(self, folder: Path) -> None:
        pass

    def say(self, line: str) -> None:
        pass


def told(facts: dict) -> str:
    """Format facts as one line of names and values; a long list is summarised as its nonzero count and its maximum."""

    def text(value: object) -> str:
        if not isinstance(value, list):
            return str(value)
        if len(value) <= SHORT:
            return " ".join(map(str, value))
        return f"{sum(v != 0 for v in value)} of {len(value)}, at most {max(value)}"

    return "  ".join(f"{name} {text(value)}" for name, value in facts.items())
