"""A hook of mkdocs that fills in what is written elsewhere.

`<!-- api MODULE -->` on a page becomes the docstrings and signatures of the module. A line `[All cells of the notebook](FILE)`
becomes the cells of a notebook in docs/, all but the first, which is its title; where the page is read as a file, it is a link.
"""

import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from cil.report.documents.source import api  # noqa: E402

PLACE = re.compile(r"<!-- api ([\w.]+) -->")
NOTEBOOK = re.compile(r"^\[All cells of the notebook\]\(([\w.]+)\)$", re.M)


def cells(file: Path) -> str:
    """The cells of a notebook but the first, as Markdown."""
    found = [(cell["cell_type"], "".join(cell["source"])) for cell in json.loads(file.read_text())["cells"]]
    return "\n\n".join(f"```python\n{text}\n```" if kind == "code" else text for kind, text in found[1:])


def on_page_markdown(markdown: str, **_: object) -> str:
    markdown = NOTEBOOK.sub(lambda found: cells(ROOT / "docs" / found.group(1)), markdown)
    return PLACE.sub(lambda found: api(ROOT, found.group(1)), markdown)
