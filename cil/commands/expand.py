"""Print the commands of a sweep, one per line, for a job array or another queue.

python scripts/expand.py method=finetune,joint seed=0,1,2 > sweep.txt
python scripts/expand.py --missing experiment=awpf_figure4/glyphs_10tasks
sbatch $(python scripts/expand.py --options sweep.txt) \\
    scripts/array.sbatch sweep.txt

The words are those of python run.py -m. --missing leaves out finished runs.
--options FILE prints the options of sbatch for a file of commands: the size of
the array and the settings of conf/hydra/launcher/submitit_slurm.yaml. Further
settings may follow, for example hydra.launcher.partition=long.
"""

import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from cil.commands.compose import compose, guarded
from cil.commands.runs import lines
from cil.common import places
from cil.common.errors import UserError
from cil.runs.run_folder import RunDir, address
from cil.runs.settings import checked

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
    missing = "--missing" in words
    return guarded(lambda: print_commands([word for word in words if word != "--missing"], missing))


def print_commands(words: list[str], missing: bool) -> None:
    wanted = [line for line in lines(words) if not (missing and finished(line))]  # a list, so that an error prints none
    for line in wanted:
        print(shlex.join([*places.entry(), *line]))


def finished(line: list[str]) -> bool:
    config = checked(compose(*line))
    return RunDir(Path(config["outputs"]) / address(config)).is_done


def options(file: str = "", *words: str) -> list[str]:
    """The options of sbatch for a file of commands."""
    if not Path(file).is_file():
        raise UserError(f"--options {file}: there is no such file; type --options FILE, where FILE has one command per line")
    with initialize_config_dir(str(places.CONF), version_base="1.3"):
        config = hydra_compose("config", ["hydra/launcher=submitit_slurm", *words], return_hydra_config=True)
    settings: Any = OmegaConf.to_container(config.hydra.launcher, resolve=True)
    count = len(Path(file).read_text().splitlines())
    if not count:
        raise UserError(f"--options {file}: the file is empty; if --missing wrote it, all runs are finished")
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
