"""Explain why two results differ: compare runs, sweeps, or a published row."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.why import main

if __name__ == "__main__":
    sys.exit(main())
