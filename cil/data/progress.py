"""Progress of a long piece of work with images, as a bar or as lines."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress(title: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that reports progress: as a bar in a terminal, otherwise as a line after every tenth of the work."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        reported = done * 10 // total

        def report(more: int) -> None:
            nonlocal done, reported
            done += more
            if done * 10 // total > reported:
                reported = done * 10 // total
                print(f"{title}: {done} of {total}", flush=True)

        yield report
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        row = bar.add_task(title, total=total, completed=done)
        yield lambda more: bar.advance(row, more)
