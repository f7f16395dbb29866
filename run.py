"""The front door: compose, build, fit, write. The only file that sees a DictConfig; heavy imports wait until a run starts.

python run.py method=finetune scenario=glyphs_10tasks seed=0
"""

import hashlib
import os
import sys
import traceback
import warnings
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from cil.common.errors import SHOW, UserError, explain, sentence
from cil.common.signals import EXIT_CODE, Stopped, stop_request
from cil.runs.command_line import refuse
from cil.runs.precision import settled
from cil.runs.run_folder import RunDir, address, follows, names, run_at
from cil.runs.settings import checked, of_reading

warnings.filterwarnings("ignore", r"\s*'hydra/launcher/submitit")  # ours bear the plugin's names, so that nobody gets its own
os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # errors come here, where they are said in one line
OmegaConf.register_new_resolver("address", lambda *, _root_: address(checked(plain(_root_))))
OmegaConf.register_new_resolver("reading", lambda paper, released, *, _root_: of_reading(_root_.reading, paper, released))
CONF = str(Path(__file__).resolve().parent / "conf")
FRONT, FAILED = os.getpid(), []  # jobs of a sweep that failed in this process; a launcher's own processes raise as well


def plain(config: DictConfig) -> dict:
    """The resolved configuration as nested dictionaries, less Hydra's own."""
    ours = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
    return OmegaConf.to_container(ours, resolve=True, throw_on_missing=True)


@hydra.main(version_base="1.3", config_path=CONF, config_name="config")
def main(config: DictConfig) -> None:
    if os.getpid() != FRONT:  # a launcher's process, whose own words say nothing
        sys.argv = ["run.py", *HydraConfig.get().overrides.task]
    try:
        wanted = checked(plain(config))
        run = run_at(Path(wanted["outputs"]) / address(wanted))
        if run.is_done:
            from cil.common.tables import one_line

            line = f"done already: {one_line(verified(run, wanted))}\n{run.path}"
            print(line, flush=True) if not follows() else None
        else:
            execute(wanted, run)
    except Stopped as stopped:
        print(f"stopped by {stopped}; what is done is kept, and the same command goes on from there", file=sys.stderr)
        sys.exit(EXIT_CODE)  # also out of a sweep
    except BrokenPipeError:
        raise
    except Exception as error:
        known = tell(error)
        if not known and os.getpid() != FRONT:
            traceback.print_exc()  # in the job's own log; the launcher brings home the error without it
        if not known or os.getpid() != FRONT:
            raise


def verified(run: RunDir, config: dict) -> dict:
    """The summary of a finished run, unless the weights or the images that it was made with have changed."""
    from cil.backbones.weights import at_hand, releases

    summary = run.summary()
    if file := at_hand(config["backbone"].get("weights"), config["data"]["weights"]):
        with file.open("rb") as opened:
            found = hashlib.file_digest(opened, "sha256").hexdigest()
        if found != summary["identity"]["weights_sha256"] and found not in releases(config["backbone"]["weights"]):
            raise UserError(f"{file} is no longer the file that {run.path} was made with; type backbone.sha256={found}")
    if listing := summary.get("data_listing"):
        from cil.engine.build import data_digest, listing_of

        try:
            same = listing_of(config) == listing or data_digest(config) == summary["identity"]["data_digest"]
        except UserError as error:  # for example, they are no longer there
            print(f"the images of this run were not compared with those on the disk: {error}", flush=True)
            same = True
        if not same:
            raise UserError(f"the images have changed since {run.path} was made; type outputs=DIR to keep both results, or "
                            "delete that folder")  # fmt: skip
    return summary


def execute(config: dict, run: RunDir) -> None:
    """One run, from its configuration to its DONE."""
    config = settled(config)
    with stop_request() as stop, run.open(config):  # the folder is free again before a launcher requeues the job
        if run.is_done:  # by the process that had the folder a moment ago
            return
        from cil.engine.build import device_of, experiment  # torch and all that follows
        from cil.engine.processes import own_device
        from cil.engine.summary import finish

        trainer = experiment(config, run, own_device(device_of(config["machine"]["device"])), stop)
        trainer.log.say(f"{' · '.join(names(config))} · seed {config['seed']} → {run.path}")
        try:
            trainer.fit()
            if not follows():
                finish(trainer, config)
        except Exception as error:
            error.in_run = True
            raise
        finally:
            trainer.log.close()
        if stop:
            raise Stopped(stop.name)  # asked for while the run was ending: what would come next does not begin


def tell(error: BaseException) -> bool:
    """Print the one line for a user's mistake; false where the fault is the project's own.

    Whatever happens before a run has begun is what was typed: then the library's own words have to do.
    """
    if os.environ.get("TRACE"):  # TRACE=1 python run.py …: the traceback
        return False
    line = explain(error, settings)
    if line is None and not getattr(error, "in_run", False):
        line = f"{sentence(error)}; {SHOW}"
    if line is not None:
        print(f"error: {line}", file=sys.stderr, flush=True)
        FAILED.append(line)
    return line is not None


def settings() -> list[str]:
    """Every key of the configuration that the chosen options make, for the nearest match to a wrong one."""
    groups = sorted(folder.name for folder in Path(CONF).iterdir() if folder.is_dir())
    pairs = (word.split("=") for word in sys.argv[1:] if word.count("=") == 1)
    words = [f"{group}={option.split(',')[0]}" for group, option in pairs if group in groups]
    with hydra.initialize_config_dir(CONF, version_base="1.3"):
        config = OmegaConf.to_container(hydra.compose("config", words), resolve=False)

    def flat(node: object, prefix: str) -> list[str]:
        inner = node.items() if isinstance(node, dict) else ()
        return [prefix, *(key for name, value in inner for key in flat(value, f"{prefix}.{name}"))]

    return groups + [key for name, node in config.items() for key in flat(node, name)]


def options(words: list[str]) -> None:
    """Refuse options that Hydra does not know, in one line instead of its usage."""

    def refused(message: str) -> None:
        raise UserError(f"{message}; see python run.py --help")

    parser = get_args_parser()
    parser.error = refused
    parser.parse_args([word for word in words if word not in ("--help", "-h", "--version")])


def front_door() -> int:
    FAILED.clear()
    try:
        options(sys.argv[1:])
        refuse(sys.argv[1:], Path(CONF))
        main()
    except BrokenPipeError:  # into head, which has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (Exception, KeyboardInterrupt) as error:
        if not tell(error):
            raise
    return 2 if FAILED else 0


if __name__ == "__main__":
    found = os.environ.get("PYTHONPATH", "")  # of a launcher's processes, which must find cil
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(CONF).parent), found]))
    sys.exit(front_door())
