"""What data is there: images of each split, images a class, digests, and what to type for what is missing.

python scripts/check_data.py                          # every data set with its usual settings
python scripts/check_data.py tinyimagenet data.root=/data dataset.train_per_class=250
python scripts/check_data.py --lists                  # class orders and class lists that have a name
python scripts/check_data.py --decoded                # read every decoded photograph and remove the parts that are damaged
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.common.errors import UserError
from cil.common.tables import grid
from scripts.compose import compose, guarded, options


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="WORD", help="data sets, and settings (key=value)")
    parser.add_argument("--lists", action="store_true")
    parser.add_argument("--decoded", action="store_true")
    asked = parser.parse_args(words)

    def work() -> int:
        if asked.decoded:
            print(decoded(Path(compose(*asked.words)["data"]["root"])))
            return 0
        told, missing = (lists(), 0) if asked.lists else table(asked.words)
        print(told)
        return 1 if missing and any("=" not in word for word in asked.words) else 0  # a data set that was asked for by name

    return guarded(work, "type data.root=DIR")


def table(words: list[str]) -> tuple[str, int]:
    """What to print, and how many data sets are missing."""
    settings, chosen = [w for w in words if "=" in w], [w for w in words if "=" not in w] or options("dataset")
    if len(chosen) > 1 and any(word.startswith("dataset.") for word in settings):
        raise UserError("settings that begin with dataset. belong to one data set; name it, as in check_data.py tinyimagenet …")
    lines, missing = [], []
    for name in chosen:
        config = compose(f"dataset={name}", *settings)
        try:
            lines.append([name, *facts(config)])
        except UserError as mistake:
            lines.append([name, *"––––––"])
            missing.append(f"{name}: {mistake}")
    head = ["data set", "classes", "training", "a class", "test", "a class", "listing"]
    return "\n".join([grid(head, lines), *missing]), len(missing)


def facts(config: dict) -> list[str]:
    """Counted from the listing; nothing is decoded. The digest is over file names and labels, or over pixels in memory."""
    from cil.data.datasets.listing import listing_digest
    from cil.engine.build import make

    images = make(config["dataset"], "dataset", root=config["data"]["root"])
    cells = [str(len(images.class_names))]
    for labels in (images.train_labels, images.test_labels):
        counts = labels.bincount(minlength=len(images.class_names))
        low, high = int(counts.min()), int(counts.max())
        cells += [str(len(labels)), str(low) if low == high else f"{low}–{high}"]
    return [*cells, listing_digest(images)]


def decoded(root: Path) -> str:
    """Check every part below `root`; a damaged one is removed, and the next run that needs it decodes it again."""
    from cil.data.image_parts import is_of_earlier_version, is_whole

    every = sorted((root / "decoded").rglob("*.part"))
    files = [file for file in every if not is_of_earlier_version(file)]
    damaged = [file for file in files if not is_whole(file)]
    for file in damaged:
        file.unlink()
    lines = [f"{file} was damaged and is removed; the next run that needs it decodes it again" for file in damaged]
    if left := len(every) - len(files):
        lines.append(f"{left} parts were written by an earlier version, which alone reads them; they are left as they are")
    return "\n".join([*lines, f"{len(files)} parts of decoded photographs below {root / 'decoded'}, {len(damaged)} damaged"])


def lists() -> str:
    from cil.data.registry.classes import class_list, known_lists
    from cil.data.registry.orders import known_orders

    rows = [["order", f"{e.dataset}/{e.name}", e.digest, e.begins] for e in known_orders()]
    found = [class_list(name) for name in known_lists()]
    rows += [["classes", entry.name, entry.digest, " ".join(entry.wnids[:2])] for entry in found]
    return grid(["", "name", "digest", "begins"], rows)


if __name__ == "__main__":
    sys.exit(main())
