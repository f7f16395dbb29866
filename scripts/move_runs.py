"""Move run folders to the address that their configuration has in this version."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.move_runs import main

if __name__ == "__main__":
    sys.exit(main())
