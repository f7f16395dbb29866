"""Polite stops: a scheduler's warning is remembered until the loop reaches a place where it can stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 75  # "temporary failure, try again" of sysexits.h; no other exit of run.py uses it
POLITE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)


class Stopped(Exception):
    """The run was asked to stop and has written a checkpoint."""


class StopRequest:
    """Falsy until a signal arrives; then its name."""

    name: str | None = None

    def __bool__(self) -> bool:
        return self.name is not None

    def arrive(self, number: int, frame: object) -> None:
        if self.name is not None and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second Ctrl-C means now
        self.name = signal.Signals(number).name


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Listens while the block runs. Handlers that somebody else set (a launcher that requeues jobs) are left in place."""
    request, previous = StopRequest(), {}
    for number in POLITE:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            previous[number] = signal.signal(number, request.arrive)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
