"""Downloads files: resumes interrupted downloads, verifies the digest and then moves the file to its place."""

import fcntl
import hashlib
import http.client
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

from cil.common.errors import UserError
from cil.common.files import flush_folder, replace_file

AGAIN = 3  # number of retries after a broken connection
PAUSE = 1.0  # seconds before a retry
BLOCK = 1 << 18  # bytes read at a time
QUIET = 60  # seconds without data after which a connection counts as broken


class Broken(Exception):
    """The connection ended before the end of the file."""


class Part:
    """A partial download: `<file>.part`, and in `<file>.part.etag` the version of the file on the server."""

    def __init__(self, file: Path) -> None:
        self.path, self._etag = (file.with_name(f"{file.name}.part{ending}") for ending in ("", ".etag"))

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def version(self) -> str:
        return self._etag.read_text() if self._etag.is_file() else ""

    def begin(self, version: str) -> None:
        """Start again with an empty file of this version."""
        os.truncate(self.path, 0)
        self._etag.unlink(missing_ok=True)
        if version:
            with replace_file(self._etag) as temporary:
                temporary.write_text(version)

    def drop(self) -> None:
        self.path.unlink(missing_ok=True)
        self._etag.unlink(missing_ok=True)

    def become(self, file: Path) -> None:
        """Move the complete download to `file`."""
        self.path.replace(file)
        self._etag.unlink(missing_ok=True)
        flush_folder(file.parent)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Lock the download for this process while the block runs."""
        with self.path.open("ab") as opened:
            try:
                fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                line = f"{self.path} is being fetched by another process; wait for it, then type the same command"
                raise UserError(line) from None
            yield


def fetch(url: str, file: Path, digest: str | None) -> str:
    """Download `url` to `file` and return its digest as `sha256:…` (or `md5:…` if `digest` is an md5).

    `digest` is the expected digest, or None if it is unknown. The data of an interrupted download is kept beside the file and
    the next call resumes from it, unless the file on the server has changed.
    """
    algorithm, _, wanted = (digest or "sha256:").partition(":")
    file.parent.mkdir(parents=True, exist_ok=True)
    part = Part(file)
    with part.held():
        with _progress(url, file) as show:
            _receive_all(url, part, verified=digest is not None, show=show)
        found = digest_of(part.path, algorithm)
        if wanted and found != wanted.lower():
            part.drop()
            raise UserError(f"{url} has {algorithm} {found[:12]}…, wanted is {wanted[:12]}…; the download was deleted; type "
                            "the same command to try again, or another address")  # fmt: skip
        part.become(file)
    return f"{algorithm}:{found}"


def digest_of(file: Path, algorithm: str) -> str:
    """Return the digest of a file as hex digits."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, algorithm).hexdigest()


def _receive_all(url: str, part: Part, verified: bool, show: Callable) -> None:
    for attempt in range(AGAIN + 1):
        try:
            if attempt:
                time.sleep(PAUSE)
            return _receive(url, part, verified, show)
        except Broken:
            continue
    raise UserError(f"{url} broke off {AGAIN + 1} times, {part.size} bytes are kept in {part.path}; type the same command "
                    "to resume")  # fmt: skip


def _receive(url: str, part: Part, verified: bool, show: Callable) -> None:
    """Append to the partial download until the end of the file.

    A download is resumed only if a digest or the server can confirm that both pieces belong to the same file.
    """
    version, start = part.version, part.size
    headers = {"User-Agent": "cil"}
    if start and (version or verified):
        headers |= {"Range": f"bytes={start}-"} | ({"If-Range": version} if version else {})
    with _open(url, headers, part) as answer:
        now = _version(answer.headers)
        same = not version or not now or version == now
        first, total = _range(answer.headers.get("Content-Range", ""))
        whole = answer.status == 416 and total == start and same
        if not whole and (answer.status == 416 or (answer.status == 206 and not (same and first == start))):
            part.begin("")
            return _receive(url, part, verified, show)  # without a range this time
        if not whole:
            if answer.status != 206:
                part.begin(now)
                start, length = 0, answer.headers.get("Content-Length")
                total = int(length) if length else None
            _copy(answer, part, start, total, show)
    return None


def _copy(answer: http.client.HTTPResponse, part: Part, done: int, total: int | None, show: Callable) -> None:
    with part.path.open("ab") as out:
        while True:
            try:
                block = answer.read(BLOCK)
            except (OSError, http.client.HTTPException):
                raise Broken from None
            if not block:
                break
            out.write(block)
            done += len(block)
            show(done, total)
        out.flush()
        os.fsync(out.fileno())
    if total is not None and done < total:
        raise Broken


def _open(url: str, headers: dict, part: Part) -> Any:
    """Return the response of the server. Status 416 (no data after the requested byte) also counts as a response."""
    kept = f"; {part.path} is kept, type the same command to resume" if part.size else ""
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=QUIET)
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return error
        error.close()
        raise UserError(f"{url} answered {error.code} {error.reason}; check the address or try another{kept}") from None
    except (urllib.error.URLError, ValueError, http.client.InvalidURL) as error:
        reason = " ".join(str(getattr(error, "reason", error)).split())
        raise UserError(f"{url} cannot be reached ({reason}); check the address and the network{kept}") from None
    except (OSError, http.client.HTTPException):
        raise Broken from None


def _version(headers: Message) -> str:
    """Return a value for the If-Range header: a strong ETag or the time of the last change."""
    etag = headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else headers.get("Last-Modified", "")


def _range(words: str) -> tuple[int | None, int | None]:
    """Parse a Content-Range header: `bytes 5-9/10` → (5, 10) and `bytes */10` → (None, 10)."""
    found = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", words.strip())
    first, total = found.groups() if found else (None, None)
    return int(first) if first else None, int(total) if total and total != "*" else None


@contextmanager
def _progress(url: str, file: Path) -> Iterator[Callable[[int, int | None], None]]:
    """Show progress on standard error: a bar in a terminal, one line otherwise. Yields a function of bytes (done, total)."""
    if not sys.stderr.isatty():
        print(f"fetching {file.name} from {url}", file=sys.stderr, flush=True)
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(file.name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
