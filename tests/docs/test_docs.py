"""Commands in the documents compose, links lead somewhere, and what the pages say of numbers can be true."""

import json
import re
import shlex

import pytest

from cil.report.documents.comparisons import PRETRAINED, SCRATCH
from cil.report.documents.project import page_of
from scripts.demo import MEANS
from tests.harness import ROOT, SHIPPED, compose

BASELINES = {row.split()[0] for row in (*PRETRAINED, *SCRATCH)}
AWAY = {".venv", "outputs", "data", "site"}
PAGES = [page for page in sorted(ROOT.rglob("*.md")) if not AWAY & set(page.relative_to(ROOT).parts)]
BLOCK = re.compile(r"```[a-z]*\n(.*?)```", re.S)
FENCED = re.compile(r"^```.*?^```", re.S | re.M)
MIXED = ("expand.py", "bench.py")  # scripts whose words with = are those of run.py


def named(page) -> str:
    return str(page.relative_to(ROOT))


def lines(start: str):
    """Commands in blocks and in running text that begin so; those with … are no whole commands."""
    for page in PAGES:
        text = page.read_text()
        inside = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
        inline = re.findall(r"`([^`\n]+)`", FENCED.sub("", text))
        for line in sorted({line.removeprefix("$ ") for line in (*inside, *inline)}):
            if "method=mine" in line:  # of the reader; test_new_method.py runs it
                continue
            if line.startswith(start) and not {"…", "<"} & set(line.split("#")[0].replace("< ", "")):
                words = shlex.split(line.split("#")[0].split(">")[0])
                yield pytest.param(words, id=f"{named(page)}: {' '.join(words)}")


def first_of_sweep(words: list[str]) -> list[str]:
    kept = [word for word in words if "=" in word and not word.startswith(("-", "hydra/sweeper")) and "interval(" not in word]
    return [word if "[" in word else word.split(",")[0] for word in kept]


@pytest.mark.parametrize("words", lines("python run.py"))
def test_commands_compose(words):
    assert compose(*first_of_sweep(words[2:]))


@pytest.mark.parametrize("words", lines("python scripts/"))
def test_scripts_know_their_words(words):
    script = ROOT / words[1]
    command = ROOT / "cil" / "commands" / script.name
    source = script.read_text() + (command.read_text() if command.is_file() else "")
    for option in {word.split("=")[0] for word in words[2:] if word.startswith("--")} - {"--help"}:
        assert f'"{option}"' in source, f"{script.name} has no {option}"
    if words[2:] == ["--help"]:
        return
    if script.name in MIXED:
        compose(*first_of_sweep([word for word in words[2:] if not word.startswith("hydra")]))
    if script.name == "fill_docs.py":
        assert f'"{words[2]}":' in source


@pytest.mark.parametrize("words", lines("make "))
def test_make_knows_its_words(words):
    text = (ROOT / "Makefile").read_text()
    assert words == ["make"] or re.search(rf"^{words[1]}:", text, re.M), words[1]
    for variable in (word.split("=")[0] for word in words[2:] if "=" in word):
        assert f"$({variable})" in text or f"$(or $({variable})" in text or f"{variable} ?=" in text, variable


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    for target, anchor in re.findall(r"\]\(([^)#]*)(#[^)]*)?\)", FENCED.sub("", page.read_text())):
        if target.startswith("http"):
            continue
        there = page.parent / target if target else page
        assert there.exists(), target
        if anchor:
            heads = [re.sub(r"[^\w\s-]", "", head).strip().lower().replace(" ", "-")
                     for head in re.findall(r"^#+ (.*)$", FENCED.sub("", there.read_text()), re.M)]  # fmt: skip
            assert anchor[1:] in heads, f"{target}{anchor}"


def test_scripts_and_targets_that_the_documents_name_exist():
    text = "\n".join(page.read_text() for page in PAGES)
    for script in set(re.findall(r"scripts/\w+\.py", text)):
        assert (ROOT / script).exists(), script
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.M))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", text, re.M)) <= targets


def test_the_front_page_is_short_and_counts_right():
    page = (ROOT / "README.md").read_text()
    assert len(page.splitlines()) <= 120
    assert f"It has {len(SHIPPED)} methods" in page


def test_help_fits_a_terminal():
    for name, about in re.findall(r"^([a-z-]+):.*?## (.*)$", (ROOT / "Makefile").read_text(), re.M):
        assert len(f"  make {name:<10} {about}") <= 80, name


@pytest.mark.parametrize("page", sorted((ROOT / "docs").rglob("*.md")), ids=named)
def test_no_page_is_only_tables(page):
    text = FENCED.sub("", page.read_text())
    prose = [line for line in text.splitlines() if line and not line.startswith(("|", "#", "<!--", "!["))]
    assert len(" ".join(prose).split()) >= 15, "a page says what its tables mean"


def test_the_results_in_the_documents_are_possible():
    from cil.metrics import impossible

    for block, listed in (("demo", MEANS), ("results", SHIPPED), ("baselines", BASELINES)):
        content = page_of(ROOT, block).read_text().split(f"<!-- {block} -->")[1].split(f"<!-- /{block} -->")[0]
        rows = re.findall(r"^\| `?(\w+)[^|]*\| *([\d.]+)[^|]*\| *([\d.–-]+)", content, re.M)
        rows = [row for row in rows if row[0] != "method"]
        assert {method for method, _, _ in rows} == set(listed)
        for method, acc, forgetting in rows:
            assert forgetting == "–" or impossible(float(acc), float(forgetting), tasks=10, tolerance=0.3) is None, method


def test_the_records_of_the_weights_are_of_this_benchmark(tmp_path):
    from cil.engine.build import make

    digest = make(compose()["dataset"], "dataset", root=str(tmp_path)).digest
    for file in (ROOT / "cil" / "weights").glob("*.json"):
        assert json.loads(file.read_text())["benchmark_digest"] == digest, f"type python scripts/pretrain.py --examine: {file}"


def test_no_lock_file_names_an_address():
    assert "://" not in (ROOT / "requirements.lock").read_text()
