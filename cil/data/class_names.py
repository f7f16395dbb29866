"""Words for the classes of a dataset, from a text file of the user's."""

import hashlib
from collections import Counter
from dataclasses import replace
from pathlib import Path

from cil.common.errors import UserError, nearest
from cil.data.images import Images

FORM = "one name per line in the order of the dataset's labels, or one line `class: words` for each class"


def named(images: Images, file: str) -> Images:
    """Return the dataset with the class names that a text file gives it: FORM. Empty lines are skipped.

    The names belong to the digest of the data; the listing, by which a finished run knows its data again, gets them too.
    """
    try:
        lines = [line.strip() for line in Path(file).expanduser().read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError):
        raise UserError(f"dataset.names={file} is no text file that can be read; type a file with {FORM}") from None
    own, pairs = images.class_names, [line.partition(":") for line in lines]
    if pairs and all(colon for _, colon, _ in pairs):
        names = _by_class(file, own, [(key.strip(), words.strip()) for key, _, words in pairs])
    elif len(lines) == len(own):
        names = tuple(lines)
    else:
        some = sum(bool(colon) for _, colon, _ in pairs)
        mixed = f", of which {some} have a colon" if some else ""
        raise UserError(f"dataset.names={file} has {len(lines)} names{mixed}, {images.name} has {len(own)} classes; "
                        f"write {FORM}")  # fmt: skip
    listing = hashlib.sha256("\n".join((images.listing, *names)).encode()).hexdigest()[:16]
    return replace(images, class_names=names, listing=listing)


def _by_class(file: str, own: tuple[str, ...], pairs: list[tuple[str, str]]) -> tuple[str, ...]:
    """Return the words of each class. Underscores and spaces in the classes are the same."""
    words = {plain(key): value for key, value in pairs}
    known = {plain(name): name for name in own}
    if unknown := [key for key, _ in pairs if plain(key) not in known]:
        raise UserError(f"dataset.names={file} names a class {unknown[0]} that there is not; {nearest(unknown[0], own)}")
    if twice := [key for key, count in Counter(plain(key) for key, _ in pairs).items() if count > 1]:
        raise UserError(f"dataset.names={file} has two lines for the class {known[twice[0]]}; remove one")
    if absent := [name for name in own if not words.get(plain(name))]:
        raise UserError(f"dataset.names={file} has no words for {len(absent)} of {len(own)} classes, first {absent[0]}; add a "
                        f"line `{absent[0]}: …`")  # fmt: skip
    return tuple(words[plain(name)] for name in own)


def plain(name: str) -> str:
    return name.replace("_", " ")
