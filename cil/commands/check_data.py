"""List the datasets that are present, and say how to get the missing ones.

python scripts/check_data.py             # all datasets, default settings
python scripts/check_data.py tinyimagenet data.root=/data
python scripts/check_data.py --lists     # the named class orders, lists and names
python scripts/check_data.py --decoded   # delete damaged files of decoded images

The table has the number of images of each split and class, and a digest of the
file names and labels.
"""

import argparse
from pathlib import Path

from cil.common.errors import UserError
from cil.common.tables import grid
from cil.launch.compose import compose, guarded, options


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="datasets, and settings (key=value)")
    parser.add_argument("--lists", action="store_true", help="list the named class orders, class lists and class names")
    parser.add_argument("--decoded", action="store_true", help="verify decoded images; delete damaged files")
    asked = parser.parse_args(words)

    def work() -> int:
        if asked.decoded:
            print(decoded(Path(compose(*asked.words)["data"]["decoded"]).expanduser()))
            return 0
        if asked.lists:
            print(lists())
            return 0
        found, missing = table(asked.words)
        named = any("=" not in word for word in asked.words)
        print("\n".join([found] * bool(found) + missing * (not named)), end="\n" * (bool(found) or not named))
        if named and missing:
            raise UserError("\n".join(missing))
        return 0

    return guarded(work, "type data.root=DIR")


def table(words: list[str]) -> tuple[str, list[str]]:
    """Return the table as text, empty if no dataset can be read, and a line for each that cannot."""
    settings, chosen = [w for w in words if "=" in w], [w for w in words if "=" not in w] or options("dataset")
    if len(chosen) > 1 and any(word.startswith("dataset.") for word in settings):
        raise UserError("settings that begin with dataset. belong to one dataset; name it, as in check_data.py tinyimagenet …")
    lines, missing = [], []
    for name in chosen:
        config = compose(f"dataset={name}", *settings)
        try:
            lines.append([name, *facts(config)])
        except UserError as mistake:
            lines.append([name, *"––––––"])
            missing.append(f"{name}: {mistake}")
    head = ["dataset", "classes", "training", "a class", "test", "a class", "listing"]
    return grid(head, lines) if len(missing) < len(chosen) else "", missing


def facts(config: dict) -> list[str]:
    """The cells of one dataset: classes, images per split and class, and a digest. No image is decoded."""
    from cil.data.datasets.listing import listing_digest
    from cil.engine.build import dataset

    images = dataset(config)
    cells = [str(len(images.class_names))]
    for labels in (images.train_labels, images.test_labels):
        counts = labels.bincount(minlength=len(images.class_names))
        low, high = int(counts.min()), int(counts.max())
        cells += [str(len(labels)), str(low) if low == high else f"{low}–{high}"]
    return [*cells, listing_digest(images)]


def decoded(folder: Path) -> str:
    """Verify all files of decoded images below `folder` and delete damaged ones; the next run decodes those images again."""
    from cil.data.image_parts import is_of_earlier_version, is_whole

    every = sorted(folder.rglob("*.part"))
    files = [file for file in every if not is_of_earlier_version(file)]
    damaged = [file for file in files if not is_whole(file)]
    for file in damaged:
        file.unlink()
    lines = [f"{file} was damaged and is removed; the next run that needs it decodes it again" for file in damaged]
    if left := len(every) - len(files):
        lines.append(f"{left} parts were written by an earlier version and can only be read by it; they are left as they are")
    return "\n".join([*lines, f"{len(files)} parts of decoded photographs below {folder}, {len(damaged)} damaged"])


def lists() -> str:
    """A table of the named class orders, class lists and class names."""
    from cil.data.registry.classes import class_list, class_names, known_lists, known_names
    from cil.data.registry.listfile import digest
    from cil.data.registry.orders import known_orders

    rows = [["order", f"{e.dataset}/{e.name}", e.digest, e.begins] for e in known_orders()]
    found = [class_list(name) for name in known_lists()]
    rows += [["classes", entry.name, entry.digest, " ".join(entry.wnids[:2])] for entry in found]
    for name in known_names():
        words = class_names(name)
        rows.append(["names", name, digest(list(words)), words[0]])
    return grid(["", "name", "digest", "begins"], rows)
