"""Blocks that are made from code and YAML are fresh; the API names what there is; the website builds."""

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import pytest

from cil.common.errors import UserError
from cil.report.documents import generated
from cil.report.documents.project import page_of
from cil.report.documents.source import api
from scripts.fill_docs import project
from tests.harness import ROOT, SHIPPED

API = re.findall(r"<!-- api ([\w.]+) -->", (ROOT / "docs" / "api.md").read_text())


@pytest.fixture(scope="module")
def blocks():
    return list(generated.blocks(project()))


def test_generated_blocks_are_fresh(blocks):
    assert {page.stem for page, block, _ in blocks if block == "settings"} == {*SHIPPED, "pgp", "nsp2"}
    for page, block, content in blocks:
        there = page.read_text().split(f"<!-- {block} -->\n")[1].split(f"\n<!-- /{block} -->")[0]
        assert there == content, f"{page.name}, {block}: type python scripts/fill_docs.py generated"


def test_what_is_generated_is_what_code_and_yaml_say(blocks):
    told = {(page.stem, block): content for page, block, content in blocks}
    assert "| `method.vote_test` | `false`, released: `true` | `bool` |" in told["l2p", "settings"]
    assert "| `method.memory` | `1000` | `int`" in told["icarl", "settings"] and "number of images" in told["icarl", "settings"]
    assert "| `method.train_text` | `false` | `true` |" in told["attriclip", "readings"]
    assert "| `dataset=glyphs` |" in told["dualprompt", "recipes"] and "`train.epochs=20`" in told["dualprompt", "recipes"]
    assert "pgp" in told["l2p", "measured"] and "attriclip" not in told["clip_prompt", "measured"]


def test_a_type_is_said_in_words():
    class Even:
        def words(self) -> str:
            return "from 2 on"

    assert generated.kind_of(Annotated[int, Even()] | None) == "`int` from 2 on or `null`"
    assert generated.kind_of(dict[str, int] | None) == "`null` or a mapping, each value `int`"
    assert generated.kind_of(dict[str, int | None]) == "a mapping, each value `int` or `null`"
    assert generated.kind_of(Literal["a", "b"]) == "`a` or `b`" and generated.kind_of(Sequence[str]) == "`Sequence[str]`"


def test_a_block_is_on_one_page(tmp_path):
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/one.md"):
        (tmp_path / name).write_text("<!-- x -->\n<!-- /x -->\n")
    with pytest.raises(UserError, match="2 pages hold the block x, where one is expected"):
        page_of(tmp_path, "x")
    with pytest.raises(UserError, match="0 pages hold the block y"):
        page_of(tmp_path, "y")


@pytest.mark.parametrize("module", API)
def test_the_api_has_signatures_and_docstrings(module):
    text = api(ROOT, module)
    assert text.startswith(f"### `{module}`") and "```python" in text


def test_the_api_shows_a_contract():
    text = api(ROOT, "cil.method")
    assert "def training_step(self, batch: Batch, phase: Phase) -> Losses" in text and "class Phase:" in text


def test_the_website_builds_without_a_warning(tmp_path):
    """Strict: pages left out of the navigation, dead links and dead anchors are errors. Nothing is loaded from elsewhere."""
    pytest.importorskip("mkdocs", reason="the extra docs is not installed; type make setup")
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-d", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert done.returncode == 0, done.stderr
    for page in tmp_path.rglob("*.html"):
        loaded = re.findall(r"""<(?:script|img|link|iframe)[^>]+(?:src|href)=["']?(https?://[^"' >]+)""", page.read_text())
        assert not loaded, f"{page.name} loads {loaded}"
