"""Reads datasets from a folder, a zip or a tar without unpacking. Members are listed once and can be read by many threads."""

import csv
import fcntl
import io
import json
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cil.common.errors import UserError
from cil.common.files import keep_or_make, unless_read_only, write_json
from cil.data.download import digest_of

if TYPE_CHECKING:
    from torch import Tensor

PACKINGS = ("plain", "stored", "deflated")


class Member(NamedTuple):
    """The place of one file: `size` bytes at `offset` of `file`. In a zip, `offset` is that of the local header."""

    file: str
    offset: int
    size: int
    packing: str  # plain | stored | deflated

    def read(self) -> bytes:
        with open(self.file, "rb") as opened:
            opened.seek(self.offset)
            if self.packing != "plain":
                header = opened.read(30)
                if header[:4] != b"PK\x03\x04":
                    raise UserError(f"{self.file} is damaged (no file begins at byte {self.offset}); fetch it again")
                opened.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)
            content = opened.read(self.size)
        if len(content) < self.size:
            raise UserError(f"{self.file} is damaged (it ends before byte {self.offset + self.size}); fetch it again")
        return zlib.decompress(content, -15) if self.packing == "deflated" else content


Tree = Mapping[str, Member]  # path inside the dataset → place of its bytes


def tree(root: Path, folder: str, archives: Mapping[str, str | None], wanted: str, *, loose: bool = False) -> Tree:
    """List the files of the unpacked folder if it exists, else of the first archive that exists.

    `archives` maps names to md5 digests (None: not checked). A compressed tar cannot be read in place and is unpacked; `loose`
    is as in `unpack`. If none exists, an error message ends with `wanted`, which says what to type.
    """
    if (root / folder).is_dir():
        return dict(_of_folder(root / folder))
    for name, md5 in archives.items():
        if (root / name).is_file():
            check(root / name, md5)
            if name.endswith("gz"):
                return dict(_of_folder(unpack(root / name, folder, loose=loose)))
            return without_top(members(root / name), folder)
    tried = " or ".join(str(root / name) for name in (f"{folder}/", *archives))
    raise UserError(f"{tried} is not there; {wanted}")


def without_top(found: Tree, folder: str) -> Tree:
    """Remove the name of the top folder from all paths."""
    tops = f"./{folder}/", f"{folder}/", "./"
    top = next((top for top in tops if next(iter(found), "").startswith(top)), "")
    return {path.removeprefix(top): member for path, member in found.items()}


def members(archive: Path) -> Tree:
    """List the files of a zip or an uncompressed tar. The list is cached in a file beside the archive."""
    stat = archive.stat()
    record = archive.with_name(f".{archive.name}.index")
    kept = keep_or_make(record, lambda: _packed(archive), f"{stat.st_size} bytes, changed {stat.st_mtime_ns}", optional=True)
    names = kept["names"].numpy().tobytes().decode().split("\n") if len(kept["names"]) else []
    places = zip(kept["offsets"].tolist(), kept["sizes"].tolist(), kept["packings"].tolist(), strict=True)
    return dict(zip(names, (Member(str(archive), o, s, PACKINGS[p]) for o, s, p in places), strict=True))


def _packed(archive: Path) -> dict[str, "Tensor"]:
    import numpy as np
    import torch

    try:
        found = dict(_of_zip(archive) if zipfile.is_zipfile(archive) else _of_tar(archive))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, struct.error):
        raise UserError(f"{archive} is damaged or not an archive; delete it and fetch it again") from None
    offsets, sizes = (torch.tensor([member[k] for member in found.values()], dtype=torch.int64) for k in (1, 2))
    packings = torch.tensor([PACKINGS.index(member.packing) for member in found.values()], dtype=torch.uint8)
    names = torch.from_numpy(np.frombuffer(bytearray("\n".join(found), "utf-8"), np.uint8))
    return {"names": names, "offsets": offsets, "sizes": sizes, "packings": packings}


def inside(member: Member) -> Tree:
    """List the files of a tar inside a tar."""
    return dict(_of_tar(Path(member.file), member))


def text(found: Tree, path: str) -> str:
    if path not in found:
        raise UserError(f"{path} is missing from the dataset; fetch its archive again")
    return found[path].read().decode()


def rows(found: Tree, path: str, separator: str) -> Iterator[list[str]]:
    """Yield the lines of a table, each split at `separator`."""
    return filter(None, csv.reader(io.StringIO(text(found, path)), delimiter=separator, quoting=csv.QUOTE_NONE))


def unpack(archive: Path, folder: str, *, loose: bool = False) -> Path:
    """Unpack a compressed tar beside itself and return its folder, which is renamed at the end, so that it is never incomplete.

    `loose`: put all that is in it into the folder, if it does not begin with a folder of that name.
    If several processes call this, one unpacks and the others wait. Leftovers of a killed process are removed.
    """
    target, making = archive.parent / folder, archive.parent / f".{folder}.partial"
    with (archive.parent / f".{folder}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.is_dir():
            return target
        shutil.rmtree(making, ignore_errors=True)
        try:
            with tarfile.open(archive) as opened:
                opened.extractall(making, filter="data")
            inner = making / folder
            if not loose and not inner.is_dir():
                raise UserError(f"{archive} has no folder {folder} in it; fetch the official one")
            (inner if inner.is_dir() else making).replace(target)
        except (tarfile.TarError, EOFError, zlib.error):
            raise UserError(f"{archive} is damaged or not an archive; delete it and fetch it again") from None
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return target


def check(archive: Path, md5: str | None, setting: str = "dataset.md5") -> None:
    """Raise a UserError if the md5 of an archive is wrong. The digest is computed once and cached beside the archive."""
    if md5 is None:
        return
    stat, record = archive.stat(), archive.with_name(f".{archive.name}.checksum")
    known = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    kept = json.loads(record.read_text()) if record.is_file() else {}
    found = kept.get("md5") if {key: kept.get(key) for key in known} == known else None
    if found is None:
        found = digest_of(archive, "md5").removeprefix("md5:")
        with unless_read_only():  # the digest is computed again next time
            write_json(record, {**known, "md5": found})
    if found != md5:
        raise UserError(f"{archive} has md5 {found[:12]}…, the official one has {md5[:12]}…; fetch it again, or type "
                        f"{setting}={found} to use it anyway")  # fmt: skip


def stray(path: str) -> bool:
    """Return whether a path is a metadata file that macOS adds to archives."""
    return path.startswith("__MACOSX/") or path.rpartition("/")[2].startswith("._")


def _of_folder(folder: Path) -> Iterator[tuple[str, Member]]:
    for place, _, names in os.walk(folder, followlinks=True):
        inner = os.path.relpath(place, folder)
        for name in names:
            if name.startswith("._"):  # metadata that macOS stores beside every file
                continue
            path = os.path.join(place, name)  # noqa: PTH118 (faster for many files)
            yield (name if inner == "." else f"{inner}/{name}"), Member(path, 0, os.stat(path).st_size, "plain")  # noqa: PTH116


def _of_zip(archive: Path) -> Iterator[tuple[str, Member]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if not info.is_dir() and not stray(info.filename):
                packing = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}.get(info.compress_type)
                if packing is None:
                    raise UserError(f"{archive} compresses {info.filename} in an unsupported way; unpack it beside the archive")
                yield info.filename, Member(str(archive), info.header_offset, info.compress_size, packing)


def _of_tar(archive: Path, part: Member | None = None) -> Iterator[tuple[str, Member]]:
    """Yield the files of a tar, or of the tar that is the member `part` of it."""
    with archive.open("rb") as raw:
        start = part.offset if part else 0
        raw.seek(start)
        with tarfile.open(fileobj=raw, mode="r:") as opened:
            for info in opened:
                if info.isfile() and not stray(info.name):
                    if info.offset_data + info.size > archive.stat().st_size:
                        raise tarfile.ReadError
                    yield info.name, Member(str(archive), info.offset_data, info.size, "plain")
