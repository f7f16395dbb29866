"""Tells what the runs of a sweep lack, together and each once, before the first of them starts."""

import sys
from collections.abc import Sequence

from cil.common.errors import UserError
from cil.engine.missing import missing
from cil.launch import run as front_door
from cil.launch.compose import compose, lines
from cil.runs.run_folder import run_of
from cil.runs.settings import checked

NO_MATTER = ("seed", "optim", "train", "schedule", "modifier", "save", "objective", "hydra")  # settings that need nothing


def check_sweep(words: list[str]) -> bool:
    """Tell what the runs of a sweep lack, all together; returns whether none of them can run."""
    try:
        found, lack, runs = lacking(words)
    except Exception:  # of the words themselves, which Hydra tells
        return False
    if found:
        front_door.tell(UserError("\n".join(found)))
        front_door.TOLD.extend(found)
        rest = "" if lack == runs else "; the others are run"
        print(f"this concerns {lack} of {runs} runs{rest}", file=sys.stderr, flush=True)
    return bool(found) and lack == runs


def lacking(words: Sequence[str]) -> tuple[list[str], int, int]:
    """What the unfinished runs of a sweep lack, the number of runs that lack something, and the number of all runs.

    Settings that are wrong in another way are told by the runs themselves. Jobs on a cluster may see other files than this
    machine, so for them only settings are checked.
    """
    files = not any(word.startswith("hydra/launcher=") and "slurm" in word for word in words)
    runs = list(lines([word for word in words if not word.startswith("-")]))
    alike: dict[tuple[str, ...], list[list[str]]] = {}
    for line in runs:
        alike.setdefault(tuple(word for word in line if matters(word)), []).append(line)
    found: dict[str, None] = {}
    count = 0
    for settings, own in alike.items():
        try:
            needs = missing(checked(compose(*settings)), files=files)
            open_ones = [line for line in own if needs and not finished(line)]
        except Exception:
            continue
        found |= dict.fromkeys(needs if open_ones else ())
        count += len(open_ones)
    return list(found), count, len(runs)


def matters(word: str) -> bool:
    key = word.lstrip("+~").partition("=")[0]
    return key.partition(".")[0].partition("/")[0] not in NO_MATTER and not key.startswith("method.")


def finished(line: Sequence[str]) -> bool:
    config = checked(compose(*(word for word in line if not word.startswith("hydra"))))
    return run_of(config).is_done
