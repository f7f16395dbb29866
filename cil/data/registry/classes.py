"""Class lists of datasets of ImageNet images: the classes in label order, and their names in prompts.

Other datasets have only names, in label order, where their folders are not the words for a text encoder.
"""

from dataclasses import dataclass
from pathlib import Path

from cil.common.errors import UserError, nearest
from cil.data.registry.listfile import read, verify

FOLDER = Path(__file__).with_suffix("")
NAMES = FOLDER.with_name("names")
ALL = "imagenet1k"  # has names for every wnid: OpenAI's cleaned list and WordNet lemmas


@dataclass(frozen=True)
class ClassList:
    """wnids[k] is the folder of label k, and names[naming][k] its name as the source writes it, with underscores."""

    name: str
    digest: str  # of the wnids and the names in the file
    wnids: tuple[str, ...]
    names: dict[str, tuple[str, ...]]

    def named(self, naming: str) -> tuple[str, ...]:
        """Return the class names of one naming, in label order."""
        if naming not in self.names:
            raise UserError(f"class names {naming} are not known for {self.name}; {nearest(naming, self.names)}")
        return self.names[naming]


def known_lists() -> list[str]:
    return sorted(file.stem for file in FOLDER.glob("*.txt"))


def known_names() -> list[str]:
    return sorted(file.stem for file in NAMES.glob("*.txt"))


def class_names(name: str) -> tuple[str, ...]:
    """Return the registered class names of a dataset without wnids, in label order."""
    file = NAMES / f"{name}.txt"
    head, rows = read(file)
    verify(file, head, rows)
    return tuple(rows)


def class_list(name: str) -> ClassList:
    """Return a registered class list. Every list also has the namings `openai` and `lemma`."""
    if name not in known_lists():
        raise UserError(f"class list {name} is not known; {nearest(name, known_lists())}")
    found = _read(name)
    if name == ALL:
        return found
    everything = _read(ALL)
    label = {wnid: number for number, wnid in enumerate(everything.wnids)}
    for naming, names in everything.names.items():
        found.names[naming] = tuple(names[label[wnid]] for wnid in found.wnids)
    return found


def _read(name: str) -> ClassList:
    file = FOLDER / f"{name}.txt"
    head, lines = read(file)
    rows = [tuple(line.split("\t")) for line in lines]
    verify(file, head, rows)
    wnids, *names = zip(*rows, strict=True)
    namings = head["columns"].split(", ")[1:]
    return ClassList(name, head["digest"], wnids, dict(zip(namings, names, strict=True)))
