"""What the random tests tried, for the table of docs/reliability.md: `make fuzz` asks for it."""

import json
import os
from pathlib import Path

TIMES = int(os.environ.get("FUZZ", 1))  # how much more than in make test


def record(what: str, **numbers: int) -> None:
    if file := os.environ.get("FUZZ_RECORD"):
        with Path(file).open("a") as opened:
            opened.write(json.dumps({"what": what, **numbers}) + "\n")
