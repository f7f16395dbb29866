"""Processes of their own for tests. They are forked from this one, so that they do not spend seconds on imports again."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from cil.common.errors import UserError
from cil.common.signals import EXIT_CODE
from cil.launch import run as front_door
from tests import harness
from tests.harness import ROOT


class Child:
    """A process that calls `work`, whose result is its exit code, and keeps what it prints."""

    def __init__(self, work: Callable[[], int | None], cwd: Path = ROOT, **environment: str) -> None:
        self.printed = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115
        self.pid = os.fork()
        if self.pid:
            return
        code = 1
        try:
            for number, file in enumerate(self.printed, 1):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1) for number in (1, 2))  # noqa: SIM115
            os.chdir(cwd)
            os.environ.update(environment)
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts its background jobs deaf to Ctrl-C
            code = work() or 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> subprocess.CompletedProcess:
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        for file in self.printed:
            file.seek(0)
        out, err = (file.read() for file in self.printed)
        return subprocess.CompletedProcess([], code, out, err)


def in_child(config: dict) -> Child:
    """A process that runs `config`."""

    def work() -> int:
        try:
            harness.execute(config)
        except front_door.Stopped:
            return EXIT_CODE
        except (UserError, KeyboardInterrupt):
            return 2
        return 0

    return Child(work)


def typed(*words: object, cwd: Path = ROOT, **environment: str) -> Child:
    """A process of `python run.py` with these words."""

    def work() -> int:
        sys.argv = ["run.py", *map(str, words)]
        return front_door.front_door()

    return Child(work, cwd, **environment)


def ranks(work: Callable[[], int | None] | list[object]) -> list[Child]:
    """The two processes that torchrun would start: of `python run.py` with these words, or of a function."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"TORCHELASTIC_RUN_ID": "test", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [{**shared, "RANK": rank, "LOCAL_RANK": rank} for rank in "01"]
    return [Child(work, **one) if callable(work) else typed(*work, **one) for one in both]
