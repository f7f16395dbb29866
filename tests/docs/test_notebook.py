"""The notebook of docs/ runs from a fresh folder, shows what it names, and holds no outputs that would grow old."""

import json
import os
import re
import subprocess
import sys

import pytest

from scripts.docs_hook import on_page_markdown
from tests.harness import ROOT

BOOK = json.loads((ROOT / "docs" / "python.ipynb").read_text())
CODE = ["".join(cell["source"]) for cell in BOOK["cells"] if cell["cell_type"] == "code"]


def test_it_holds_no_outputs():
    assert BOOK["nbformat"] == 4 and len({cell["id"] for cell in BOOK["cells"]}) == len(BOOK["cells"])
    for cell in BOOK["cells"]:
        assert cell["cell_type"] == "markdown" or (cell["outputs"] == [] and cell["execution_count"] is None)


@pytest.mark.parametrize("word", [
    "cil.run(", "cil.load(", "run.accuracy", "run.summary", "run.identity", "run.events", "run.method.predict(",
    "run.predictions", "run.per_class", "run.confusion", "cil.results(",
])  # fmt: skip
def test_it_shows(word):
    assert word in "\n".join(CODE)


def test_it_runs(tmp_path):
    """All cells in one process, as a kernel runs them, in an empty folder."""
    (tmp_path / "cells.py").write_text("\n".join(CODE))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CIL_DATA": str(tmp_path / "data")}
    env.pop("CIL_OUTPUTS", None)
    done = subprocess.run([sys.executable, "cells.py"], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "torch.Size([5, 100])" in done.stdout and "(500, 100) float16" in done.stdout
    assert re.search(r"^class_mean 0 \d+\.\d -?\d+\.\d$", done.stdout, re.M) and "\ncontinual_clip 0 " in done.stdout
    assert len(list(tmp_path.glob("outputs/glyphs_10tasks/*/*/seed0/DONE"))) == 2


def test_the_page_shows_its_cells():
    file = (ROOT / "docs" / "notebook.md").read_text()
    page = on_page_markdown(file)
    assert all(f"```python\n{code}\n```" in page for code in CODE) and "All cells" not in page
    assert "\n[All cells of the notebook](python.ipynb)\n" in file and "<!--" not in file, "where it is read as a file"
    assert page.count("\n# ") == 0, "one title"
