"""Commands in the documents compose, and relative links lead somewhere."""

import json
import re
import shlex

import pytest

from scripts.demo import MEANS
from scripts.readme_baselines import PRETRAINED, SCRATCH
from tests.harness import ROOT, compose, options

BASELINES = {row.split()[0] for row in (*PRETRAINED, *SCRATCH)}
PAGES = [page for page in ROOT.rglob("*.md") if not {".venv", "outputs", "data"} & set(page.relative_to(ROOT).parts)]
BLOCK = re.compile(r"```[a-z]*\n(.*?)```", re.S)


def commands():
    for page in PAGES:
        for block in BLOCK.findall(page.read_text()):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("python run.py") and "…" not in line:
                    words = shlex.split(line.split("#")[0])[2:]
                    yield pytest.param(words, id=f"{page.relative_to(ROOT)}: {' '.join(words)}")


@pytest.mark.parametrize("words", commands())
def test_commands_compose(words):
    assert compose(*(re.sub(r"(?<=[^\[]),.*", "", word) for word in words if not word.startswith("-")))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


def test_scripts_and_targets_that_the_documents_name_exist():
    text = "\n".join(page.read_text() for page in PAGES)
    for script in set(re.findall(r"scripts/\w+\.py", text)):
        assert (ROOT / script).exists(), script
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^)make ([a-z][a-z-]*)", text, re.M)) <= targets


def test_the_results_in_the_front_page_are_possible():
    from cil.metrics import impossible

    page = (ROOT / "README.md").read_text()
    for block, listed in (("demo", MEANS), ("results", options("method")), ("baselines", BASELINES)):
        content = page.split(f"<!-- {block} -->")[1].split(f"<!-- /{block} -->")[0]
        rows = re.findall(r"^\| `?(\w+)[^|]*\| *([\d.]+)[^|]*\| *([\d.–-]+)", content, re.M)
        rows = [row for row in rows if row[0] != "method"]
        assert {method for method, _, _ in rows} == set(listed)
        for method, acc, forgetting in rows:
            assert forgetting == "–" or impossible(float(acc), float(forgetting), tasks=10, tolerance=0.3) is None, method


def test_the_records_of_the_weights_are_of_this_benchmark(tmp_path):
    from cil.build import make

    digest = make(compose()["dataset"], "dataset", root=str(tmp_path)).digest
    for file in (ROOT / "cil" / "weights").glob("*.json"):
        assert json.loads(file.read_text())["benchmark_digest"] == digest, f"type python scripts/pretrain.py --examine: {file}"


def test_no_lock_file_names_an_address():
    assert "://" not in (ROOT / "requirements.lock").read_text()
