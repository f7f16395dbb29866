"""Run the experiments of a published table and compare with its numbers."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.reproduce import main

if __name__ == "__main__":
    sys.exit(main())
