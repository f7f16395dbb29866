"""Graceful stops: a signal that asks the run to stop is recorded until the training loop can write a checkpoint."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import CalledProcessError
from typing import Any

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h ("try again"); no other exit of run.py uses it
POLITE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
USER_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)  # sent only to ask for a stop; a launcher may have its own handler
DEFAULT_HANDLERS = (signal.SIG_DFL, signal.default_int_handler)


class Stopped(Exception):
    """The run was asked to stop and has written a checkpoint."""


class StopRequest:
    """False until a signal arrives. `name` is then the name of the signal."""

    name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None

    def arrive(self, number: int, frame: object) -> None:
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C stops the run at once
        self.name = signal.Signals(number).name


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Record signals while the block runs.

    A launcher that requeues jobs has its own handler for SIGUSR1 or SIGUSR2. That handler ends the process, so it is called
    only after the block has raised Stopped, which means that the checkpoint is written. Handlers that other code has set for
    other signals stay in place (submitit sets one that ignores SIGTERM, since it uses a user signal as well).
    """
    request = StopRequest()
    previous: dict[int, Any] = {}  # the handler of each signal before the block
    waiting: list[int] = []  # the user signal that the launcher's handler has still to receive

    def arrive(number: int, frame: object) -> None:
        if callable(previous[number]) and number in USER_SIGNALS:
            waiting[:] = [number]
        request.arrive(number, frame)

    for number in POLITE:
        handler = signal.getsignal(number)
        if handler in DEFAULT_HANDLERS or (number in USER_SIGNALS and callable(handler)):
            previous[number] = handler
            signal.signal(number, arrive)
    stopped = False
    try:
        yield request
    except Stopped:
        stopped = True
        raise
    finally:
        for caught, handler in previous.items():
            signal.signal(caught, handler)
        if stopped and waiting:
            try:
                previous[waiting[0]](waiting[0], None)
            except CalledProcessError as error:
                if error.returncode != -signal.SIGTERM:
                    raise
                sys.exit(EXIT_CODE)  # SLURM has ended the job that asked to be queued again, and with it the asking command
