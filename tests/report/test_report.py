"""From run folders to tables, and why two runs differ."""

import json
import shutil

import pytest

from cil.common.errors import UserError
from cil.common.tables import fitted, grid, matrix_text, mean_and_spread, rounded, shortened
from cil.metrics import AccuracyMatrix
from cil.report.collect import collect, count, doubts, rows, table, told_apart
from cil.report.documents.projection import differing
from cil.report.paired import paired
from cil.report.why import differences, explain
from scripts.fill_docs import project
from tests import harness
from tests.harness import ROOT

WORDS = ("method=finetune", "backbone=resnet_tiny", "scenario.tasks=2", "train.epochs=1", "optim.lr=0.01")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_root):
    """Two seeds of one configuration and one run of another."""
    outputs = tmp_path_factory.mktemp("outputs")
    base = (f"outputs={outputs}", f"data.root={data_root}", *harness.SMALL, *WORDS)
    runs = [harness.execute(harness.compose(*base, *words)) for words in (["seed=0"], ["seed=1"], ["optim.lr=0.05"])]
    return outputs, runs


def test_seeds_are_one_row_and_other_settings_another(finished):
    outputs, _runs = finished
    found, passed_over = collect(outputs)
    assert len(found) == 3 and not passed_over
    groups = rows(found)
    assert sorted(map(len, groups)) == [1, 2]
    text = table(groups)
    assert sum(line.startswith("finetune") for line in text.splitlines()) == 2
    assert sorted(told_apart(groups)) == ["", "optim.lr=0.05"]  # the most runs have the other rate
    assert max(map(len, text.splitlines())) <= 80
    assert table(groups, markdown=True).startswith("| method   |       settings |")
    assert not doubts(groups)


def test_many_settings_are_told_by_what_was_typed():
    """And by what differs where the same was typed, as after a change of a file; never by a digest alone."""

    def group(digest: str, words: str, **settings: object) -> list[dict]:
        config = {"backbone": {"name": digest, "path": "long/" * 9, **settings}, "seed": 0}
        return [{"scenario": "s", "method": "m", "digest": digest, "config": config, "command": f"python run.py {words}"}]

    few = [group("d1", "method=m seed=0 reading=paper"), group("d2", "method=m seed=1 family=resnet32", path="other/" * 9)]
    assert told_apart(few) == ["", "family=resnet32"]
    third = group("d3", "method=m family=resnet32", path="third/" * 9)
    assert told_apart([*few, third]) == [
        "",
        f"family=resnet32 backbone.name=d2 backbone.path={'other/' * 9}",
        f"family=resnet32 backbone.name=d3 backbone.path={'third/' * 9}",
    ]
    once = group("d4", "method=m scenario=s machine=cpu hydra/launcher=joblib optim.lr=0.1")
    assert told_apart([*few, once]) == ["", "family=resnet32", "optim.lr=0.1"]
    earlier = group("d5", "-m method=m backbone.path=first/,second/", path="second/")  # earlier versions kept a sweep's words
    assert told_apart([few[0], earlier]) == ["", "backbone.path=second/"]
    drawn = [group(f"r{rate}", f"method=m optim.lr={rate}") for rate in (0.0030951149738991926, 0.12)]
    assert told_apart(drawn) == ["optim.lr=0.003095", "optim.lr=0.12"]
    precise = json.loads(json.dumps(few[0]))
    precise[0].update(digest="d6", config={**few[0][0]["config"], "machine": {"precision": "bf16"}})
    assert told_apart([few[0], precise]) == ["machine.precision=None", "machine.precision=bf16"]


def test_a_drawn_float_is_rounded_where_it_stays_apart():
    words = ["lr=0.0030951149738991926", "lr=0.0012345678", "lr=0.001234567", "x.y=3.0951149738991926e-05", "n=12345678"]
    assert list(rounded(words).values()) == ["lr=0.003095", *words[1:3], "x.y=3.095e-05", "n=12345678"]
    kept = ["lr=0.001235", "lr=0.0012346", "seed=0", "p=a=0.12345678x", "~drop", "sizes=[0.123456,2]"]
    assert rounded(kept) == {word: word for word in kept}


@pytest.mark.parametrize(
    "words", [[], ["optim.lr=0.02", "train.epochs=12"], ["backbone.path=" + "far/" * 30, "optim.lr=0.1"] * 3]
)
@pytest.mark.parametrize(("spread", "more"), [(0.0, {}), (12.0, {"scenario": {"order": "seed", "validation": 0.1}})])
def test_a_table_fits_a_terminal(words, spread, more):
    def run(method: str, seed: int, *own: str) -> dict:
        numbers = dict.fromkeys(("acc", "forgetting", "backward_transfer", "incremental_average"), -88.0 + seed * spread)
        return {"scenario": "s", "method": method, "digest": " ".join(own) or "d", "seed": seed, "class_il": numbers,
                "task_il": numbers, "trained_parameters": 123_456_789, "seconds": 1e6, "identity": {},
                "command": " ".join(["cil", *own]), "config": {"words": own, **more}}  # fmt: skip

    groups = [[run("continual_clip", seed), run("continual_clip", seed + 1)] for seed in (0, 4)]
    groups += [[run("clip_prompt+pgp", seed, *own) for seed in (0, 1)] for own in ([], words)][: 1 + bool(words)]
    text = table(groups)
    assert max(map(len, text.splitlines())) <= 80 and text.count("forgetting") == text.count("seeds") == 1
    assert all(f"-{88 - spread / 2:.1f}" in text for _ in groups) and "123.46 M" in text
    for word in words:
        assert word in "".join(line.strip() if "far/" in word else f" {line}" for line in text.splitlines())


def test_columns_that_do_not_fit_are_a_further_table():
    heads = ["method", *(f"column {number}" for number in range(12)), "seeds"]
    text = fitted(heads, [["m" * 30, *["10.0 ± 1.0"] * 12, "3"]], ["m" * 30], 1)
    assert max(map(len, text.splitlines())) <= 80 and text.count("m" * 30) == 2 and text.count("10.0±1.0") == 12
    assert shortened("a" * 30 + "b", 9) == "aaaa…aaab" and shortened("short", 9) == "short"


def test_foreign_and_unfinished_folders_are_named_and_passed_over(finished, tmp_path):
    outputs, runs = finished
    copy = tmp_path / "outputs"
    shutil.copytree(outputs, copy)
    places = [copy / run.path.relative_to(outputs) for run in runs]
    (places[0] / "DONE").unlink()
    (places[1] / "summary.json").write_text("{")
    shutil.copytree(places[2], copy / "a" / "b" / "c" / "seed0")
    found, passed_over = collect(copy)
    assert len(found) == 1 and len(passed_over) == 3
    assert any("not finished" in line for line in passed_over)
    assert any("summary.json is not as the run wrote it" in line for line in passed_over)
    assert any("holds the run of another address" in line for line in passed_over)


def test_an_impossible_row_is_doubted(finished):
    outputs, _ = finished
    groups = rows(collect(outputs)[0])
    groups[0][0]["class_il"].update(acc=90.0, forgetting=80.0)
    assert "impossible" in doubts(groups)[0]


def test_why_two_seeds_differ(finished):
    _, runs = finished
    assert [d.what for d in differences(runs[0].summary(), runs[1].summary())] == ["config.seed"]
    told = "\n".join(explain(runs[0].path, runs[1].path))
    assert "another seed:\n  seed: 0 → 1" in told
    assert "the losses first differ at task 1, train, epoch 1" in told


def test_why_names_the_likeliest_reason_first(finished):
    _, runs = finished
    one, two = runs[0].summary(), json.loads(json.dumps(runs[2].summary()))
    two["identity"].update(weights_sha256="f" * 64, git_commit="another")
    two["config"]["dataset"]["jitter"]["noise"] = 0.5
    whats = [d.what for d in differences(one, two)]
    assert whats == ["weights_sha256", "config.dataset.jitter.noise", "config.optim.lr", "git_commit"]


def test_a_run_does_not_differ_from_itself(finished):
    _, runs = finished
    told = list(explain(runs[0].path, runs[0].path))
    assert "\nNothing that can move a number differs." in told
    assert told[-2:] == ["The logged losses are bit-identical.", "The accuracies are equal."]


def test_numbers_in_words():
    assert mean_and_spread([1.0, 3.0]) == "2.0 ± 1.4" and mean_and_spread([2.0]) == "2.0" and mean_and_spread([None]) == "–"
    assert [count(n) for n in (12, 12_800, 1_234_567)] == ["12", "12.80 k", "1.23 M"]
    assert grid(["ab", "cd"], [["x", "1"]], markdown=True) == "| ab | cd |\n| -- | -: |\n| x  |  1 |"


@pytest.mark.parametrize("tasks", [3, 10, 20])
def test_the_matrix_fits_eighty_columns(tasks):
    matrix = AccuracyMatrix.of_percents([[100.0] * (t + 1) for t in range(tasks)])
    assert max(map(len, matrix_text(matrix).splitlines())) <= 80


def test_a_paired_test_is_the_textbook_one():
    """Student's sleep data (1908): two drugs on ten patients, t = −4.0621, p = 0.002833."""
    first = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0]
    second = [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]
    found = paired(first, second)
    assert (found.mean, found.p) == (pytest.approx(1.58), pytest.approx(0.002833, abs=1e-6))
    assert str(found) == "+1.58 ± 1.23 (p < 0.01)"
    assert str(paired([1.0], [3.0])) == "+2.00" and str(paired([1.0, 2.0], [1.0, 2.0])) == "+0.00 ± 0.00"


def test_two_readings_of_a_method_are_named(finished):
    outputs, _ = finished
    groups = json.loads(json.dumps(rows(collect(outputs)[0])))
    for group, reading in zip(groups, ("paper", "released")):
        for summary in group:
            summary["config"]["reading"] = reading
    first = [line.split("  ")[0] for line in table(groups).splitlines() if line.startswith("finetune")]
    assert first == ["finetune (paper)", "finetune (released)"]


def test_the_switches_of_a_method_are_what_its_readings_differ_in():
    at = project()
    switches = differing(at, ["method=dualprompt", "modifier=pgp"])
    assert switches["method.scrambled"] == (False, True)
    assert switches["modifier.pgp.space"] == ("feature", "sample")
    told = "".join((ROOT / "docs" / "methods" / f"{name}.md").read_text() for name in ("dualprompt", "l2p", "pgp"))
    for key in {*switches, *differing(at, ["method=l2p"])}:
        assert f"| `{key.split('.')[-1]}`" in told, f"{key} is not explained on a page of a method"


def test_the_lines_of_a_sweep(compose, capsys, monkeypatch):
    """A line a value, whether its runs are there or not; a wrong name is told."""
    from cil.commands import tables

    small = compose(
        "experiment=attriclip_table7/glyphs_10tasks", "method.key_weight=0.3", "train.epochs=1", "scenario.tasks=50"
    )
    run = harness.execute(small)
    monkeypatch.setattr(tables, "compose", lambda *words: harness.compose(
        *words, "train.epochs=1", "scenario.tasks=50", *harness.SMALL, f"data.root={small['data']['root']}"))  # fmt: skip
    text = tables.sweep("attriclip_table7/glyphs_10tasks", collect(run.path.parents[3])[0], False)
    lines = [line.split() for line in text.splitlines()]
    assert [line[0] for line in lines[2:]] == ["0.1", "0.3", "0.5", "0.7", "0.9"] and lines[0][0] == "key_weight"
    assert [line[-1] for line in lines[2:]] == ["0", "1", "0", "0", "0"]
    with pytest.raises(UserError, match="no finished run of attriclip_table8"):
        tables.sweep("attriclip_table8/glyphs_10tasks", [], False)
    with pytest.raises(UserError, match="did you mean attriclip_table7/glyphs_10tasks"):
        tables.sweep("attriclip_table7/glyphs_10task", [], False)
