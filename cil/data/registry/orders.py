"""Class orders: the order in which the classes of a dataset arrive, by a rule, a registered list or a list of labels."""

import difflib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cil.common.errors import UserError, nearest
from cil.data.registry.listfile import digest, read, verify

FOLDER = Path(__file__).with_suffix("")  # <dataset>/<name>.txt
RULES = "natural, numpy:1993 or python:1 (any seed), seed, a list of labels or names, or a .txt file of them"
COUNTS = {2: "two", 3: "three", 4: "four"}


@dataclass(frozen=True)
class Entry:
    """A registered order: labels[k] is the dataset's label of the class that arrives as number k."""

    dataset: str
    classes: str  # the class list that the labels index, if the dataset has several; otherwise the dataset
    name: str
    digest: str
    short: str  # where it is from, as error messages say it
    nicknames: tuple[str, ...]
    labels: tuple[int, ...]

    @property
    def begins(self) -> str:
        return ", ".join(map(str, self.labels[:3])) + ", …"

    def answers_to(self, name: str) -> bool:
        return _key(name) in map(_key, (self.name, *self.nicknames))

    def is_of(self, dataset: str | None) -> bool:
        return dataset is None or _key(dataset) in (_key(self.dataset), _key(self.classes))


def known_orders() -> list[Entry]:
    """Return all registered orders, sorted by dataset and name."""
    return [_entry(file) for file in sorted(FOLDER.glob("*/*.txt"))]


def class_order(
    order: str | Sequence[int | str], count: int, dataset: str | None = None, names: Sequence[str] = ()
) -> list[int]:
    """Return the dataset's labels in the order in which their classes arrive.

    `order` is `natural`; `numpy:SEED` (NumPy's legacy permutation); `python:SEED` (Python's shuffle, used by CODA-Prompt, whose
    first repeat is `natural`); the name of a registered order such as `podnet` or `cifar100/podnet`; a list of labels or of
    class names (among `names`); or a text file with one of them per line.
    """
    if isinstance(order, str) and order.endswith(".txt"):
        file = Path(order).expanduser()
        if not file.is_file():
            raise UserError(f"scenario.order={order}: there is no such file; type {RULES}")
        order = [line.strip() for line in file.read_text().splitlines() if line.strip()]
    if not isinstance(order, str):
        return _listed(order, count, names)
    kind, _, seed = order.partition(":")
    if order == "natural":
        return list(range(count))
    if kind == "numpy" and seed.isdecimal():
        return np.random.RandomState(int(seed)).permutation(count).tolist()
    if kind == "python" and seed.isdecimal():
        labels = list(range(count))
        random.Random(int(seed)).shuffle(labels)
        return labels
    return list(_registered(order, count, dataset).labels)


def _listed(order: Sequence[int | str], count: int, names: Sequence[str]) -> list[int]:
    labels = []
    for word in order:
        if str(word).isdecimal():
            labels.append(int(word))
        elif str(word) in names:
            labels.append(list(names).index(str(word)))
        else:
            near = difflib.get_close_matches(str(word), names, 1) or [RULES]
            raise UserError(f"scenario.order: {word} is neither a label nor a class name; type {near[0]}")
    if sorted(labels) != list(range(count)):
        left = [str(names[k] if names else k) for k in range(count) if k not in labels]
        lacks = f"; add {', '.join(left[:5])}{', …' if len(left) > 5 else ''}" if left else ""
        raise UserError(f"scenario.order must name each of the labels 0 to {count - 1} once; it has {len(labels)} entries, "
                        f"{len(set(labels))} different{lacks}")  # fmt: skip
    return labels


def _registered(word: str, count: int, dataset: str | None) -> Entry:
    place, _, name = word.rpartition("/")
    known = known_orders()
    named = [entry for entry in known if entry.answers_to(name) and entry.is_of(place or None)]
    if not named:
        names = {entry.name for entry in known if entry.is_of(dataset)}
        registered = f" or a registered name ({nearest(name, names)})" if names else ""
        raise UserError(f"scenario.order={word} is not known; type {RULES}{registered}")
    own = [entry for entry in named if entry.is_of(dataset)]
    if not own:
        places = " and ".join(sorted({entry.classes for entry in named}))
        raise UserError(f"scenario.order={word} is an order of {places}, this dataset is {dataset}; type {RULES}")
    fitting = [entry for entry in own if len(entry.labels) == count]
    if not fitting:
        sizes = " or ".join(map(str, sorted({len(entry.labels) for entry in own})))
        raise UserError(f"scenario.order={word} orders {sizes} classes, this dataset has {count}; type {RULES}")
    if len(fitting) > 1:
        raise UserError(_which(word, name, fitting))
    return fitting[0]


def _which(word: str, name: str, entries: list[Entry]) -> str:
    """Return the error message for a name that several orders share."""
    places = {entry.dataset for entry in entries}
    kind = "name" if all(_key(name) == _key(entry.name) for entry in entries) else "nickname"
    choices = [
        f"scenario.order={entry.name if len(places) == 1 else f'{entry.dataset}/{entry.name}'} ({entry.begins} {entry.short})"
        for entry in entries
    ]
    number = COUNTS.get(len(entries), str(len(entries)))
    return f"{word} is the {kind} of {number} orders; type {', '.join(choices[:-1])} or {choices[-1]}"


def _entry(file: Path) -> Entry:
    head, rows = read(file)
    labels = [int(word) for row in rows for word in row.split()]
    verify(file, head, labels)
    nicknames = tuple(name.strip() for name in head["also called"].split(",") if name.strip())
    dataset = file.parent.name
    classes = head.get("class list", dataset)
    return Entry(dataset, classes, file.stem, digest(labels), head["in short"], nicknames, tuple(labels))


def _key(name: str) -> str:
    return name.casefold().replace("-", "_")
