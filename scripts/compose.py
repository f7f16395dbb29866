"""A command line's words to a plain configuration, without starting Hydra's main. Shared by the other scripts and the tests."""

import sys
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from hydra import compose as hydra_compose  # noqa: E402
from hydra import initialize_config_dir  # noqa: E402

from cil.mistakes import ELSEWHERE, explain  # noqa: E402
from run import plain  # noqa: E402


def compose(*words: str) -> dict:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return plain(hydra_compose("config", overrides=list(words)))


def options(group: str) -> list[str]:
    """The files of a group."""
    return sorted(file.stem for file in (ROOT / "conf" / group).glob("*.yaml"))


def guarded(work: Callable[[], int | None], elsewhere: str = ELSEWHERE) -> int:
    """A script's exit code: what `work` returns, or 2 after one line about the user's mistake."""
    try:
        return work() or 0
    except (Exception, KeyboardInterrupt) as error:
        line = explain(error, elsewhere=elsewhere)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        return 2
