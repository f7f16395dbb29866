"""A run is a value with an address: the same configuration has the same folder, and a finished folder says DONE.

outputs/<scenario>/<method>[+modifier]/<digest>/seed<k>/
    config.yaml  run.log  events.jsonl  accuracy.csv  task_NN.pt  summary.json  pictures/  DONE
"""

import csv
import errno
import fcntl
import hashlib
import json
import math
import os
import re
import socket
import zipfile
from pathlib import Path

from cil.common.errors import UserError
from cil.common.files import flush_folder, refusing, replace_file, write_json, write_text
from cil.metrics import AccuracyMatrix
from cil.runs.precision import settled

# None of them moves a number, but for the precision and TF32; what a reading decides stands in the switches that it sets.
NOT_IN_ADDRESS = ("seed", "outputs", "reading", "data", "machine", "log", "hydra")

SEALED = ("config.yaml", "accuracy.csv", "summary.json")  # whose digests are in DONE


def digest(config: dict) -> str:
    """Ten hex digits over the resolved configuration less what does not move a number."""
    config = settled(config)
    counted = {key: value for key, value in config.items() if key not in NOT_IN_ADDRESS}
    counted["precision"] = config["machine"]["precision"]
    counted |= {"tf32": "on"} if "tf32" in config["machine"] else {}  # what it is off for has the address that it had before
    counted["modifier"] = list((config.get("modifier") or {}).items())  # their order counts; that of other keys does not
    return hashlib.sha256(json.dumps(meant(counted), sort_keys=True).encode()).hexdigest()[:10]


def meant(node: object) -> object:
    """A configuration in which each `_target_` is the bare name of its class or function, wherever its file lies."""
    if isinstance(node, dict):
        return {
            key: meant(value) if key != "_target_" else value and str(value).rpartition(".")[2] for key, value in node.items()
        }
    return [meant(value) for value in node] if isinstance(node, list | tuple) else node


def names(config: dict) -> tuple[str, str]:
    """Scenario, and method with its modifiers, as they stand in the address."""
    method = config["method"]["_target_"].split(".")[-2]
    return config["scenario"]["name"], "+".join([method, *(config.get("modifier") or {})])


def address(config: dict) -> str:
    scenario, method = names(config)
    return f"{scenario}/{method}/{digest(config)}/seed{config['seed']}"


class RunDir:
    """One run's folder. Everything in it is whole or absent; `events.jsonl` is cut back to the checkpoint on a restart."""

    writes = True

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def is_done(self) -> bool:
        return (self.path / "DONE").exists()

    def open(self, config: dict) -> "RunDir":
        """Take the folder for this process, until `close`, and write its configuration."""
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

    def close(self) -> None:
        """Let others have the folder."""
        self._lock.close()

    def __enter__(self) -> "RunDir":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def clear_partial(self) -> None:
        """Remove what a killed process was writing."""
        for leftover in self.path.glob(".*.partial"):
            leftover.unlink(missing_ok=True)

    # --- checkpoints ----------------------------------------------------------------------------------------------

    @property
    def newest(self) -> Path | None:
        """The checkpoint to go on from: inside a task if there is one, else that of the last finished task."""
        tasks = sorted(self.path.glob("task_[0-9][0-9]*.pt"))
        inside = self.path / "inside.pt"
        return inside if inside.exists() else tasks[-1] if tasks else None

    def after(self, task: int) -> Path | None:
        """The checkpoint of a task that is counted from 1, if it is kept."""
        file = self.path / f"task_{task - 1:02d}.pt"
        return file if file.exists() else None

    def save(self, state: dict, *, task: int, inside: bool, keep_all: bool) -> None:
        """`inside`: in the middle of `task`; otherwise `task` is finished and replaces what came before."""
        import torch

        file = self.path / ("inside.pt" if inside else f"task_{task:02d}.pt")
        with replace_file(file) as temporary:
            try:
                torch.save(state, temporary)
            except RuntimeError as error:
                if not any(word in str(error) for word in ("inline_container", "iostream error")):
                    raise
                said = re.search(r"strerror: (.+?)(?:\n|$)", str(error))  # torch mostly hides what the system said
                known = [code for code in errno.errorcode if said and os.strerror(code) == said[1].strip()]
                raise OSError(known[0] if known else errno.ENOSPC, said[1] if said else str(error), str(file)) from None
        if not inside:
            (self.path / "inside.pt").unlink(missing_ok=True)
            self.keep_only(file, keep_all=keep_all)

    def keep_only(self, file: Path, *, keep_all: bool) -> None:
        """Remove the checkpoints of earlier tasks, also those that a process left which was killed while it removed them."""
        for older in [] if keep_all else self.path.glob("task_[0-9][0-9]*.pt"):
            if older != file:
                older.unlink()
        flush_folder(self.path)

    def load(self, file: Path) -> dict:
        """A checkpoint whose every byte is what was written; pickled code is never run."""
        import torch

        torn = UserError(f"checkpoint {file} is damaged and was not used; delete it and type the same command again to go on "
                         "from the one before (or from the start)")  # fmt: skip
        with refusing(torn):
            with zipfile.ZipFile(file) as archive:
                if archive.testzip() is not None:
                    raise zipfile.BadZipFile
            return torch.load(file, map_location="cpu", weights_only=True)

    # --- records --------------------------------------------------------------------------------------------------

    @property
    def events(self) -> Path:
        return self.path / "events.jsonl"

    def event(self, **record: object) -> None:
        with self.events.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def events_size(self) -> int:
        """How much of the record is on disk for good, in bytes."""
        with self.events.open("a") as file:
            os.fsync(file.fileno())
            size = file.tell()
        if (noted := self.path / "encoded.jsonl").exists():
            with noted.open("rb+") as file:
                os.fsync(file.fileno())
        return size

    def cut_events(self, size: int) -> None:
        """Forget what was recorded after a checkpoint; it is about to happen again."""
        with self.events.open("a") as file:
            if file.tell() < size:
                raise UserError(f"{self.events} is shorter than its checkpoint says; delete {self.path} to start the run again")
            file.truncate(size)

    def encoded(self) -> dict[str, int]:
        """What `note_encoded` was told, by any process of the run."""
        file = self.path / "encoded.jsonl"
        if not file.exists():
            return {}
        whole = file.read_bytes()
        whole = whole[: whole.rfind(b"\n") + 1]  # a line that was being written does not count
        os.truncate(file, len(whole))
        return dict(json.loads(line) for line in whole.splitlines())

    def note_encoded(self, block: str, images: int) -> None:
        """Before a block is kept on disk, so that it counts once whenever the process is killed."""
        with (self.path / "encoded.jsonl").open("a") as file:
            file.write(json.dumps([block, images]) + "\n")

    def write_matrices(self, matrices: dict[str, AccuracyMatrix]) -> None:
        """accuracy.csv: one line for each pair of (tasks learned, task tested), with every way of counting."""
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
        """Write DONE, with the digests of the files that say what came out."""
        write_json(self.path / "DONE", {name: self._sha256(name) for name in SEALED})

    def summary(self) -> dict:
        """What a finished run wrote; refuses files that have changed since. A DONE of an earlier version has no digests."""
        done, file = self.path / "DONE", self.path / "summary.json"
        try:
            sealed = json.loads(done.read_text() or "{}")
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


def run_at(path: Path) -> RunDir:
    """The folder as this process may use it; of the processes that torchrun starts, the first one writes."""
    return (Follower if follows() else RunDir)(path)


def follows() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("RANK") != "0"


class Follower(RunDir):
    """The folder of a run to those of its processes that do not write it."""

    writes = False

    def open(self, config: dict) -> "RunDir":
        return self

    def close(self) -> None:
        pass

    def save(self, state: dict, *, task: int, inside: bool, keep_all: bool) -> None:
        pass

    def event(self, **record: object) -> None:
        pass

    def note_encoded(self, block: str, images: int) -> None:
        pass

    def events_size(self) -> int:
        return 0

    def cut_events(self, size: int) -> None:
        pass

    def keep_only(self, file: Path, *, keep_all: bool) -> None:
        pass

    def write_matrices(self, matrices: dict[str, AccuracyMatrix]) -> None:
        pass


def read_matrices(path: Path) -> dict[str, AccuracyMatrix]:
    """What a run folder's accuracy.csv holds: "class_il", "task_il" and what else was counted."""
    with (path / "accuracy.csv").open(newline="") as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    last = int(rows[-1]["after_task"])
    totals = [row["images"] for row in rows if int(row["after_task"]) == last]
    matrices = {key.removeprefix("correct_"): AccuracyMatrix(totals) for key in rows[0] if key.startswith("correct_")}
    for task in range(last):
        own = [row for row in rows if int(row["after_task"]) == task + 1]  # empty where nothing was measured
        for name, matrix in matrices.items():
            matrix.set_row(task, [row[f"correct_{name}"] for row in own])
    return matrices
