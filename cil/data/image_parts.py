"""Reads and writes parts. A part is a file of up to `PART` decoded photographs, one after another, followed by a footer.

The footer contains the size and a digest of each photograph, a digest of the footer itself, the format and the number of
photographs. A part is written under a temporary name, flushed and renamed, so it is never incomplete.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from cil.common.files import replace_file

PART = 256  # photographs
FORMAT, EARLIER = b"cilpart2", b"cilpart1"  # parts of the earlier format are no longer read
TAIL = 8 + len(FORMAT) + 8  # bytes: the footer's digest, the format, the number of photographs


class Part(NamedTuple):
    """An open part. `pixels` is memory-mapped, so only the bytes that are used are read from disk."""

    pixels: np.ndarray  # (bytes,) uint8
    sizes: np.ndarray  # (n, 2) int32: height, width
    digests: np.ndarray  # (n,) uint64


def write_part(file: Path, photos: Iterable[np.ndarray]) -> int:
    """Write photographs (height, width, 3) uint8 to a part and return their number."""
    sizes, digests = [], []
    with replace_file(file) as temporary, temporary.open("wb") as out:
        for photo in photos:
            sizes.append(photo.shape[:2])
            digests.append(photo_digest(photo))
            out.write(photo.data)
        footer = np.array(sizes, np.int32).tobytes() + np.array(digests, np.uint64).tobytes()
        out.write(footer + _digest(footer) + FORMAT + np.array([len(sizes)], np.int64).tobytes())
    return len(sizes)


def open_part(file: Path) -> Part | None:
    """Open a part. Return None if its footer or its length is wrong."""
    length = file.stat().st_size
    if length < TAIL:
        return None
    whole = torch.from_file(str(file), shared=False, size=length, dtype=torch.uint8).numpy()
    tail = whole[-TAIL:].tobytes()
    count = int.from_bytes(tail[-8:], "little", signed=True)
    if tail[8:-8] != FORMAT or not 0 <= 16 * count <= length - TAIL:
        return None
    footer = whole[length - TAIL - 16 * count : length - TAIL].tobytes()
    sizes, digests = np.frombuffer(footer[: 8 * count], np.int32), np.frombuffer(footer[8 * count :], np.uint64)
    sizes = sizes.reshape(-1, 2)
    if _digest(footer) != tail[:8] or sizes.prod(1, dtype=np.int64).sum() * 3 + len(footer) + TAIL != length:
        return None
    return Part(whole, sizes, digests)


def is_whole(file: Path) -> bool:
    """Return whether all photographs of a part match their digests."""
    part = open_part(file)
    if part is None:
        return False
    begin = 0
    for size, digest in zip(part.sizes.tolist(), part.digests, strict=True):
        end = begin + size[0] * size[1] * 3
        if photo_digest(part.pixels[begin:end].reshape(*size, 3)) != digest:
            return False
        begin = end
    return True


def is_of_earlier_version(file: Path) -> bool:
    with file.open("rb") as opened:
        opened.seek(max(0, file.stat().st_size - 16))
        return opened.read(8) == EARLIER


def photo_digest(photo: np.ndarray) -> np.uint64:
    """Return the digest of the shape and the pixels of a photograph."""
    sha = hashlib.sha256(repr(photo.shape).encode())
    sha.update(np.ascontiguousarray(photo).data)
    return np.frombuffer(sha.digest()[:8], np.uint64)[0]


def _digest(footer: bytes) -> bytes:
    return hashlib.sha256(footer).digest()[:8]
