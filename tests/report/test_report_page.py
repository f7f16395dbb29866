"""The report page: what stands in it."""

import base64
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from html import unescape
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from cil.commands import report
from cil.common.tables import mean_and_spread
from cil.metrics import AccuracyMatrix
from cil.report.collect import COLUMNS, collect, rows
from cil.report.configurations import Entry
from cil.report.numbers import Numbers
from cil.report.page import Printed, chosen, page
from cil.report.published import Number
from cil.report.svg import apart, spark
from cil.runs import predictions
from cil.runs.run_folder import RunDir, read_matrices
from tests.harness import ROOT

HOSTILE = "<script>alert(1)</script>"
PNG = base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")


def finish(outputs, method, digest, seed, scenario="glyphs_10tasks", tasks=5, quality=90.0, reading="paper", **more):
    """A finished run as cil.engine.summary writes it, without its training."""
    run = RunDir(outputs / scenario / method / digest / f"seed{seed}")
    fall = [[quality - seed - 3 * (after - on) for on in range(after + 1)] for after in range(tasks)]
    matrix = AccuracyMatrix.of_percents(fall, [100.0] * tasks)
    matrix.correct = matrix.correct.round()
    run.path.mkdir(parents=True)
    run.write_matrices({"class_il": matrix, "task_il": matrix})
    (run.path / "pictures").mkdir()
    for name in ("matrix.png", "keys.png"):
        (run.path / "pictures" / name).write_bytes(PNG)
    identity = {
        "weights": "shipped:vit_tiny.safetensors", "weights_sha256": "ab" * 32, "data_digest": "da7a",
        "order_digest": "0rde2", "split_digest": "5p1i7", "git_commit": "c0ffee", "device": "cpu (x86_64)",
        "packages": {"torch": "2.15.0"},
    }  # fmt: skip
    run.finish({
        "scenario": scenario, "method": method, "tasks": tasks, "seed": seed, "digest": digest,
        "address": str(run.path.relative_to(outputs)), "command": f"python run.py method={method} seed={seed} 'note={HOSTILE}'",
        "class_il": matrix.summary(), "task_il": matrix.summary(), "identity": identity, "trained_parameters": 1_234_567,
        "seconds": 10.0 + seed,
        "config": {"seed": seed, "reading": reading, "outputs": "o", "method": {"memory": 2000, "word": HOSTILE, **more}},
    })  # fmt: skip
    return run


def predict(run: RunDir, names: Sequence[str] = ()) -> None:
    """Predictions that count what accuracy.csv counts: two classes a task, each taken for the next one if it is wrong."""
    correct = np.nan_to_num(read_matrices(run.path)["class_il"].correct).astype(int)
    classes = 2 * len(correct)
    names = np.array(names or [f"class {n} {HOSTILE}" for n in range(classes)])
    for after in range(len(correct)):
        tasks = np.repeat(np.arange(after + 1), 100)
        labels = 2 * tasks + np.tile(np.arange(100) % 2, after + 1)
        right = np.concatenate([np.arange(100) < correct[after, on] for on in range(after + 1)])
        answers = np.where(right, labels, (labels + 1) % (2 * after + 2))
        small = {"answers": answers, "labels": labels, "tasks": tasks, "rows": np.arange(len(tasks))}
        small = {key: value.astype(np.int32) for key, value in small.items()}
        predictions.write(
            RunDir(run.path), after, {**small, "scores": np.eye(classes)[answers], "names": names[: 2 * after + 2]}
        )


def of_identity(run: RunDir, **changed: str) -> None:
    """Let a finished run have seen something else."""
    summary = run.summary()
    run.finish(summary | {"identity": summary["identity"] | changed})


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """Ten methods of one scenario, one of them in two settings; a name that is a script; another scenario with two tasks."""
    folder = tmp_path_factory.mktemp("outputs")
    for number in range(10):
        for seed in range(3):
            run = finish(folder, f"method{number}", f"d{number}", seed, quality=40.0 + 5.5 * number)
            if number in (0, 9):
                predict(run)
    finish(folder, "method0", "other", 0, quality=33.0, rate=0.5)
    finish(folder, "<script>alert(2)<", "hostile", 0, quality=72.0, memory=0)
    finish(folder, "joint", "pair", 0, scenario="pair&more", tasks=2)
    (finish(folder, "method1", "unfinished", 0).path / "DONE").unlink()
    (folder / "glyphs_10tasks" / "method2" / "d2" / "seed2" / "pictures" / "keys.png").write_bytes(b"<svg onload=alert(3)>")
    return folder


@pytest.fixture(scope="module")
def html(outputs):
    found, passed_over = collect(outputs)
    published = {"d9": Printed("Method <9>", {"acc": Number(80.0, 0.5), "after.3": Number(70.0)})}
    words = {"title": f"A sweep {HOSTILE}", "passed_over": passed_over, "notes": ["a & b"]}
    return page(rows(found), Numbers(outputs, found), published=published, **words)


class Tags(HTMLParser):
    """Every tag with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list) -> None:
        self.found.append((tag, dict(attributes)))


def table_lines(html: str, scenario: str) -> list[list[str]]:
    """The cells of a scenario's table as text."""
    body = re.search(rf'id="{scenario}-table".*?<tbody>(.*?)</table>', html, re.S)[1]
    return [[unescape(re.sub(r"<[^>]+>", "", cell)) for cell in re.split(r"<t[hd][^>]*>", line)[1:]]
            for line in body.strip().splitlines()]  # fmt: skip


def test_nothing_is_fetched_and_nothing_runs(html):
    tags = Tags(html).found
    assert "http://" not in html and "https://" not in html and "@import" not in html and "url(" not in html
    assert not {"script", "iframe", "object", "embed"} & {tag for tag, _ in tags}
    assert not [key for _, attributes in tags for key in attributes if key.startswith("on")]
    sources = [attributes["src"] for _, attributes in tags if "src" in attributes]
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    links = [attributes["href"] for tag, attributes in tags if tag in ("a", "link")]
    places = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(places) == len(set(places))
    assert {link[1:] for link in links if link.startswith("#")} <= set(places)
    assert [link for link in links if not link.startswith("#")] == ["data:,"]  # no icon is asked for


def test_names_are_words_and_never_tags(html):
    assert "<script" not in html and "<svg onload" not in html
    assert "&lt;script&gt;alert(1)" in html and "&lt;script&gt;alert(2)&lt;" in html and "Method &lt;9&gt;" in html


def test_numbers_are_those_of_the_tables(html, outputs):
    groups = [group for group in rows(collect(outputs)[0]) if group[0]["scenario"] == "glyphs_10tasks"]
    lines = table_lines(html, "glyphs_10tasks")
    assert len(lines) == len(groups) == 12
    for line, group in zip(lines, groups):
        expected = [mean_and_spread([run[part][key] for run in group]).replace("-", "−") for part, key in COLUMNS.values()]
        assert [line[2], *line[5:9]] == expected
        assert line[-5:] == [str(len(group)), "0" if group[0]["digest"] == "hostile" else "2,000", "1.23 M",
                             f"{10 + (len(group) - 1) / 2:.0f}", "vit_tiny"]  # fmt: skip


def test_published_numbers_stand_beside_ours(html, outputs):
    line = next(line for line in table_lines(html, "glyphs_10tasks") if line[0].startswith("method9"))
    ours = [run["class_il"]["acc"] for run in collect(outputs)[0] if run["digest"] == "d9"]
    assert line[3:5] == ["80.00 ± 0.50", f"{sum(ours) / 3 - 80:+.1f}"]
    places = [outputs / "glyphs_10tasks" / "method9" / "d9" / f"seed{seed}" for seed in range(3)]
    third = [read_matrices(place)["class_il"].after(2) for place in places]
    assert (line[9], line[10]) == (mean_and_spread(third), "70.00") and "Method <9>" in line[0]
    assert [cell for cell in table_lines(html, "glyphs_10tasks")[0][3:5] if cell] == []
    assert "<dt>published" in html and "<dt>Δ" in html


def test_runs_on_other_images_splits_or_orders_are_lines_of_their_own(tmp_path):
    """Although they have one configuration, they are never averaged, and each is found on the page."""
    changes = ({}, {}, {"data_digest": "0ther"}, {"split_digest": "0ther"}, {"order_digest": "0ther"})
    for seed, changed in enumerate(changes):
        run = finish(tmp_path, "finetune", "d0", seed, quality=90.0 - 10 * seed)
        of_identity(run, **changed)
    found = collect(tmp_path)[0]
    text = page(rows(found), Numbers(tmp_path, found), title="t")
    lines = table_lines(text, "glyphs_10tasks")
    assert sorted(line[-5] for line in lines) == ["1", "1", "1", "2"]
    accuracies = {run["seed"]: f"{run['class_il']['acc']:.1f}" for run in found}
    assert {line[2] for line in lines if line[-5] == "1"} == {accuracies[2], accuracies[3], accuracies[4]}
    assert {word for line in lines for word in ("images 0ther", "split 0ther", "class order 0ther") if word in line[0]} == {
        "images 0ther", "split 0ther", "class order 0ther",
    }  # fmt: skip
    places = [attributes["id"] for _, attributes in Tags(text).found if "id" in attributes]
    assert len(places) == len(set(places)) and text.count('class="configuration"') == 4


def test_what_was_passed_over_is_told(html):
    assert re.search(r"Passed over</h2><ul><li>[^<]*unfinished/seed0: not finished", html)


def test_pictures_are_of_the_first_seed_and_only_pictures(html, outputs):
    assert html.count("data:image/png") == 2 * len(rows(collect(outputs)[0]))
    assert "pictures of the first seed" in html


def test_many_large_pictures_stay_outside(outputs, monkeypatch):
    from cil.report import configurations

    monkeypatch.setattr(configurations, "PICTURES", 500)
    groups = rows(collect(outputs)[0])
    text = page(groups, Numbers(outputs, []), title="t")
    assert text.count("data:image/png") == len(groups) and "accuracy.png and matrix.png are left out, 13 files" in text


def test_the_same_runs_are_the_same_bytes(outputs, tmp_path):
    """In another folder, in another process whose sets have another order."""
    copy = tmp_path / "outputs"
    shutil.copytree(outputs, copy)
    made = []
    for place, seed in ((outputs, "1"), (copy, "2")):
        to = tmp_path / f"{seed}.html"
        words = [sys.executable, ROOT / "scripts" / "report.py", "--outputs", place, "--to", to]
        subprocess.run(words, check=True, env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.DEVNULL)
        made.append(to.read_bytes())
    assert made[0] == made[1] and str(tmp_path).encode() not in made[1]


def test_a_run_without_its_matrix_keeps_its_line(outputs, tmp_path):
    copy = tmp_path / "outputs"
    shutil.copytree(outputs / "pair&more", copy / "pair&more")
    torn = next(copy.rglob("accuracy.csv"))
    torn.write_text("torn")
    torn.with_name("DONE").write_text("")  # of an earlier version, which knew no digests
    text = page(rows(collect(copy)[0]), Numbers(copy, []), title="t")
    assert "no accuracy.csv that can be read" in text and len(table_lines(text, "pair-more")) == 1


def test_two_hundred_runs_take_less_than_three_seconds(tmp_path):
    for number in range(40):
        for seed in range(5):
            finish(tmp_path, f"m{number}", f"d{number}", seed, tasks=10)
    started = time.process_time()  # of this process: others may keep the machine busy
    text = page(rows(collect(tmp_path)[0]), Numbers(tmp_path, []), title="t")
    assert time.process_time() - started < 3
    assert len(table_lines(text, "glyphs_10tasks")) == 40 and len(text) < 2 << 20


def test_figures_show_of_a_name_the_shortest_command():
    def entry(name: str, anchor: str, words: str) -> Entry:
        return Entry([{"command": f"python run.py {words}"}], name, "", anchor, np.zeros((1, 1)), [1.0], [0.0], None)

    found = [entry("m0", "a", "method=m0 family=other"), *(entry(f"m{n}", f"b{n}", f"method=m{n}") for n in range(13))]
    assert [one.anchor for one in chosen(found)] == [f"b{n}" for n in range(13)]


def test_labels_keep_their_distance_and_their_order():
    wanted = [50.0, 50.0, 51.0, 10.0, 99.0]
    places = apart(wanted, 12, 0, 100)
    assert [round(b - a, 6) >= 12 for a, b in zip(sorted(places), sorted(places)[1:])] == [True] * 4
    assert sorted(range(5), key=lambda n: places[n]) == sorted(range(5), key=lambda n: wanted[n])
    assert places[3:] == [10.0, 99.0] and abs(sum(places[:3]) - 151) < 1e-6  # the crowd spreads around its middle
    assert spark([float("nan")]) == ""


def test_the_script_writes_the_page_or_says_what_is_wrong(outputs, tmp_path, monkeypatch, capsys):
    def typed(*words: str) -> int:
        monkeypatch.setattr("sys.argv", ["report.py", *words])
        return report.main()

    target = tmp_path / "deep" / "page.html"
    assert typed("--outputs", str(outputs), "--scenario", "glyphs_10tasks", "--to", str(target)) == 0
    assert "pair&amp;more" not in target.read_text() and "31 configurations" not in target.read_text()
    for words, line in (
        (["--outputs", str(tmp_path / "none")], "no finished run below"),
        (["--outputs", str(outputs), "--scenario", "glyphs_10task"], "did you mean glyphs_10tasks?"),
        (["--outputs", str(outputs), "--table", "pgp_table55"], "did you mean pgp_table5?"),
    ):
        capsys.readouterr()
        assert typed(*words) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ") and line in told and told.count("\n") == 1


def test_a_published_table_finds_its_runs(tmp_path, monkeypatch):
    """The words of its rows compose to the digests of the folders."""
    from cil.commands.reproduce import planned
    from cil.report.published import load

    table = load("glyphs")
    narrow = type(table)(**{**vars(table), "rows": [row for row in table.rows if row.name in ("l2p", "finetune")]})
    places = [entry.places[0] for entry in planned(narrow, [0], [])]
    found, _title, notes = report.beside(narrow, {places[0].split("/")[2]})
    assert set(found) == {place.split("/")[2] for place in places}
    assert any(note.startswith("Not run here yet, Split-Glyphs, 10 tasks: ") for note in notes)


def test_the_page_needs_no_more_than_what_it_shows(outputs, monkeypatch):
    """Neither checkpoints nor logs are opened."""
    opened, original = [], type(outputs).open

    def watched(self, *words, **more):
        opened.append(self.name)
        return original(self, *words, **more)

    monkeypatch.setattr(type(outputs), "open", watched)
    monkeypatch.setattr(Path, "open", watched)
    page(rows(collect(outputs)[0]), Numbers(outputs, []), title="t")
    needed = {"DONE", "config.yaml", "accuracy.csv", "page.css", "summary.json", "keys.png", "matrix.png"}
    assert "accuracy.csv" in opened and set(opened) <= needed
