"""Print the commands of a sweep, one per line, for a job array or another queue.

python scripts/expand.py method=finetune,joint seed=0,1,2 > sweep.txt
python scripts/expand.py --missing experiment=awpf_figure4/glyphs_10tasks
python scripts/expand.py --draws 20 method=finetune \\
    'optim.lr=tag(log,interval(0.001,0.1))' scenario.validation=0.1
sbatch $(python scripts/expand.py --options sweep.txt) \\
    scripts/array.sbatch sweep.txt

The words are those of python run.py -m; settings of a launcher are left out.
--missing leaves out finished runs.
--stacked prints one line for each group of runs that hydra/launcher=stacked
trains together, so that a group is one task of the array.
--draws N prints N runs with random values instead of all combinations;
--draw-seed 1 prints others. Ranges are interval(a,b),
tag(log,interval(a,b)) for values whose logarithm is drawn, and
int(interval(a,b)) for whole numbers.
--options FILE prints the options of sbatch for a file of commands: the size of
the array and the settings of conf/hydra/launcher/submitit_slurm.yaml. Further
settings may follow, for example hydra.launcher.partition=long.
"""

import math
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from cil.common import places
from cil.common.errors import UserError
from cil.launch.compose import Composer, compose, drawn, find_plugins, guarded, launcher, lines
from cil.runs.run_folder import run_of
from cil.runs.settings import checked

COMMAND = re.compile(r"(?!\s*#).*\b(run\.py|cil)\b")
RENAMED = {"name": "job-name", "timeout_min": "time", "mem_gb": "mem", "tasks_per_node": "ntasks-per-node"}
WRITTEN = {"mem_gb": "{}G", "signal_delay_s": "B:USR1@{}"}
ELSEWHERE = ("_target_", "submitit_folder", "stderr_to_stdout", "max_num_timeout", "array_parallelism", "setup")


def main() -> int:
    words = [word for word in sys.argv[1:] if word not in ("-m", "--multirun")]
    if not words or {"-h", "--help"} & set(words):
        print(__doc__)
        return 0
    if words[0] == "--options":
        return guarded(lambda: print(shlex.join(options(*words[1:]))))
    return guarded(lambda: print_commands(words))


def print_commands(words: list[str]) -> None:
    draws, seed = number(words, "--draws", 1), number(words, "--draw-seed", 0)
    missing, words = "--missing" in words, [word for word in words if word != "--missing"]
    if seed is not None and draws is None:
        raise UserError("--draw-seed chooses random values; type --draws 20 too")
    stacked = "--stacked" in words
    words = [word for word in words if word != "--stacked"]
    compose = Composer()
    find_plugins(words)
    found = lines(words) if draws is None else drawn(words, draws, seed or 0)
    each = [
        (line, checked(compose(*of_run(line)))) for line in dict.fromkeys(map(tuple, found))
    ]  # so that an error prints none
    wanted = [[*line] for line, config in each if not (missing and run_of(config).is_done)]
    for line in groups(wanted) if stacked else wanted:
        print(shlex.join([*places.entry(), *(line if stacked else of_run(line))]))


def of_run(line: Iterable[str]) -> list[str]:
    """The words that are settings of a run, and not of a launcher."""
    return [word for word in line if not word.lstrip("+~").startswith("hydra")]


def groups(runs: list[list[str]]) -> Iterator[list[str]]:
    """Yield a sweep for each group of runs that hydra/launcher=stacked trains together, and each other run alone."""
    from cil.launch.stacked import group_of

    together: dict[str, list[list[str]]] = {}
    for line in runs:
        together.setdefault(group_of(checked(compose(*line))), []).append(line)
    for group in together.values():
        columns = [list(dict.fromkeys(column)) for column in zip(*group)]
        if len(group) == 1 or math.prod(map(len, columns)) != len(group):
            yield from group
        else:
            joined = [",".join([words[0], *(word.partition("=")[2] for word in words[1:])]) for words in columns]
            yield ["-m", *joined, "hydra/launcher=stacked"]


def number(words: list[str], option: str, least: int) -> int | None:
    """Remove an option and its value from the words; returns the value, or None if the option is not there."""
    if option not in words:
        return None
    at = words.index(option)
    _, value = words.pop(at), words.pop(at) if at < len(words) - 1 else ""
    if not value.isdecimal() or int(value) < least:
        raise UserError(f"{option} {value} is not a whole number of at least {least}; type {option} 20")
    return int(value)


def options(file: str = "", *words: str) -> list[str]:
    """The options of sbatch for a file of commands."""
    if not Path(file).is_file():
        raise UserError(f"--options {file}: there is no such file; type --options FILE, where FILE has one command per line")
    settings = launcher("submitit_slurm", *words)
    count = len(Path(file).read_text().splitlines())
    if not count:
        raise UserError(f"--options {file}: the file is empty; if --missing wrote it, all runs are finished")
    if other := next((line for line in Path(file).read_text().splitlines() if not COMMAND.match(line)), None):
        raise UserError(f"--options {file}: {other[:40]!r} starts no run; type a file that expand.py wrote")
    return [f"--array=1-{count}%{settings['array_parallelism']}", *flags(settings)]


def flags(settings: dict) -> Iterator[str]:
    """Translate the settings of the submitit launcher to options of sbatch."""
    further = settings.pop("additional_parameters")
    for key, value in settings.items():
        if value is not None and key not in ELSEWHERE:
            name = "signal" if key == "signal_delay_s" else RENAMED.get(key, key.replace("_", "-"))
            yield f"--{name}={WRITTEN.get(key, '{}').format(value)}"
    for key, value in further.items():
        yield f"--{key}" if value is True else f"--{key}={value}"
