"""Data sets as they come: a folder, a zip, a tar. Members are listed once and read in place, by many threads."""

import csv
import fcntl
import io
import os
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cil.common.errors import UserError
from cil.common.files import keep_or_make, write_json
from cil.data.download import digest_of

if TYPE_CHECKING:
    from torch import Tensor

PACKINGS = ("plain", "stored", "deflated")
PHOTOS = (".jpeg", ".jpg", ".png")


class Member(NamedTuple):
    """One file's bytes: `size` of them at `offset` of `file`. In a zip `offset` is that of its local header."""

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
                    raise UserError(f"{self.file} is torn (no file begins at byte {self.offset}); fetch it again")
                opened.seek(sum(struct.unpack("<HH", header[26:30])), os.SEEK_CUR)
            content = opened.read(self.size)
        if len(content) < self.size:
            raise UserError(f"{self.file} is torn (it ends before byte {self.offset + self.size}); fetch it again")
        return zlib.decompress(content, -15) if self.packing == "deflated" else content


Tree = Mapping[str, Member]  # path inside the data set → where its bytes lie


def tree(root: Path, folder: str, archives: Mapping[str, str | None], wanted: str) -> Tree:
    """The unpacked folder when it is there, else the first archive that is; `archives`: name → md5 (None: any will do).

    `wanted` says in words what a user should put there.
    """
    if (root / folder).is_dir():
        return dict(_of_folder(root / folder))
    for name, md5 in archives.items():
        if (root / name).is_file():
            check(root / name, md5)
            return without_top(members(root / name), folder)
    tried = " or ".join(str(root / name) for name in (f"{folder}/", *archives))
    raise UserError(f"{tried} is not there; {wanted}")


def without_top(found: Tree, folder: str) -> Tree:
    tops = f"./{folder}/", f"{folder}/", "./"
    top = next((top for top in tops if next(iter(found), "").startswith(top)), "")
    return {path.removeprefix(top): member for path, member in found.items()}


def members(archive: Path) -> Tree:
    """What is inside a zip or a tar that is not compressed as a whole; its table is kept beside it for the next time."""
    stat = archive.stat()
    record = archive.with_name(f".{archive.name}.index")
    kept = keep_or_make(record, lambda: _packed(archive), f"{stat.st_size} bytes, changed {stat.st_mtime_ns}")
    names = kept["names"].numpy().tobytes().decode().split("\n") if len(kept["names"]) else []
    places = zip(kept["offsets"].tolist(), kept["sizes"].tolist(), kept["packings"].tolist(), strict=True)
    return dict(zip(names, (Member(str(archive), o, s, PACKINGS[p]) for o, s, p in places), strict=True))


def _packed(archive: Path) -> dict[str, "Tensor"]:
    import torch

    try:
        found = dict(_of_zip(archive) if zipfile.is_zipfile(archive) else _of_tar(archive))
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, struct.error):
        raise UserError(f"{archive} is torn or no archive; delete it and fetch it again") from None
    offsets, sizes = (torch.tensor([member[k] for member in found.values()], dtype=torch.int64) for k in (1, 2))
    packings = torch.tensor([PACKINGS.index(member.packing) for member in found.values()], dtype=torch.uint8)
    names = (
        torch.frombuffer(bytearray("\n".join(found), "utf-8"), dtype=torch.uint8)
        if found
        else torch.empty(0, dtype=torch.uint8)
    )
    return {"names": names, "offsets": offsets, "sizes": sizes, "packings": packings}


def inside(member: Member) -> Tree:
    """What is inside a tar that lies in a tar."""
    return dict(_of_tar(Path(member.file), member))


def text(found: Tree, path: str) -> str:
    if path not in found:
        raise UserError(f"{path} is missing from the data set; fetch its archive again")
    return found[path].read().decode()


def rows(found: Tree, path: str, separator: str) -> Iterator[list[str]]:
    """The lines of a small table."""
    return filter(None, csv.reader(io.StringIO(text(found, path)), delimiter=separator, quoting=csv.QUOTE_NONE))


def unpack(archive: Path, folder: str) -> Path:
    """A compressed tar's folder, next to it: made beside its place and renamed, so that it is whole or absent.

    Of several processes one unpacks and the others wait for it; what a killed one left is removed.
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
            if not (making / folder).is_dir():
                raise UserError(f"{archive} has no folder {folder} in it; fetch the official one")
            (making / folder).replace(target)
        except (tarfile.TarError, EOFError, zlib.error):
            raise UserError(f"{archive} is torn or no archive; delete it and fetch it again") from None
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return target


def check(archive: Path, md5: str | None, setting: str = "dataset.md5") -> None:
    """Refuse an archive that is not the official one. The digest is computed once and kept beside the archive."""
    if md5 is None:
        return
    import json

    stat, record = archive.stat(), archive.with_name(f".{archive.name}.checksum")
    known = {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    kept = json.loads(record.read_text()) if record.is_file() else {}
    found = kept.get("md5") if {key: kept.get(key) for key in known} == known else None
    if found is None:
        found = digest_of(archive, "md5").removeprefix("md5:")
        with suppress(PermissionError):  # a data root that others keep: computed again next time
            write_json(record, {**known, "md5": found})
    if found != md5:
        raise UserError(f"{archive} has md5 {found[:12]}…, the official one has {md5[:12]}…; fetch it again, or type "
                        f"{setting}={found} to use it all the same")  # fmt: skip


def stray(path: str) -> bool:
    """What macOS adds to the archives that it makes."""
    return path.startswith("__MACOSX/") or path.rpartition("/")[2].startswith("._")


def _of_folder(folder: Path) -> Iterator[tuple[str, Member]]:
    for place, _, names in os.walk(folder, followlinks=True):
        inner = os.path.relpath(place, folder)
        for name in names:
            if name.startswith("._"):  # macOS leaves these beside every file
                continue
            path = os.path.join(place, name)  # noqa: PTH118 (a hundred thousand of them)
            yield (name if inner == "." else f"{inner}/{name}"), Member(path, 0, os.stat(path).st_size, "plain")  # noqa: PTH116


def _of_zip(archive: Path) -> Iterator[tuple[str, Member]]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            if not info.is_dir() and not stray(info.filename):
                packing = {zipfile.ZIP_STORED: "stored", zipfile.ZIP_DEFLATED: "deflated"}.get(info.compress_type)
                if packing is None:
                    raise UserError(f"{archive} packs {info.filename} in an unusual way; unpack it beside the archive")
                yield info.filename, Member(str(archive), info.header_offset, info.compress_size, packing)


def _of_tar(archive: Path, part: Member | None = None) -> Iterator[tuple[str, Member]]:
    """Of the whole archive, or of the tar that `part` of it is."""
    with archive.open("rb") as raw:
        start = part.offset if part else 0
        raw.seek(start)
        with tarfile.open(fileobj=raw, mode="r:") as opened:
            for info in opened:
                if info.isfile() and not stray(info.name):
                    if info.offset_data + info.size > archive.stat().st_size:
                        raise tarfile.ReadError
                    yield info.name, Member(str(archive), info.offset_data, info.size, "plain")
