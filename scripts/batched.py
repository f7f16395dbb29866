"""Run a sweep in one process, training similar runs together."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.batched import main

if __name__ == "__main__":
    sys.exit(main())
