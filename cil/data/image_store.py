"""Photographs decoded once into uint8 files that every later run maps into memory and reads only in part.

A store is one or more folders of parts (`image_parts.py`). Decoding can be killed and goes on with the missing parts. Several
jobs may share a folder: one decodes, the others wait for its lock. A part that has changed since it was written is
noticed when it is read, and decoded again.
"""

import fcntl
import hashlib
import io
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from cil.common.errors import UserError
from cil.data.archives import Member
from cil.data.image_parts import FORMAT, PART, Part, is_whole, open_part, photo_digest, write_part
from cil.data.transforms.crops import PILLOW, scaled


@dataclass(frozen=True)
class Size:
    """What photographs are reduced to before they are kept: nothing, or their shorter side."""

    side: int | None = None  # pixels; images that are smaller stay as they are
    filter: str = "bicubic"

    def __post_init__(self) -> None:
        if self.side is not None and (type(self.side) is not int or self.side < 1):
            raise UserError(f"dataset.shorter_side={self.side} is no number of pixels; type dataset.shorter_side=256, or null")

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
    groups: Sequence[int] = ()  # names after which another folder begins, so that listings that have a group share it

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> "Photos":
        return replace(self, rows=self.rows[rows])

    def decoded(self, needed: Size) -> "Pixels":
        """The pixels, at the size that the data set was told to keep or else at the one that the transform needs."""
        return Pixels(Store(self, self.size or needed), self.rows)


class Store:
    """All images of a listing, decoded; see `Pixels` for a selection of them.

    A photograph is compared with its digest when it is first read. Where they differ, its part is decoded again.
    """

    def __init__(self, photos: Photos, size: Size) -> None:
        self._photos, self._size, self._places = photos, size, _places(photos, size)
        self._parts = _opened(photos, size, self._places)
        self.sizes = np.concatenate([part.sizes for part in self._parts])  # (n, 2): height, width
        self.digests = np.concatenate([part.digests for part in self._parts])  # (n,) of size and pixels
        lengths = self.sizes.prod(1, dtype=np.int64) * 3
        begins = lengths.cumsum() - lengths
        self._first = np.array([place.first for place in self._places])
        self._starts = begins - np.repeat(begins[self._first], np.diff([*self._first, len(lengths)]))
        self._checked = bytearray(len(lengths))
        self.uniform = bool((self.sizes == self.sizes[0]).all())

    def photo(self, row: int) -> np.ndarray:
        """(height, width, 3) uint8, mapped: only what is read of it comes from the disk."""
        number = int(np.searchsorted(self._first, row, "right")) - 1
        if not self._checked[row]:
            if photo_digest(self._mapped(number, row)) != self.digests[row]:
                self._decode_again(number)
            self._checked[row] = True
        return self._mapped(number, row)

    def _decode_again(self, number: int) -> None:
        """Make a part anew; what it held when the store was opened must come out again."""
        again = _whole(self._places[number], self._photos, self._size)
        if not np.array_equal(again.digests, self._parts[number].digests):
            raise UserError(f"{self._places[number].file} was damaged, and the photographs it was made of have changed since; "
                            "type the same command again, which begins with what is there now")  # fmt: skip
        self._parts[number] = again

    def _mapped(self, number: int, row: int) -> np.ndarray:
        height, width = map(int, self.sizes[row])
        start = self._starts[row]
        return self._parts[number].pixels[start : start + height * width * 3].reshape(height, width, 3)


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


# --- places -----------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """Where a part lies, and which rows of the listing it holds."""

    file: Path
    first: int
    count: int


def _places(photos: Photos, size: Size) -> list[Place]:
    places, changed = [], {file: Path(file).stat().st_mtime_ns for file in {member.file for member in photos.members}}
    starts = [0, *photos.groups]
    for begin, end in zip(starts, (*photos.groups, len(photos.names)), strict=True):
        folder = photos.folder / _key(photos, size, slice(begin, end), changed)
        firsts = range(begin, end, PART)
        places += [Place(folder / f"{n:05d}.part", first, min(PART, end - first)) for n, first in enumerate(firsts)]
    return places


def _key(photos: Photos, size: Size, rows: slice, changed: dict[str, int]) -> str:
    members = photos.members[rows]
    sha = hashlib.sha256(repr((FORMAT, PART, size)).encode())
    sha.update("\n".join(photos.names[rows]).encode())
    sha.update(np.array([member.size for member in members], np.int64).tobytes())
    sha.update(np.array([changed[member.file] for member in members], np.int64).tobytes())
    return sha.hexdigest()[:16]


def _missing(places: Sequence[Place]) -> list[Place]:
    folders = {place.file.parent for place in places}
    there = {path for folder in folders if folder.is_dir() for path in folder.iterdir()}
    return [place for place in places if place.file not in there]


def _opened(photos: Photos, size: Size, places: Sequence[Place]) -> list[Part]:
    """Every part, decoded first where it is missing or damaged."""
    if missing := _missing(places):
        with ExitStack() as locks:
            for folder in sorted({place.file.parent for place in missing}):  # in one order, so that two jobs never wait in turn
                locks.enter_context(_lock(folder))
            _decode(_missing(missing), photos, size)
    parts = [open_part(place.file) for place in places]
    return [part if _fits(part, place) else _whole(place, photos, size) for part, place in zip(parts, places)]


def _fits(part: Part | None, place: Place) -> bool:
    return part is not None and len(part.sizes) == place.count


def _whole(place: Place, photos: Photos, size: Size) -> Part:
    """The part at a place where damage was seen; decoded again, unless another job has done so meanwhile."""
    with _lock(place.file.parent):
        if not is_whole(place.file):
            print(f"{place.file} is damaged and is decoded again", flush=True)
            _decode([place], photos, size)
        part = open_part(place.file)
    if not _fits(part, place):
        raise UserError(f"{place.file} is damaged although it was just written; check the disk of {photos.folder}")
    return part


# --- decoding ---------------------------------------------------------------------------------------------------------


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
        raise UserError(f"{name} in {member.file} cannot be decoded ({why}); fetch the data set again, nothing of this "
                        "image was kept") from None  # fmt: skip
    if size.side is not None and min(photo.size) > size.side:
        photo = photo.resize(scaled(*photo.size, size.side), PILLOW[size.filter])
    return np.asarray(photo)


def _decode(places: Sequence[Place], photos: Photos, size: Size) -> None:
    for folder in {place.file.parent for place in places}:
        for leftover in folder.glob(".*.partial"):
            leftover.unlink(missing_ok=True)
    total = len(photos.names)
    with (
        _progress(f"decoding {photos.folder.name}, {size.words()}", total, total - sum(p.count for p in places)) as advance,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        work = []
        for place in places:
            rows = range(place.first, place.first + place.count)
            decoded = (decode(photos.members[row], photos.names[row], size) for row in rows)
            work.append(pool.submit(write_part, place.file, decoded))
        try:
            for finished in as_completed(work):
                advance(finished.result())
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


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
