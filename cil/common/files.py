"""Atomic file writes: a file is written under a temporary name, flushed to disk and then renamed."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


READ_ONLY = (errno.EACCES, errno.EROFS, errno.EPERM)


def is_writable(folder: Path) -> bool:
    """Whether files can be written into a folder, or into the nearest folder above it that exists."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return os.access(there, os.W_OK)


@contextmanager
def unless_read_only() -> Iterator[None]:
    """Leave out a block that writes beside files which are in a read-only folder, where it only saves time."""
    try:
        yield
    except OSError as error:
        if error.errno not in READ_ONLY:
            raise


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to. If the block ends without an error, the file written there replaces `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        flush_folder(path.parent)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    with replace_file(path) as temporary:
        temporary.write_text(text)


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=2, default=str) + "\n")


class _Damaged(Exception):
    """A cache file does not match its checksum or cannot be read."""


def flush_folder(folder: Path) -> None:
    """Flush a folder to disk, so that a rename inside it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def refusing(torn: Exception) -> Iterator[None]:
    """Raise `torn` in place of any error that a library raises when it reads a damaged file.

    Errors of memory and of the disk are passed on, except "invalid argument": a damaged file can contain an offset that does
    not exist.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if "can't allocate memory" in str(error) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)):
            raise
        raise torn from None


def keep_or_make(
    file: Path, make: Callable[[], dict[str, "Tensor"]], about: str = "", *, optional: bool = False
) -> dict[str, "Tensor"]:
    """Load tensors from a cache file. If it is absent, damaged or about something else, call `make` and write the file.

    `about` says what the tensors belong to. It is stored in the file with a checksum of the tensors. `optional`: in a folder
    that is read-only, no file is written, and the tensors are made each time.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    def facts(tensors: dict[str, "Tensor"]) -> dict[str, str]:
        sha = hashlib.sha256()
        for key in sorted(tensors):
            sha.update(tensors[key].contiguous().numpy())
        names = " ".join(f"{key} {tuple(value.shape)} {value.dtype}" for key, value in sorted(tensors.items()))
        return {"sha256": sha.hexdigest(), "about": about, "names": names}

    if file.exists():
        with suppress(_Damaged), refusing(_Damaged()), safe_open(file, "pt") as opened:
            kept = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
            wanted, stored = facts(kept), {"about": "", **(opened.metadata() or {})}
            if stored == wanted or stored == {key: wanted[key] for key in ("sha256", "about")}:  # earlier files have no names
                return kept  # otherwise the file is made again below
    made = make()
    with unless_read_only() if optional else nullcontext(), replace_file(file) as temporary:
        try:
            save_file(made, temporary, metadata=facts(made))
        except SafetensorError as error:  # an error of the disk, without its errno and file name
            raise OSError(errno.ENOSPC if "space" in str(error) else errno.EACCES, str(error), str(file)) from None
    return made
