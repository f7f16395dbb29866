"""Train and evaluate a run:   cil method=l2p scenario=glyphs_10tasks seed=0
Train and evaluate a sweep: cil -m method=finetune,joint seed=0,1,2
Use another command:        cil tables --help
"""

import importlib
import sys

from cil.common.errors import nearest

COMMANDS = {
    "options": "the options of every group of settings of a run",
    "tables": "accuracy, forgetting and backward transfer of finished runs",
    "results": "every finished run as a row of CSV, JSON or LaTeX",
    "why": "why two runs, or a run and a printed number, differ",
    "reproduce": "a published table beside ours",
    "report": "finished runs as one HTML page",
    "data": "fetch a dataset",
    "check-data": "whether a dataset is complete",
    "weights": "fetch pre-trained weights",
    "check": "whether a GPU gives the right numbers, and how fast it is",
    "pictures": "pictures of a run",
    "test-method": "whether a method of yours keeps the contract of all methods",
    "bench": "speed as ratios to a bare forward pass",
    "expand": "the commands of a sweep, one per line, for job arrays",
    "recover": "train the last blocks of a transformer on photographs",
    "move-runs": "move run folders of earlier versions to their address",
}
MODULES = {"data": "fetch_data", "weights": "fetch_weights", "check": "check_gpu"}


def main() -> int:
    """Run the command that the first word names; other words are settings of a run. Returns the exit code."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(f"{__doc__}\nCommands:\n")
        print("\n".join(f"  {command:<11} {text}" for command, text in COMMANDS.items()))
        return 0
    if name in COMMANDS and name != "options":
        own = MODULES.get(name, name.replace("-", "_"))
        module = importlib.import_module(f"cil.commands.{own}")
        module.__doc__ = (module.__doc__ or "").replace(f"python scripts/{own}.py", f"cil {name}")
        sys.argv = [f"cil {name}", *sys.argv[2:]]
        return module.main() or 0
    if name == "options":
        sys.argv = ["cil", "--help"]
    elif name.replace("-", "").isalpha() and not name.startswith("-"):
        print(f"error: there is no command {name}; {nearest(name, COMMANDS)}", file=sys.stderr)
        return 2
    from cil.launch.run import front_door

    return front_door()
