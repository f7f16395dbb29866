"""A hook of mkdocs that replaces `<!-- api MODULE -->` on a page by the docstrings and signatures of the module."""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cil.report.documents.source import api  # noqa: E402

PLACE = re.compile(r"<!-- api ([\w.]+) -->")


def on_page_markdown(markdown: str, **_: object) -> str:
    return PLACE.sub(lambda found: api(ROOT, found.group(1)), markdown)
