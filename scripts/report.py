"""Write the finished runs as one HTML page. It needs no network, server or script."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cil.commands.report import main

if __name__ == "__main__":
    sys.exit(main())
