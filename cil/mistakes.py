"""What a user did wrong, said in one line: what was given, what was wanted, what to type."""

import difflib
from collections.abc import Iterable


class Mistake(Exception):
    """Its message is all that the user sees; `run.py` prints it without a traceback."""


def nearest(word: str, known: Iterable[str]) -> str:
    """The clause "did you mean …" or, when nothing is near, the list of what there is."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if near:
        return f"did you mean {near[0]}?"
    return f"there is {', '.join(known)}" if known else "there is none"
