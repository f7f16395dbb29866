"""Store of decoded photographs: uint8 files that are written once and memory-mapped by every later run.

A store consists of one or more folders of parts (`image_parts.py`). If decoding is killed, the next run decodes the missing
parts. Several jobs may share a folder: one decodes and the others wait for its lock. Damage to a part is detected when it is
read, and the part is decoded again.
"""

import errno
import fcntl
import hashlib
import io
import os
import socket
import time
from collections.abc import Iterator, Sequence
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
from cil.data.progress import progress
from cil.data.transforms.crops import PILLOW, scaled


def unwritable(folder: Path, more: str = "", why: str = "it is read-only") -> UserError:
    return UserError(f"decoded photographs cannot be kept in {folder} ({why}); type data.decoded=DIR{more} for another folder")


@dataclass(frozen=True)
class Size:
    """The size at which photographs are stored: unchanged, or resized to a length of the shorter side."""

    side: int | None = None  # pixels; smaller images are not enlarged; None: no resize
    filter: str = "bicubic"

    def words(self) -> str:
        return "full size" if self.side is None else f"shorter side {self.side} ({self.filter})"


@dataclass(frozen=True)
class Photos:
    """A selection of encoded images: a list of files, the place of each, and the selected rows of the list."""

    folder: Path  # contains the stores of this dataset
    names: Sequence[str]  # the same for an archive and for its unpacked folder
    members: Sequence[Member]
    size: Size | None  # None: the size that the transform needs
    rows: Tensor  # (n,) int64: the selected rows
    groups: Sequence[int] = ()  # rows at which a new folder begins; listings with an equal group share its folder

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> "Photos":
        return replace(self, rows=self.rows[rows])

    def alone(self, rows: Tensor) -> "Photos":
        """Return these photographs as a list of their own."""
        chosen = self.rows[rows].tolist()
        names, members = [self.names[row] for row in chosen], [self.members[row] for row in chosen]
        return replace(self, names=names, members=members, rows=torch.arange(len(chosen)), groups=())

    def decoded(self, needed: Size, folder: str | None = None) -> "Pixels":
        """Decode the photographs at the size set for the dataset, or else at the size that the transform needs.

        They are kept below `folder`, by default the one of the data root.
        """
        return Pixels(Store(replace(self, folder=self.place(folder)), self.size or needed), self.rows)

    def place(self, folder: str | None) -> Path:
        """Return the folder of the stores: below `folder`, by default below the data root."""
        return Path(folder).expanduser() / self.folder.name if folder else self.folder


class Store:
    """All photographs of a list, decoded. `Pixels` is a selection of them.

    A photograph is checked against its digest when it is first read. If they differ, its part is decoded again.
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
        """Return a photograph as a memory-mapped array (height, width, 3) uint8. Only used pixels are read from disk."""
        number = int(np.searchsorted(self._first, row, "right")) - 1
        if not self._checked[row]:
            if photo_digest(self._mapped(number, row)) != self.digests[row]:
                self._decode_again(number)
            self._checked[row] = True
        return self._mapped(number, row)

    def _decode_again(self, number: int) -> None:
        """Decode a part again. It must have the same contents as when the store was opened."""
        again = _whole(self._places[number], self._photos, self._size)
        if not np.array_equal(again.digests, self._parts[number].digests):
            raise UserError(f"{self._places[number].file} was damaged, and its source photographs have changed since; "
                            "type the same command again to start with the photographs as they are now")  # fmt: skip
        self._parts[number] = again

    def _mapped(self, number: int, row: int) -> np.ndarray:
        height, width = map(int, self.sizes[row])
        start = self._starts[row]
        return self._parts[number].pixels[start : start + height * width * 3].reshape(height, width, 3)


@dataclass(frozen=True, eq=False)
class Pixels:
    """A selection of a store, indexed like a tensor (n, height, 3, width) of pixels."""

    store: Store
    rows: Tensor

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        height, width = self.store.sizes[self.rows].max(0) if len(self) else (0, 0)
        return len(self), int(height), 3, int(width)

    def __getitem__(self, which: Tensor | slice) -> Tensor | list[np.ndarray]:
        """Return a tensor if all images of the store have one size, else a list of (height, width, 3) arrays."""
        photos = [self.store.photo(row) for row in self.rows[which].tolist()]
        if not self.store.uniform:
            return photos
        stacked = np.empty((len(photos), *self.store.sizes[0], 3), np.uint8)
        for target, photo in zip(stacked, photos, strict=True):
            target[:] = photo
        return torch.from_numpy(stacked).permute(0, 1, 3, 2).contiguous()

    def digest(self) -> bytes:
        """Hash of the selected photographs in order. It does not depend on the store that contains them."""
        return hashlib.sha256(self.store.digests[self.rows].tobytes()).digest()


# --- places -----------------------------------------------------------------------------------------------------------


class Place(NamedTuple):
    """The file of a part, and the rows of the list that it contains."""

    file: Path
    first: int
    length: int


def _places(photos: Photos, size: Size) -> list[Place]:
    places: list[Place] = []
    changed = {file: Path(file).stat().st_mtime_ns for file in {member.file for member in photos.members}}
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
    """Open all parts, after decoding those that are missing or damaged."""
    if missing := _missing(places):
        with ExitStack() as locks:
            for folder in sorted({place.file.parent for place in missing}):  # in sorted order, to avoid a deadlock of two jobs
                locks.enter_context(_lock(folder))
            _decode(_missing(missing), photos, size)
    return [_part(place) or _whole(place, photos, size) for place in places]


def _part(place: Place) -> Part | None:
    """Open the part at a place. Return None if it is damaged."""
    part = open_part(place.file)
    return part if part and len(part.sizes) == place.length else None


def _whole(place: Place, photos: Photos, size: Size) -> Part:
    """Return the part at a place that was found damaged. Decode it again, unless another job has already done so."""
    with _lock(place.file.parent):
        if not is_whole(place.file):
            print(f"{place.file} is damaged and is decoded again", flush=True)
            _decode([place], photos, size)
        part = _part(place)
    if part is None:
        raise UserError(f"{place.file} is damaged although it has just been written; check the disk of {photos.folder}")
    return part


# --- decoding ---------------------------------------------------------------------------------------------------------


def decode(member: Member, name: str, size: Size) -> np.ndarray:
    """Decode an image as torchvision's loader does: (height, width, 3) uint8, converted to RGB, without EXIF rotation."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(member.read())) as opened:
            photo = opened.convert("RGB")
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # an error of the disk, not of the image
        # the text of UnidentifiedImageError names an object in memory
        why = "not an image" if isinstance(error, UnidentifiedImageError) else error
        place = member.file if str(member.file).endswith(name) else f"{name} in {member.file}"
        raise UserError(f"{place} cannot be decoded ({why}); replace it, or fetch the dataset again") from None
    if size.side is not None and min(photo.size) > size.side:
        photo = photo.resize(scaled(*photo.size, size.side), PILLOW[size.filter])
    return np.asarray(photo)


def _decode(places: Sequence[Place], photos: Photos, size: Size) -> None:
    for folder in {place.file.parent for place in places}:
        for leftover in folder.glob(".*.partial"):
            leftover.unlink(missing_ok=True)
    total = len(photos.names)
    with (
        progress(f"decoding {photos.folder.name}, {size.words()}", total, total - sum(p.length for p in places)) as advance,
        ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool,
    ):
        work = []
        for place in places:
            rows = range(place.first, place.first + place.length)
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
    """Hold the lock of a folder while the block runs. Other processes wait, and then find all parts decoded."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / "lock").open("a+")
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise unwritable(folder, why=error.strerror or str(error)) from None
    with opened as lock:
        reported_wait = False
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not reported_wait:
                    lock.seek(0)
                    print(f"waiting for {lock.read().strip() or 'another process'}, which decodes into {folder}", flush=True)
                    reported_wait = True
                time.sleep(0.5)
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        yield
