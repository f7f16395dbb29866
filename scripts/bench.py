"""Measure the speed of training and testing, relative to the bare backbone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.bench import main

if __name__ == "__main__":
    sys.exit(main())
