"""Check that a method of your own keeps the contract of all methods.

cil test-method mylab.mine                    # the method mine of the plugin mylab
cil test-method mylab.mine train.epochs=60    # with other settings
cil test-method mylab.mine modifier=mine backbone=mine

It takes seconds to a minute: the images are six drawn characters. A modifier or
a backbone of yours is checked with a method.
"""

import argparse
import contextlib
import io
import tempfile
import warnings
from pathlib import Path

from cil.common.errors import UserError, sentence
from cil.launch.compose import compose, guarded


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("method", metavar="PLUGIN.METHOD", help="a plugin and the name of its method (conf/method); or METHOD")
    parser.add_argument("words", nargs="*", default=[], metavar="WORD", help="settings (key=value)")
    asked = parser.parse_args(words)
    return guarded(lambda: judged(asked.method, asked.words))


def judged(name: str, words: list[str]) -> int:
    """Run all checks, print a line for each, and return 1 if one does not hold."""
    import torch

    from cil.contract import Broken, Contract, characters, checks

    plugin, _, method = name.rpartition(".")
    chosen = ([f"plugins=[{plugin}]"] if plugin else []) + [f"method={method}", *words]
    compose(*chosen)  # a wrong name is told first
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    broken = 0
    with tempfile.TemporaryDirectory() as folder:
        place = (f"outputs={folder}/outputs", f"data.root={folder}/data")
        contract = Contract(lambda *more: compose(*place, *more), Path(folder), characters(Path(folder)), tuple(chosen))
        for promise, check in checks(contract):
            contract.said.clear()
            try:
                with contextlib.redirect_stdout(io.StringIO()):  # what the runs print
                    check()
                note = f" ({contract.said[-1]})" if contract.said else ""
                print(f"{'–' if note == ' (it has none)' else '✓'} {promise}{note}", flush=True)
            except UserError:
                raise
            except Exception as error:
                broken += 1
                print(f"✗ {promise}\n  {error if isinstance(error, Broken) else sentence(error)}", flush=True)
    print(f"{name} breaks {broken} of {len(checks(contract))} promises" if broken else f"{name} keeps the contract")
    return 1 if broken else 0
