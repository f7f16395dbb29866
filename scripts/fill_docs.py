"""Update the generated blocks of README.md and docs/ from code, YAML and runs.

Runs that are missing are run first, except by `generated`.

python scripts/fill_docs.py BLOCK [KEY=VALUE ...]

  generated    from code and YAML only; takes seconds
  start        the 60-second run of README.md, and curves on Split-Glyphs
  prompts      the effect of gradient projection; prompts on CLIP
  switches     each setting on which a paper and its code differ, one at a time
  across       two datasets, one after the other
  sweeps       tables 6, 7 and 8 of AttriCLIP on Split-Glyphs
  adapters     RAPF and AWPF: merges, λ, features, images encoded
  locality     DyTox and Raw from scratch, with three kinds of attention
  locality_photographs  DyTox on TinyImageNet; only finished runs (needs dataset.md5=…)
  baselines    the baselines, pre-trained and from scratch
  orders       methods of 2023 to 2026, three class orders; only finished runs
  text         the time that packed text saves
  photographs  finetune and joint on TinyImageNet (needs dataset.md5=…)
  recovered    finished runs with the recovered ViT-S/14
  optuna       the search of docs/search.md (needs hydra-optuna-sweeper)
  rates        learning rates on held-out images; only finished runs
  stacked      kernels and CPU time of several runs in one pass
  fuzz         the records of `make fuzz`

`make reproduce TABLE=glyphs` fills the table of all methods, and
`python scripts/demo.py --docs` that of the demo. A block is the text between
`<!-- NAME -->` and `<!-- /NAME -->` on exactly one page.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.pictures import draw, nonlocality_of
from cil.commands.tables import sweep
from cil.launch.compose import Composer, guarded, options, swept
from cil.launch.runs import OUTPUTS, found, run, side_by_side, workers
from cil.report.documents import (
    adapters,
    clip,
    comparisons,
    generated,
    locality,
    projection,
    records,
    recovered,
    searched,
    stacked,
    start,
)
from cil.report.documents.project import Project

BLOCKS = {
    "generated": generated.fill_all,
    "start": start.fill_all,
    "prompts": projection.prompts,
    "switches": projection.switches,
    "across": lambda at, settings: at.fill("across", clip.alphabets(at, settings)),
    "sweeps": lambda at, settings: at.fill("sweeps", clip.sweeps(at, settings)),
    "adapters": adapters.fill_all,
    "locality": locality.fill_all,
    "locality_photographs": locality.on_photographs,
    "baselines": lambda at, settings: at.fill("baselines", comparisons.baselines(at, settings)),
    "orders": comparisons.orders,
    "text": records.text,
    "photographs": records.photographs,
    "recovered": recovered.recovered,
    "optuna": searched.optuna,
    "rates": searched.rates,
    "stacked": lambda at, settings: at.fill("stacked", stacked.stacked(at, settings)),
    "fuzz": records.fuzz,
}

ROOT = Path(__file__).resolve().parent.parent


def project(root: Path = ROOT) -> Project:
    return Project(root, OUTPUTS, Composer(), options, swept, run, found, side_by_side, workers, draw, nonlocality_of, sweep)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("block", choices=BLOCKS, metavar="BLOCK", help="see above")
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    asked = parser.parse_args()
    return guarded(lambda: BLOCKS[asked.block](project(), asked.settings))


if __name__ == "__main__":
    sys.exit(main())
