"""Weights that go by a name: what cil/weights/registry.yaml says of them and where their files may lie."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml

from cil.common.errors import UserError

SHIPPED = Path(__file__).resolve().parent.parent / "weights"


@dataclass(frozen=True)
class Original:
    """Another release of the same weights."""

    url: str
    sha256: str | None

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class Entry:
    """One name. `sha256` is that of the hub's file; None: nobody said it, so the first fetch pins what came.

    `made`: the command that makes weights of which no hub has a file; `repo` is then None.
    """

    name: str
    library: str
    tag: str
    repo: str | None
    file: str
    made: str | None
    sha256: str | None
    also: tuple[Original, ...]
    expects: dict[str, list[float]]
    licence: str
    source: str

    def places(self, root: Path) -> Iterator[tuple[Path, str | None]]:
        """Where below a mirror directory a file of these weights may lie, and the sha256 it must have there."""
        yield root / self.name / self.file, self.sha256
        if self.repo:
            yield root / self.repo / self.file, self.sha256
        for original in self.also:
            yield root / self.name / original.file, original.sha256
            if _names_of(original.file) == [self.name]:  # ViT-B_16.npz is the name of two
                yield root / original.file, original.sha256

    def found_in(self, root: Path) -> tuple[Path, str | None] | None:
        """The first of the places that holds a file."""
        return next((place for place in self.places(root) if place[0].is_file()), None)

    def absent(self, root: str | Path | None) -> UserError:
        """What to type where no file of weights that are `made` is found."""
        looked = "data.weights is null" if root is None else f"looked for {Path(root) / self.name / self.file}"
        return UserError(f"weights {self.name} are not there ({looked}) and no hub has them; type {self.made}, which makes "
                         "them, or backbone.weights=FILE, or backbone.weights=null for an untrained network")  # fmt: skip

    @property
    def expectation(self) -> str:
        """`mean 0.5 std 0.5`; three numbers where the channels differ."""
        return " ".join(f"{key} {_short(self.expects[key])}" for key in ("mean", "std"))


@cache
def entries() -> dict[str, Entry]:
    return {name: _entry(name, dict(node)) for name, node in _file()["weights"].items()}


def ambiguous(name: str) -> dict[str, str] | None:
    """What a name that changed its meaning may mean: registered name → who meant it."""
    return _file()["ambiguous"].get(name)


def pinned(file: Path) -> str | None:
    """The sha256 that `make weights` wrote beside a file when it first came."""
    pin = pin_of(file)
    return pin.read_text().split()[0].lower() if pin.is_file() and pin.read_text().strip() else None


def pin_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


@cache
def _file() -> dict:
    return yaml.safe_load((SHIPPED / "registry.yaml").read_text())


def _entry(name: str, node: dict) -> Entry:
    also = tuple(Original(**original) for original in node.pop("also", []))
    hub = node.pop("hub", {"repo": None, "file": "model.safetensors"})
    return Entry(name, repo=hub["repo"], file=hub["file"], made=node.pop("made", None), also=also, **node)


def _names_of(file: str) -> list[str]:
    return [entry.name for entry in entries().values() if file in [original.file for original in entry.also]]


def _short(values: list[float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "/".join(f"{value:g}" for value in values)
