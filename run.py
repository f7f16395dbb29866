"""The front door: compose, build, fit, write. The only file that sees a DictConfig; heavy imports wait until a run starts.

    python run.py method=finetune scenario=glyphs_10tasks seed=0
"""

import os
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig, OmegaConf

from cil.mistakes import Mistake, explain
from cil.rundir import RunDir, address, names
from cil.signals import EXIT_CODE, Stopped, stop_request

os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come to `front_door`, which says them in one line
OmegaConf.register_new_resolver("address", lambda *, _root_: address(plain(_root_)))


def plain(config: DictConfig) -> dict:
    """The resolved configuration as nested dictionaries, less Hydra's own."""
    ours = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    return OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    wanted = plain(config)
    run = RunDir(Path(wanted["outputs"]) / address(wanted))
    if not run.is_done:
        execute(wanted, run)
        return
    from cil.report.table import one_line

    print(f"done already: {one_line(run.summary())}\n{run.path}")


def execute(config: dict, run: RunDir) -> None:
    """One run, from its configuration to its DONE."""
    run.open(config)
    from cil.build import device_of, experiment  # torch and all that follows
    from cil.finish import finish

    with stop_request() as stop:
        trainer = experiment(config, run, device_of(config["machine"]["device"]), stop)
        trainer.log.say(f"{' · '.join(names(config))} · seed {config['seed']} → {run.path}")
        trainer.fit()
        finish(trainer, config)


def front_door() -> int:
    try:
        main()
    except Stopped as stopped:
        print(f"stopped by {stopped} with a checkpoint; the same command goes on from it", file=sys.stderr)
        return EXIT_CODE
    except (Exception, KeyboardInterrupt) as error:
        line = explain(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 130 if isinstance(error, KeyboardInterrupt) else 2
    return 0


if __name__ == "__main__":
    sys.exit(front_door())
