"""Processes of their own for tests. They are forked from this one, so that they do not spend seconds on imports again."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
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
        if not self.pid:
            try:
                os._exit(self._code(work, cwd, environment))
            finally:
                os._exit(1)  # whatever happens, the child never returns into the tests

    def _code(self, work: Callable[[], int | None], cwd: Path, environment: dict[str, str]) -> int:
        """Call `work` in the child; returns the exit code that Python would give."""
        for number, file in enumerate(self.printed, 1):
            os.dup2(file.fileno(), number)
        sys.stdout, sys.stderr = (open(number, "w", buffering=1) for number in (1, 2))  # noqa: SIM115
        os.chdir(cwd)
        os.environ.update(environment)
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts its background jobs deaf to Ctrl-C
        try:
            code = work() or 0
        except SystemExit as ended:
            code = ended.code or 0
            if isinstance(code, str):
                print(code, file=sys.stderr)
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        return code if isinstance(code, int) else 1

    def wait(self, seconds: float = 300) -> subprocess.CompletedProcess:
        """Wait until the process ends. One that takes longer is killed."""
        late = threading.Timer(seconds, os.kill, (self.pid, signal.SIGKILL))
        late.start()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        late.cancel()
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
