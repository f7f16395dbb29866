"""Registered weights: the entries of cil/weights/registry.yaml and the places where their files may be."""

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
    """One registered name. `sha256` is that of the hub's file; if it is None, the first download fixes it.

    `made` is the command that creates weights that are on no hub; `repo` is then None.
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
    beside: tuple[str, ...] = ()  # further files of `repo`

    def places(self, root: Path) -> Iterator[tuple[Path, str | None]]:
        """Yield the paths below `root` where a file of these weights may be, and the sha256 that it must have."""
        yield root / self.name / self.file, self.sha256
        if self.repo:
            yield root / self.repo / self.file, self.sha256
        for original in self.also:
            yield root / self.name / original.file, original.sha256
            if _names_of(original.file) == [self.name]:  # not for ViT-B_16.npz, which is the name of two files
                yield root / original.file, original.sha256

    def found_in(self, root: Path) -> tuple[Path, str | None] | None:
        """Return the first of `places` at which there is a file."""
        return next((place for place in self.places(root) if place[0].is_file()), None)

    def absent(self, root: str | Path | None) -> UserError:
        """Return the error for weights that must be `made` and are not found."""
        looked = "data.weights is null" if root is None else f"looked for {Path(root) / self.name / self.file}"
        return UserError(f"weights {self.name} are not there ({looked}) and no hub has them; type {self.made}, which makes "
                         "them, or backbone.weights=FILE, or backbone.weights=null for an untrained network")  # fmt: skip

    @property
    def expectation(self) -> str:
        """The normalisation as text: `mean 0.5 std 0.5`, or three numbers each if the channels differ."""
        return " ".join(f"{key} {_short(self.expects[key])}" for key in ("mean", "std"))


@cache
def entries() -> dict[str, Entry]:
    return {name: _entry(name, dict(node)) for name, node in _file()["weights"].items()}


def ambiguous(name: str) -> dict[str, str] | None:
    """Return the meanings of a name that has changed its meaning: registered name → who uses it so. None for other names."""
    return _file()["ambiguous"].get(name)


def pinned(file: Path) -> str | None:
    """Return the sha256 that `make weights` wrote next to a file at its first download, if there is one."""
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
    hub["beside"] = tuple(hub.get("beside", ()))
    return Entry(name, **hub, made=node.pop("made", None), also=also, **node)


def _names_of(file: str) -> list[str]:
    return [entry.name for entry in entries().values() if file in [original.file for original in entry.also]]


def _short(values: list[float]) -> str:
    return f"{values[0]:g}" if len(set(values)) == 1 else "/".join(f"{value:g}" for value in values)
