"""The output folder of a run. Its address contains a hash of the settings; the file DONE marks a finished run.

outputs/<scenario>/<method>[+modifier]/<digest>/seed<k>/
    config.yaml  run.log  events.jsonl  accuracy.csv  task_NN.pt  summary.json  pictures/  predictions/  DONE
"""

import csv
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import shutil
import socket
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from cil.common.errors import UserError
from cil.common.files import flush_folder, refusing, replace_file, write_json, write_text
from cil.metrics import AccuracyMatrix
from cil.runs.precision import settled

# These keys do not change a result. `digest` adds precision and TF32; `reading` is covered by the settings that it chooses.
NOT_IN_ADDRESS = ("seed", "outputs", "reading", "data", "machine", "log", "save", "hydra", "plugins")

SEALED = ("config.yaml", "accuracy.csv", "summary.json")  # files whose SHA-256 is stored in DONE


def digest(config: dict) -> str:
    """Ten hex digits of a SHA-256 over the resolved configuration, without the settings that cannot change a result."""
    config = settled(config)
    counted = {key: value for key, value in config.items() if key not in NOT_IN_ADDRESS}
    counted["precision"] = config["machine"]["precision"]
    counted |= {"tf32": "on"} if "tf32" in config["machine"] else {}  # not if off: keeps older addresses valid
    counted["modifier"] = list((config.get("modifier") or {}).items())  # a list, since only the order of modifiers matters
    meant = with_targets(counted, lambda path: path and str(path).rpartition(".")[2])  # moving code keeps the digest
    return hashlib.sha256(json.dumps(meant, sort_keys=True).encode()).hexdigest()[:10]


def with_targets(node: Any, change: Callable[[Any], object]) -> Any:
    """A configuration with each `_target_` changed."""
    if isinstance(node, dict):
        return {key: change(value) if key == "_target_" else with_targets(value, change) for key, value in node.items()}
    return [with_targets(value, change) for value in node] if isinstance(node, list | tuple) else node


def names(config: dict) -> tuple[str, str]:
    """The first two parts of the address: the scenario, and the method with its modifiers."""
    method = config["method"]["_target_"].split(".")[-2]
    return config["scenario"]["name"], "+".join([method, *(config.get("modifier") or {})])


def address(config: dict) -> str:
    """The folder of a run relative to `outputs`: scenario/method/digest/seed; with debug=true, deeper than tables look."""
    scenario, method = names(config)
    return f"{'debug/' if config.get('debug') else ''}{scenario}/{method}/{digest(config)}/seed{config['seed']}"


class RunDir:
    """Reads and writes the folder of one run. Files are written atomically; a resumed run truncates `events.jsonl`."""

    writes = True

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_done(self) -> bool:
        return (self.path / "DONE").exists()

    def open(self, config: dict) -> "RunDir":
        """Lock the folder for this process until `close`, and write its configuration."""
        import yaml

        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = (self.path / "lock").open("a+")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.seek(0)
            owner = self._lock.read().strip() or "another process"
            self._lock.close()
            raise UserError(f"{self.path} is being run by {owner}; wait for it, or type another seed=") from None
        self._lock.truncate(0)
        self._lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        self._lock.flush()
        if not self.is_done:
            write_text(self.path / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        self.clear_partial()
        return self

    def discard(self) -> None:
        """Remove the folder of a run that could not start, and the folders above it that are then empty."""
        shutil.rmtree(self.path, ignore_errors=True)
        for parent in list(self.path.parents)[:3]:
            with suppress(OSError):
                parent.rmdir()

    def close(self) -> None:
        """Release the lock."""
        self._lock.close()

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def clear_partial(self) -> None:
        """Remove files that a killed process left half-written."""
        for leftover in (*self.path.glob(".*.partial"), *self.path.glob("predictions/.*.partial")):
            leftover.unlink(missing_ok=True)

    @property
    def newest(self) -> Path | None:
        """The checkpoint to resume from: one inside a task if it exists, else that of the last finished task."""
        tasks = sorted(self.path.glob("task_[0-9][0-9]*.pt"))
        inside = self.path / "inside.pt"
        return inside if inside.exists() else tasks[-1] if tasks else None

    def after(self, task: int) -> Path | None:
        """The checkpoint after `task` (counted from 1), or None if it was not kept."""
        file = self.path / f"task_{task - 1:02d}.pt"
        return file if file.exists() else None

    def save(self, state: dict, *, task: int, inside: bool, keep_all: bool) -> None:
        """Write a checkpoint: `inside` a task, or after it. One after a task replaces earlier ones unless `keep_all`."""
        import torch

        file = self.path / ("inside.pt" if inside else f"task_{task:02d}.pt")
        with replace_file(file) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:
                if not any(word in str(error) for word in ("inline_container", "iostream error")):
                    raise
                reason = re.search(r"strerror: (.+?)(?:\n|$)", str(error))  # torch usually hides the error code of the system
                codes = [code for code in errno.errorcode if reason and os.strerror(code) == reason[1].strip()]
                raise OSError(codes[0] if codes else errno.ENOSPC, reason[1] if reason else str(error), str(file)) from None
        if not inside:
            (self.path / "inside.pt").unlink(missing_ok=True)
            self.keep_only(file, keep_all=keep_all)

    def keep_only(self, file: Path, *, keep_all: bool) -> None:
        """Remove all task checkpoints except `file`, unless `keep_all`."""
        for older in [] if keep_all else self.path.glob("task_[0-9][0-9]*.pt"):
            if older != file:
                older.unlink()
        flush_folder(self.path)

    def load(self, file: Path) -> dict:
        """Load a checkpoint after verifying its checksums; never runs pickled code."""
        import torch

        error = UserError(f"checkpoint {file} is damaged and was not used; delete it and type the same command again to go on "
                          "from the one before (or from the start)")  # fmt: skip
        with refusing(error):
            with zipfile.ZipFile(file) as archive:
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile
            return torch.load(file, map_location="cpu", weights_only=True)

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    def event(self, **record: object) -> None:
        with self.events.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def events_size(self) -> int:
        """Flush the record to disk and return its size in bytes."""
        with self.events.open("a") as file:
            os.fsync(file.fileno())
            size = file.tell()
        if (noted := self.path / "encoded.jsonl").exists():
            with noted.open("rb+") as file:
                os.fsync(file.fileno())
        return size

    def cut_events(self, size: int) -> None:
        """Truncate the record to `size` bytes: what follows a checkpoint is repeated when the run resumes from it."""
        with self.events.open("a") as file:
            if file.tell() < size:
                raise UserError(f"{self.events} is shorter than its checkpoint says; delete {self.path} to start the run again")
            file.truncate(size)

    def encoded(self) -> dict[str, int]:
        """The blocks that `note_encoded` recorded in any process of this run, with their number of images."""
        file = self.path / "encoded.jsonl"
        if not file.exists():
            return {}
        content = file.read_bytes()
        content = content[: content.rfind(b"\n") + 1]  # without an incomplete last line
        os.truncate(file, len(content))
        return dict(json.loads(line) for line in content.splitlines())

    def note_encoded(self, block: str, images: int) -> None:
        """Record that a block is encoded. Call it before the block is written to disk, so that a kill cannot lose the count."""
        with (self.path / "encoded.jsonl").open("a") as file:
            file.write(json.dumps([block, images]) + "\n")

    def write_matrices(self, matrices: dict[str, AccuracyMatrix]) -> None:
        """Write accuracy.csv: one row for each pair (tasks learned, task tested), with one column for each way of counting."""
        first = next(iter(matrices.values()))
        with replace_file(self.path / "accuracy.csv") as temporary, temporary.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["after_task", "on_task", "images", *(f"correct_{name}" for name in matrices), *matrices])
            for after in range(first.learned):
                for on in range(after + 1 if math.isfinite(first.correct[after, 0]) else 0):
                    total, right = first.totals[on], [matrix.correct[after, on] for matrix in matrices.values()]
                    percents = [f"{100 * count / total:.4f}" for count in right]
                    rows.writerow([after + 1, on + 1, int(total), *map(int, right), *percents])

    def finish(self, summary: dict) -> None:
        write_json(self.path / "summary.json", summary)
        self.seal()

    def seal(self) -> None:
        """Write DONE, which contains the SHA-256 of the result files."""
        write_json(self.path / "DONE", {name: self._sha256(name) for name in SEALED})

    def summary(self) -> dict:
        """Return summary.json of a finished run; raise a `UserError` if result files were changed after the run."""
        done, file = self.path / "DONE", self.path / "summary.json"
        try:
            sealed = json.loads(done.read_text() or "{}")  # empty if an earlier version wrote it
            changed = [name for name, sha256 in sealed.items() if self._sha256(name) != sha256]
            summary = json.loads(file.read_text())
            if not changed and "class_il" in summary and "address" in summary:
                return summary
        except (OSError, ValueError, AttributeError, TypeError):
            changed = [file.name]
        raise UserError(f"{self.path / (changed or [file.name])[0]} is not as the run wrote it; delete {done} and type the "
                        "run's command again, which writes it anew from the last checkpoint")  # fmt: skip

    def _sha256(self, name: str) -> str:
        file = self.path / name
        return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "absent"


def run_of(config: dict) -> RunDir:
    """The folder of the run of a configuration."""
    return RunDir(Path(config["outputs"]) / address(config))


def run_at(path: Path) -> RunDir:
    """The folder of a run for this process: among the processes that torchrun starts, only rank 0 may write."""
    return (Follower if follows() else RunDir)(path)


def follows() -> bool:
    """Whether torchrun started this process with a rank other than 0."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") != "0"


class Follower(RunDir):
    """A run folder that ignores all writes, for the processes of a run whose rank is not 0."""

    writes = False

    def open(self, config: dict) -> "RunDir":
        return self

    def events_size(self) -> int:
        return 0

    def ignore(self, *given: object, **named: object) -> None:
        """Do nothing."""

    close = save = event = note_encoded = cut_events = keep_only = write_matrices = ignore  # type: ignore[assignment]


def read_matrices(path: Path) -> dict[str, AccuracyMatrix]:
    """Read accuracy.csv of a run folder: a matrix for "class_il", for "task_il" and for each further way of counting."""
    with (path / "accuracy.csv").open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    last = int(rows[-1]["after_task"])
    totals = [row["images"] for row in rows if int(row["after_task"]) == last]
    matrices = {key.removeprefix("correct_"): AccuracyMatrix(totals) for key in rows[0] if key.startswith("correct_")}
    for task in range(last):
        own = [row for row in rows if int(row["after_task"]) == task + 1]  # empty if nothing was evaluated after this task
        for name, matrix in matrices.items():
            matrix.set_row(task, [row[f"correct_{name}"] for row in own])
    return matrices
