"""Train and evaluate one run, or a sweep of runs: python run.py method=finetune scenario=glyphs_10tasks seed=0."""

import sys

from cil.launch.run import front_door

if __name__ == "__main__":
    sys.exit(front_door())
