"""Imports go down: nobody knows what is built on top of them, and heavy libraries stay in the rooms that are theirs."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import ROOT

FLOORS = (
    {"common", "metrics"},
    {"optim"},
    {"data"},
    {"runs"},
    {"method", "modifier", "capabilities"},
    {"modules"},
    {"backbones"},
    {"methods", "modifiers"},
    {"pictures"},
    {"engine"},
    {"bench", "contract", "pretraining", "report"},
    {"gpu_check"},
    {"launch"},
    {"commands"},
    {"api", "__main__"},
)  # a package may import its own modules, its own floor and the floors before it
ONLY_IN = {
    "timm": ("cil/backbones/",),
    "open_clip": ("cil/backbones/", "cil/modules/text.py"),
    "wandb": ("cil/runs/loggers.py",),
    "tensorboard": ("cil/runs/loggers.py",),
    "matplotlib": ("cil/pictures/", "cil/report/", "scripts/choose_glyphs.py"),
    "hydra": ("cil/launch/",),
    "omegaconf": ("cil/launch/", "scripts/pretrain.py"),
}
CROWDED = 15  # modules of a folder; methods and commands have one file each
FILES = [ROOT / "run.py", *sorted((ROOT / "cil").rglob("*.py")), *sorted((ROOT / "scripts").glob("*.py"))]


def imports(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def floor(room: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_go_down(file):
    place = file.relative_to(ROOT)
    for name in imports(file):
        library, _, rest = name.partition(".")
        allowed = ONLY_IN.get(library)
        assert allowed is None or str(place).startswith(allowed), f"{place} imports {library}"
        if library != "cil" or place.parts[0] != "cil" or not rest or place.name == "__init__.py":
            continue
        own, other = place.parts[1].removesuffix(".py"), rest.split(".")[0]
        assert floor(other) <= floor(own), f"{place} imports cil.{rest}, which lives above it"
        if own in ("methods", "modifiers") and other in ("methods", "modifiers"):
            assert rest == str(place.with_suffix("")).replace("/", "."), f"{place}: tenants do not know each other ({rest})"


def test_every_room_has_a_floor():
    rooms = {path.stem for path in (ROOT / "cil").iterdir() if path.suffix == ".py" and path.stem != "__init__"}
    rooms |= {path.name for path in (ROOT / "cil").iterdir() if path.is_dir() and path.name not in ("weights", "__pycache__")}
    assert rooms <= set.union(*FLOORS), rooms - set.union(*FLOORS)


def test_no_folder_is_crowded():
    folders = [folder for folder in (ROOT / "cil").rglob("*") if folder.is_dir() and folder.name not in ("methods", "commands")]
    many = {str(folder.relative_to(ROOT)): n for folder in folders if (n := len(list(folder.glob("[!_]*.py")))) > CROWDED}
    assert not many


def test_files_are_small():
    long = {str(file.relative_to(ROOT)): n for file in FILES if (n := len(file.read_text().splitlines())) > 300}
    assert not long
