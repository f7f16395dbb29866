"""A hook of mkdocs: where a page says `<!-- api MODULE -->`, the module's docstrings and signatures are put at build time."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cil.report.documents.source import api  # noqa: E402

PLACE = re.compile(r"<!-- api ([\w.]+) -->")


def on_page_markdown(markdown: str, **_: object) -> str:
    return PLACE.sub(lambda found: api(ROOT, found.group(1)), markdown)
