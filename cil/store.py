"""Photographs decoded once into uint8 files that every later run maps into memory and reads only in part.

A store is a folder of parts. A part holds `PART` images, row by row, then their sizes and digests; it is written beside
its place, flushed and renamed, so it is whole or absent. Decoding can be killed, goes on with the parts that are missing,
and several jobs may share a folder: one decodes, the others wait for its lock.
"""

import fcntl
import hashlib
import io
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cil.archives import Member
from cil.crops import PILLOW, scaled
from cil.files import replace_file
from cil.mistakes import Mistake

PART = 256  # images
FORMAT = b"cilpart1"


@dataclass(frozen=True)
class Size:
    """What photographs are reduced to before they are kept: nothing, or their shorter side."""

    side: int | None = None  # pixels; images that are smaller stay as they are
    filter: str = "bicubic"

    def __post_init__(self) -> None:
        if self.side is not None and (type(self.side) is not int or self.side < 1):
            raise Mistake(f"dataset.shorter_side={self.side} is no number of pixels; type dataset.shorter_side=256, or null")

    def words(self) -> str:
        return "as decoded" if self.side is None else f"shorter side {self.side} ({self.filter})"


@dataclass(frozen=True)
class Photos:
    """Encoded images in a fixed order, where each of them lies, and which rows of them are meant."""

    folder: Path  # of the stores of this data set
    names: Sequence[str]  # canonical: the same for the archive and its unpacked layout
    members: Sequence[Member]
    size: Size | None  # None: what the transform needs
    rows: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> "Photos":
        return Photos(self.folder, self.names, self.members, self.size, self.rows[rows])

    def decoded(self, needed: Size) -> "Pixels":
        """The pixels, at the size that the data set was told to keep or else at the one that the transform needs."""
        store = Store.of(self, self.size or needed)
        return Pixels(store, self.rows)


class Store:
    """All images of a listing, decoded; see `Pixels` for a selection of them."""

    def __init__(self, folder: Path, count: int) -> None:
        parts = [_open(file) for file in _files(folder, count)]
        self._bytes = [pixels for pixels, _, _ in parts]
        self.sizes = np.concatenate([sizes for _, sizes, _ in parts])  # (n, 2): height, width
        self.digests = np.concatenate([digests for _, _, digests in parts])  # (n,) of size and pixels
        lengths = self.sizes.prod(1, dtype=np.int64) * 3
        ends = lengths.cumsum()
        first = np.arange(0, count, PART)
        self._starts = ends - lengths - np.repeat((ends - lengths)[first], np.diff([*first, count]))
        self.uniform = bool((self.sizes == self.sizes[0]).all())

    @classmethod
    def of(cls, photos: Photos, size: Size) -> "Store":
        folder = photos.folder / _key(photos, size)
        if not _missing(folder, len(photos.names)):
            return cls(folder, len(photos.names))
        with _lock(folder):
            _decode(folder, photos, size)
        return cls(folder, len(photos.names))

    def photo(self, row: int) -> np.ndarray:
        """(height, width, 3) uint8, mapped: only what is read of it comes from the disk."""
        height, width = self.sizes[row]
        start = self._starts[row]
        flat = self._bytes[row // PART][start : start + int(height) * int(width) * 3]
        return flat.reshape(height, width, 3)


@dataclass(frozen=True, eq=False)
class Pixels:
    """A selection of a store that is indexed like a tensor (n, height, 3, width) of pixels."""

    store: Store
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        height, width = self.store.sizes[self.rows].max(0) if len(self) else (0, 0)
        return len(self), int(height), 3, int(width)

    def __getitem__(self, which: Tensor | slice) -> Tensor | list[np.ndarray]:
        """A tensor where all images of the store have one size, else a list of (height, width, 3) arrays."""
        photos = [self.store.photo(row) for row in self.rows[which].tolist()]
        if not self.store.uniform:
            return photos
        stacked = np.empty((len(photos), *self.store.sizes[0], 3), np.uint8)
        for target, photo in zip(stacked, photos, strict=True):
            target[:] = photo
        return torch.from_numpy(stacked).permute(0, 1, 3, 2).contiguous()

    def digest(self) -> bytes:
        """The same for the same pixels in the same order, whatever store they lie in."""
        return hashlib.sha256(self.store.digests[self.rows].tobytes()).digest()


# --- parts ------------------------------------------------------------------------------------------------------------


def _files(folder: Path, count: int) -> list[Path]:
    return [folder / f"{number:05d}.part" for number in range(-(-count // PART))]


def _missing(folder: Path, count: int) -> list[int]:
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return [number for number, file in enumerate(_files(folder, count)) if file.name not in there]


def _key(photos: Photos, size: Size) -> str:
    sha = hashlib.sha256(repr((FORMAT, PART, size)).encode())
    sha.update("\n".join(photos.names).encode())
    sha.update(np.array([member.size for member in photos.members], np.int64).tobytes())
    changed = {file: Path(file).stat().st_mtime_ns for file in {member.file for member in photos.members}}
    sha.update(np.array([changed[member.file] for member in photos.members], np.int64).tobytes())
    return sha.hexdigest()[:16]


def _open(file: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    whole = torch.from_file(str(file), shared=False, size=file.stat().st_size, dtype=torch.uint8).numpy()
    count = int(whole[-8:].view(np.int64)[0]) if len(whole) >= 16 and whole[-16:-8].tobytes() == FORMAT else -1
    footer = whole[-16 - 16 * count : -16]
    if count < 0 or len(footer) != 16 * count:
        raise Mistake(f"{file} is damaged; delete it and type the same command: it is decoded again")
    sizes, digests = footer[: 8 * count].copy().view(np.int32).reshape(-1, 2), footer[8 * count :].copy().view(np.uint64)
    if sizes.prod(1, dtype=np.int64).sum() * 3 + 16 * count + 16 != len(whole):
        raise Mistake(f"{file} is damaged; delete it and type the same command: it is decoded again")
    return whole, sizes, digests


def _write(file: Path, members: Sequence[Member], names: Sequence[str], size: Size) -> int:
    sizes, digests = [], []
    with replace_file(file) as temporary, temporary.open("wb") as out:
        for member, name in zip(members, names, strict=True):
            photo = decode(member, name, size)
            sizes.append(photo.shape[:2])
            digests.append(hashlib.sha256(repr(photo.shape).encode() + photo.tobytes()).digest()[:8])
            out.write(photo)
        out.write(np.array(sizes, np.int32).tobytes() + b"".join(digests))
        out.write(FORMAT + np.array([len(sizes)], np.int64).tobytes())
    return len(sizes)


def decode(member: Member, name: str, size: Size) -> np.ndarray:
    """(height, width, 3) uint8, as torchvision's loader has it: grey, palette and CMYK become RGB, no rotation by EXIF."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(member.read())) as opened:
            photo = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault, not the image's
        why = "no image" if isinstance(error, UnidentifiedImageError) else error  # its text names an object in memory
        raise Mistake(f"{name} in {member.file} cannot be decoded ({why}); fetch the data set again, nothing of this "
                      "image was kept") from None  # fmt: skip
    if size.side is not None and min(photo.size) > size.side:
        photo = photo.resize(scaled(*photo.size, size.side), PILLOW[size.filter])
    return np.asarray(photo)


# --- decoding ---------------------------------------------------------------------------------------------------------


def _decode(folder: Path, photos: Photos, size: Size) -> None:
    for leftover in folder.glob(".*.partial"):
        leftover.unlink(missing_ok=True)
    missing = _missing(folder, len(photos.names))
    files, done = _files(folder, len(photos.names)), len(photos.names) - sum(_count(n, photos) for n in missing)
    with (
        _progress(f"decoding {folder.parent.name}, {size.words()}", len(photos.names), done) as advance,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        work = []
        for number in missing:
            part = slice(number * PART, (number + 1) * PART)
            work.append(pool.submit(_write, files[number], photos.members[part], photos.names[part], size))
        try:
            for finished in as_completed(work):
                advance(finished.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _count(number: int, photos: Photos) -> int:
    return min(PART, len(photos.names) - number * PART)


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process decodes; the others wait and then find nothing left to do."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a+") as lock:
        told = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not told:
                    lock.seek(0)
                    print(f"waiting for {lock.read().strip() or 'another process'}, which decodes into {folder}", flush=True)
                    told = True
                time.sleep(0.5)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield


@contextmanager
def _progress(title: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    """A bar in a terminal, a line at every tenth elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        said = done * 10 // total

        def tell(more: int) -> None:
            nonlocal done, said
            done += more
            if done * 10 // total > said:
                said = done * 10 // total
                print(f"{title}: {done} of {total}", flush=True)

        yield tell
        return
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        row = bar.add_task(title, total=total, completed=done)
        yield lambda more: bar.advance(row, more)
