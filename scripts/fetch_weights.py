"""Download pre-trained weights, verify them and record their sha256."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.fetch_weights import main

if __name__ == "__main__":
    sys.exit(main())
