"""What a user did wrong, said in one line: what was given, what was wanted, what to type."""

import difflib
import errno
import re
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


def explain(error: BaseException) -> str | None:
    """The line that a user should see instead of a traceback, or None where the fault is the project's own."""
    if isinstance(error, Mistake):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; the same command goes on from the last checkpoint"
    name = type(error).__name__
    if name == "OutOfMemoryError" or isinstance(error, MemoryError) or "can't allocate memory" in str(error):
        return "out of memory; lower train.batch_size or machine.eval_batch_size, or type machine.precision=bf16"
    if isinstance(error, OSError) and error.filename is not None:
        return _of_file(error)
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return "the disk is full; free some space, or type outputs=DIR (and data.root=DIR) for another disk"
    return _of_hydra(error) if type(error).__module__.startswith(("hydra.", "omegaconf.")) else None


def _of_file(error: OSError) -> str:
    file = error.filename
    if error.errno == errno.ENOSPC:
        return f"the disk of {file} is full; free some space, or type outputs=DIR (and data.root=DIR) for another disk"
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"{file} cannot be written; type outputs=DIR (and data.root=DIR) for a folder that can"
    return f"{file}: {error.strerror}; check the path, or type outputs=DIR (and data.root=DIR) for another"


def _of_hydra(error: BaseException) -> str:
    """Hydra's refusals, with the nearest thing that exists. Messages are read, since Hydra raises few kinds of error."""
    text = " ".join(str(error).split())
    if found := re.search(r"Could not find '([^']+)'.* Available options in '([^']+)': (.*?)(?: Config search path|$)", text):
        group, _, option = found[1].rpartition("/")
        return f"{group}={option} is not known; {nearest(option, re.split('[ ,]+', found[3]))}"
    if found := re.search(r"Could not override '([^']+)'.*?(?:Did you mean to override ([^?]+)\\?|$)", text):
        return f"there is no group or key {found[1]}; {f'did you mean {found[2]}?' if found[2] else 'see python run.py --help'}"
    if found := re.search(r"Key '([^']+)' is not in struct.*full_key: (\\S+)", text):
        return f"there is no key {found[2]}; see python run.py --cfg job for the keys there are"
    if found := re.search(r"Missing mandatory value: (\\S+)", text):
        return f"{found[1]} has no value; type {found[1]}=…"
    return text
