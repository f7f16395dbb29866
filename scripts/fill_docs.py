"""Fill the generated blocks of README.md and docs/: from code and YAML at once, from runs where they are missing.

python scripts/fill_docs.py generated                      # from code and YAML alone; seconds
python scripts/fill_docs.py start                          # the 60-second run and the curves of README.md
python scripts/fill_docs.py prompts                        # what gradient projection does; prompts on CLIP
python scripts/fill_docs.py switches                       # each switch between a paper and its code, one at a time
python scripts/fill_docs.py across                         # two datasets, one after the other
python scripts/fill_docs.py sweeps                         # tables 6, 7 and 8 of AttriCLIP on Split-Glyphs
python scripts/fill_docs.py adapters                       # RAPF and AWPF: merges, λ, features, what is encoded
python scripts/fill_docs.py locality                       # DyTox and Raw from scratch, under three kinds of attention
python scripts/fill_docs.py baselines                      # the baselines, pre-trained and from scratch
python scripts/fill_docs.py text                           # what packed text saves
python scripts/fill_docs.py photographs dataset.md5=…      # finetune and joint on TinyImageNet
python scripts/fill_docs.py fuzz                           # what `make fuzz` tried

`make reproduce TABLE=glyphs` fills the table of all methods, `python scripts/demo.py --docs` that of the demo. A block stands
between `<!-- NAME -->` and `<!-- /NAME -->` on one page, which the command finds by itself.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.report.documents import adapters, baselines, clip, generated, locality, projection, records, reliability, start
from cil.report.documents.project import Project
from scripts.compose import ROOT, compose, guarded, options, swept
from scripts.pictures import draw, nonlocality_of
from scripts.runs import OUTPUTS, found, run, side_by_side, workers
from scripts.tables import sweep

BLOCKS = {
    "generated": generated.fill_all,
    "start": start.fill_all,
    "prompts": projection.prompts,
    "switches": projection.switches,
    "across": lambda at, settings: at.fill("across", clip.alphabets(at, settings)),
    "sweeps": lambda at, settings: at.fill("sweeps", clip.sweeps(at, settings)),
    "adapters": adapters.fill_all,
    "locality": locality.fill_all,
    "baselines": lambda at, settings: at.fill("baselines", baselines.baselines(at, settings)),
    "text": records.text,
    "photographs": records.photographs,
    "fuzz": reliability.fill_fuzz,
}


def project(root: Path = ROOT) -> Project:
    return Project(root, OUTPUTS, compose, options, swept, run, found, side_by_side, workers, draw, nonlocality_of, sweep)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("block", choices=BLOCKS)
    parser.add_argument("settings", nargs="*", metavar="KEY=VALUE")
    asked = parser.parse_args()
    return guarded(lambda: BLOCKS[asked.block](project(), asked.settings))


if __name__ == "__main__":
    sys.exit(main())
