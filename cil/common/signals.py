"""Polite stops: a scheduler's warning is remembered until the loop reaches a place where it can stop."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_CODE = 75  # "temporary failure, try again" of sysexits.h; no other exit of run.py uses it
POLITE = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
USERS = (signal.SIGUSR1, signal.SIGUSR2)  # nobody sends them but whoever wants just this
NOBODYS = (signal.SIG_DFL, signal.default_int_handler)


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
    """Listens while the block runs.

    A launcher that requeues a job has its own handler of a user signal: it is called when the block has ended in Stopped, so
    after the checkpoint, and ends the process. Other handlers that somebody else set are left in place (submitit's waits
    through SIGTERM, which comes with its own signal).
    """
    request, previous, waiting = StopRequest(), {}, []

    def arrive(number: int, frame: object) -> None:
        if callable(previous[number]) and number in USERS:
            waiting[:] = [number]
        request.arrive(number, frame)

    for number in POLITE:
        handler = signal.getsignal(number)
        if handler in NOBODYS or (number in USERS and callable(handler)):
            previous[number] = handler
            signal.signal(number, arrive)
    stopped = False
    try:
        yield request
    except Stopped:
        stopped = True
        raise
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if stopped and waiting:
            previous[waiting[0]](waiting[0], None)
