"""Check that results on a GPU can be trusted, and measure its speed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.check_gpu import main

if __name__ == "__main__":
    sys.exit(main())
