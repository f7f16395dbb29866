"""Files that are whole or absent: written beside their place, flushed to disk, then renamed."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A temporary path to write to; on leaving the block without an error it takes the place of `path`."""
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


class _Torn(Exception):
    """A cache file is not what was written."""


def flush_folder(folder: Path) -> None:
    """Make a rename inside `folder` survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def refusing(torn: Exception) -> Iterator[None]:
    """Raise `torn` for whatever a library's reader makes of a file whose bytes have changed.

    Of the disk's own errors only "invalid argument" may come of the bytes: of a place in the file that does not exist.
    """
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:
        if "can't allocate memory" in str(error) or (isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)):
            raise
        raise torn from None


def keep_or_make(file: Path, make: Callable[[], dict[str, "Tensor"]], about: str = "") -> dict[str, "Tensor"]:
    """Tensors from a cache file, made and kept there when it is absent, torn or about something else.

    The file carries its own checksum.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

    def facts(tensors: dict) -> dict[str, str]:
        sha = hashlib.sha256()
        for key in sorted(tensors):
            sha.update(tensors[key].contiguous().numpy())
        names = " ".join(f"{key} {tuple(value.shape)} {value.dtype}" for key, value in sorted(tensors.items()))
        return {"sha256": sha.hexdigest(), "about": about, "names": names}

    if file.exists():
        with suppress(_Torn), refusing(_Torn()), safe_open(file, "pt") as opened:
            kept = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118 (not a dict)
            wanted, said = facts(kept), {"about": "", **(opened.metadata() or {})}
            if said == wanted or said == {key: wanted[key] for key in ("sha256", "about")}:  # an earlier version has no names
                return kept  # what is torn is made again below, never trusted
    made = make()
    with replace_file(file) as temporary:
        try:
            save_file(made, temporary, metadata=facts(made))
        except SafetensorError as error:  # of the disk; its text says neither which nor why in a user's words
            raise OSError(errno.ENOSPC if "space" in str(error) else errno.EACCES, str(error), str(file)) from None
    return made
