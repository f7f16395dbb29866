"""Datasets that PILOT and C3Box distribute as two folders, train/<class>/… and test/<class>/…, packed or unpacked."""

import re
from pathlib import Path

from cil.common.errors import UserError, nearest
from cil.common.ranges import Count
from cil.data.archives import Tree, tree
from cil.data.class_names import plain
from cil.data.datasets.listing import listed, total, under
from cil.data.datasets.places import PREPARED
from cil.data.images import Images
from cil.data.registry.classes import class_list, class_names, known_lists, known_names


def prepared(root: str, *, name: str, names: str, md5: str | None, images: Count | None, shorter_side: Count | None) -> Images:
    """The dataset `name` of `PREPARED`. Labels are the ranks of its folders, sorted as in ImageFolder.

    `names`: folders, or a naming of cil/data/registry: c3box, or openai and lemma for folders that are wnids.
    """
    if name not in PREPARED:
        raise UserError(f"dataset.name={name} is not known; {nearest(name, PREPARED)}")
    place = PREPARED[name]
    found = _found(Path(root), name, md5)
    train, test = (under(found, side) for side in ("train", "test"))
    folders = list(train)
    if list(test) != folders or len(folders) != place.classes:
        raise UserError(f"{name} has {len(train)} classes for training and {len(test)} for the test, wanted are the same "
                        f"{place.classes}; unpack or fetch it again, or read it as dataset=folder")  # fmt: skip
    paths = [path for side in (train, test) for own in side.values() for path in own]
    labels = [label for side in (train, test) for label, own in enumerate(side.values()) for _ in own]
    total(name, len(paths), images)
    count = sum(map(len, train.values()))
    split = range(count), range(count, len(paths))
    return listed(place.name, root, found, paths, labels, *split, _shown(name, names, folders), shorter_side, stored=name)


def _found(root: Path, name: str, md5: str | None) -> Tree:
    """List the files of both folders, whatever lies around them."""
    folder, archive = PREPARED[name].any_of
    wanted = f"type make data DATASET={name} to see where to get it, or data.root=DIR for where it is"
    found = tree(root, folder, {archive: md5}, wanted, loose=True)
    around = (re.match("((?:[^/]+/)*?)train/", path) for path in found)
    top = min((match.group(1) for match in around if match), key=len, default="")
    return {path.removeprefix(top): member for path, member in found.items() if path.startswith(top)}


def _shown(name: str, names: str, folders: list[str]) -> list[str]:
    """Return the class names. Raise a UserError if the folders are not those that the naming is for."""
    known = [*(["openai", "lemma"] if name in known_lists() else []), *(["c3box"] if name in known_names() else [])]
    if names == "folders":
        return [plain(folder) for folder in folders]
    if names not in known:
        raise UserError(f"class names {names} are not known for {name}; {nearest(names, [*known, 'folders'])}")
    by_rank = names == "c3box"
    words = class_names(name) if by_rank else class_list(name).named(names)
    shown = [plain(word) for word in words]
    rank = {_letters(word): label for label, word in enumerate(words if by_rank else class_list(name).wnids)}
    for label, folder in enumerate(folders):
        if rank.get(_letters(folder), label if by_rank else None) != label:
            raise UserError(f"{name}: dataset.names={names} calls folder {folder} {shown[label]}; it has other folders than "
                            "those that these names are for; type dataset.names=folders")  # fmt: skip
    return shown


def _letters(word: str) -> str:
    return re.sub(r"^\d{3}\.|[\W_]", "", word).casefold()
