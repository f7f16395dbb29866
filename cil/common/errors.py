"""Error messages for users, one line each: what was given, what is expected and what to type."""

import difflib
import errno
import re
import shlex
from collections.abc import Callable, Iterable, Sequence

from cil.common.places import as_typed_here, entry

ELSEWHERE = "type outputs=DIR (and data.root=DIR)"
OF_PLUGINS = ("method", "modifier", "backbone", "dataset", "scenario")  # groups of which users have options of their own
SHOW = "TRACE=1 before the command shows where"


class UserError(Exception):
    """An error that the user can correct. `run.py` prints its message without a traceback."""


def nearest(word: str, known: Iterable[str], where: str = "") -> str:
    """Return a hint: "did you mean …" with the most similar known word, or the list of known words if none is similar.

    `where`: a command that lists them, named if they are too many to list here.
    """
    known = sorted({*known})
    many = len(known) > 40
    lower = {name.lower(): name for name in known}
    if near := difflib.get_close_matches(word.lower(), lower, n=1, cutoff=0.45 if many else 0.6):
        return f"did you mean {lower[near[0]]}?"
    if many:
        return f"see {where}" if where else f"choose one of {len(known)}, such as {', '.join(known[:3])}"
    return f"choose from {', '.join(known)}" if known else "there is none"


def sentence(error: BaseException) -> str:
    """Return the class name and the first line of an error's message, or the class name alone if the message is empty."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def explain(error: BaseException, keys: Callable[[], Iterable[str]] = tuple, elsewhere: str = ELSEWHERE) -> str | None:
    """Return the line that a user sees instead of a traceback, or None if the error is a bug of this project.

    `keys` returns the configuration's keys, from which a similar one is suggested. `elsewhere` says how to choose another
    folder.
    """
    line = _explained(error, keys, elsewhere)
    return None if line is None else as_typed_here(line)


def _explained(error: BaseException, keys: Callable[[], Iterable[str]], elsewhere: str) -> str | None:
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; type the same command to resume from the last checkpoint"
    text = " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError) or "can't allocate memory" in text:
        return "out of memory; lower train.batch_size or machine.eval_batch_size, or type machine.precision=bf16"
    if isinstance(error, OSError) and (error.filename is not None or error.errno == errno.ENOSPC):
        return _explain_file(error, elsewhere)
    if "PytorchStreamWriter failed" in text or "No space left on device" in text:
        return _explain_file(OSError(errno.ENOSPC, "", "the run folder"), elsewhere)
    if "No trials are completed yet" in text:  # Optuna
        return "every trial of the search failed, so there is no best one; mend what is told above and type it again"
    if "n_jobs == 0" in text:  # joblib
        return "hydra.launcher.n_jobs=0 starts nothing; type 1 or more, or -1 for all processors"
    if type(error).__module__.startswith(("hydra.", "omegaconf.")):
        return _explain_hydra(text, keys)
    if type(error).__module__.startswith("submitit.") or 'detect "srun"' in text:
        return _explain_launcher(text)
    return None


def _explain_file(error: OSError, elsewhere: str) -> str:
    file = error.filename or "outputs or data.root"
    if error.errno == errno.ENOSPC:
        return f"the disk of {file} is full; free some space and type the same command, or {elsewhere} for another disk"
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"{file} cannot be read or written; {elsewhere} for a folder that can"
    return f"{file}: {error.strerror}; check the path, or {elsewhere} for another"


def _explain_launcher(text: str) -> str | None:
    """Explain errors of submitit and SLURM, and jobs that ended without a result."""
    if found := re.search(r"Job (\S+) \(task: \d+\) with path (\S+)_result\.pkl has not .*?\(state: (\w+)", text):
        return f"job {found[1]} ended without a result ({found[3]}), see {found[2]}_log.err; type the same command to resume"
    if "too many times" in text:
        return "a job reached its time limit too often; type the same command, with hydra.launcher.max_num_timeout=… for longer"
    if 'detect "srun"' in text:
        return "SLURM was not found (no srun); type hydra/launcher=joblib to use this machine alone"
    if found := re.search(r"(sbatch: error: .*)", text):
        return f"the scheduler refused ({found[1]}); see conf/hydra/launcher/submitit_slurm.yaml for the options that are sent"
    return None


def _option(group: str, option: str, known: Sequence[str]) -> str:
    """A hint for an unknown option of a group, which a plugin may have that was not named."""
    from cil.common import plugins  # which raises the errors of this file

    if there := plugins.hint(group, option):
        return there
    own = group in OF_PLUGINS and not plugins.active() and not difflib.get_close_matches(option, known, 1, 0.8)
    return nearest(option, known) + (" (or add plugins=[PACKAGE], if a package of yours has it)" if own else "")


def _explain_hydra(text: str, keys: Callable[[], Iterable[str]]) -> str:
    """Rewrite an error of Hydra in one line. Its message is parsed, since Hydra raises few classes of error."""
    if found := re.search(r"UserError raised while resolving interpolation: (.*?)(?: full_key: |$)", text):
        return found[1]
    if "INTERVAL_SWEEP" in text:
        return "interval(…) is a range, of which a grid has no values; type hydra/sweeper=optuna too, or see docs/search.md"
    if found := re.search(r"Could not load '([^']+)/([^'/]+)'", text):
        return f"{found[1]}={found[2]} is not known; see python run.py --help for the options"
    if found := re.search(
        r"Could not find '([^']+)/([^'/]+)' Available options in '[^']+': (.*?)(?: Config search path|$)", text
    ):
        return f"{found[1]}={found[2]} is not known; {_option(found[1], found[2], re.split('[ ,]+', found[3].strip()))}"
    if found := re.search(r"Could not override '([^']+)'", text):
        if found[1] in (known := [*keys()]):  # of the first option of each group in a sweep
            return f"{found[1]} is not a setting of all runs of this sweep; sweep those that have it alone"
        parent = found[1].rpartition(".")[0]
        if parent in known and not {key for key in known if key.startswith(f"{parent}.")} - {f"{parent}._target_"}:
            return f"there is no setting {found[1]}, since {parent} has none with these options; leave it out"
        return f"there is no setting {found[1]}; {nearest(found[1], known, f'{shlex.join(entry())} --cfg job')}"
    if found := re.search(r"Could not append to config\. An item is already at '([^']+)'", text):
        return f"{found[1]} is a setting already; leave out the +"
    if found := re.search(r"Missing mandatory value: .*?full_key: ([^ ]+)", text):
        return f"{found[1]} has no value; type {found[1]}=…"
    if found := re.search(r"Error resolving interpolation '([^']+)', possible interpolation keys: (.*)", text):
        gone = set(re.findall(r"\$\{(\w+)\}", found[1])) - set(re.split("[ ,]+", found[2]))
        return f"{min(gone, default=found[1])} is missing; leave out the word that deletes it"
    if found := re.search(r"Error parsing override '([^']+)'", text):
        return f"{found[1]!r} cannot be read; type key=value, in quotes where the value has brackets or spaces"
    if any(words in text for words in ("mismatched input", "no viable alternative", "token recognition", "LexerNoViableAlt")):
        return f"the command line cannot be read ({text.split(' See https')[0]}); quote values with brackets or spaces"
    return text
