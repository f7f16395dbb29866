"""What fills the blocks that need runs, on a run that is made up: each block is written on its page, with the run's numbers."""

import json
import shutil
from dataclasses import replace
from itertools import chain

import pytest

from cil.metrics import AccuracyMatrix
from cil.report.documents import adapters, clip, comparisons, locality, projection, records, recovered, searched
from cil.report.documents.project import page_of
from cil.runs.run_folder import address
from scripts.fill_docs import project
from tests.harness import ROOT

SUMMARY = {
    "address": "glyphs_10tasks/made_up/0123456789/seed0", "tasks": 10, "seconds": 12.0, "trained_parameters": 1000,
    "class_il": {"acc": 61.25, "forgetting": 7.5, "backward_transfer": -7.5, "incremental_average": 70.0},
    "task_il": {"acc": 90.0, "forgetting": 1.0}, "config": {"method": {"memory": 500}},
}  # fmt: skip
ACCURACY = """after_task,on_task,images,correct_class_il,correct_task_il
1,1,10,9,9
2,1,10,4,9
2,2,10,8,9
"""
SITE = {"modifier": "PGP", "ranks": {"prompts.0": [7]}, "removed": {"prompts.0": 0.25}}


@pytest.fixture
def at(tmp_path):
    """The documents in a folder of their own; runs are neither started nor looked for."""
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copytree(ROOT / "cil" / "weights", tmp_path / "cil" / "weights")
    shutil.copy(ROOT / "README.md", tmp_path / "README.md")
    folder = tmp_path / "outputs" / SUMMARY["address"]
    (folder / "pictures").mkdir(parents=True)
    (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (SITE, SITE, {"weight of new": 0.5})))
    return replace(
        project(tmp_path), outputs=tmp_path / "outputs", run=lambda *words: None, side_by_side=lambda sweeps: [],
        found=lambda *words, seeds: [SUMMARY for _ in seeds], nonlocality=lambda path: [[1.5, 2.5], [1.5, 2.5]],
    )  # fmt: skip


def content(at, block: str) -> str:
    return page_of(at.root, block).read_text().split(f"<!-- {block} -->")[1].split(f"<!-- /{block} -->")[0]


@pytest.mark.parametrize(
    ("block", "make", "told"),
    [
        ("projection", lambda at: projection.projection(at), " 25.0 % |"),
        ("clip", lambda at: clip.clip(at), "| 61.2 ± 0.0 |"),
        ("pretraining", lambda at: records.pretraining(at), "| vit_tiny "),
        ("baselines", lambda at: comparisons.baselines(at, []), "| 61.2 ± 0.0 |"),
        ("adapters", lambda at: adapters.adapters(at, []), "| 70.0 ± 0.0 |"),
        ("locality", lambda at: locality.locality(at, []), " 2.00 ± 0.00 |"),
    ],
)
def test_a_block_is_filled(at, block, make, told):
    before = page_of(at.root, block).read_text()
    at.fill(block, make(at))
    assert told in content(at, block)
    outside = [text.split(f"<!-- {block} -->")[0] for text in (before, page_of(at.root, block).read_text())]
    assert outside[0] == outside[1]


def test_merges_and_their_sweep(at, monkeypatch):
    monkeypatch.setattr(adapters, "together", lambda at, *words: None)
    assert " 0.50 ± 0.00 |" in adapters.fusions(at, [])
    assert adapters.sweep(at, []).count("\n") == 10 and (at.pictures / "awpf_lambda.svg").exists()


def test_class_orders_tell_what_was_not_run(at, monkeypatch, capsys):
    finished = ("rapf", "mos", "pet method.kind=lora", "pet method.kind=lora modifier=pgp")
    monkeypatch.setattr(comparisons, "runs", lambda at, row, settings: [SUMMARY] * (3 if row in finished else 2))
    comparisons.orders(at, [])
    rows, every = content(at, "orders"), [row for table in comparisons.TABLES.values() for row in table]
    assert rows.count("| 61.2 ± 0.0 |") == 4 and rows.count("not run") == len(every) - 4
    assert (
        rows.count("| `modifier=pgp` |") == 1 and rows.count("+0.00 ± 0.00") == 3 and "nsp2` |" not in rows.split("What a")[1]
    )
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == len(every) - 4
    assert "python run.py -m method=fecam scenario=glyphs_10tasks scenario.order=seed seed=0,1,2" in printed


def test_attention_on_photographs_tells_what_was_not_run(at, monkeypatch):
    """How far patches look is the mean over blocks and heads, after the first and after the last task."""
    own = replace(at, nonlocality=lambda path: [[1.5, 2.5], [3.0], [2.0, 4.0]])
    run = at.outputs / address(at.compose(locality.PHOTOGRAPHS, "backbone=convit_tiny", "seed=0"))
    run.mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps(SUMMARY | {"address": str(run.relative_to(at.outputs))}))
    (run / "DONE").touch()
    (at.root / "docs" / "results" / "photographs.json").unlink(missing_ok=True)
    locality.on_photographs(own, [])
    text = " ".join(content(at, "locality_photographs").split())
    assert "| gated | 61.2 | 70.0 | 7.5 | 2.00 | 3.00 |" in text and text.count("not run") == 2


def test_the_records_of_the_weights_stand_in_the_documents(at):
    assert content(at, "pretraining").strip() == records.pretraining(at)


@pytest.fixture
def weights(at):
    """The records of both checkpoints of the recovered transformer."""
    for name in recovered.BACKBONES:
        folder = at.root / "data" / "weights" / name
        folder.mkdir(parents=True)
        percent = {"frozen_class_token": 28.3, "body": 15.7, "recovered": 36.75}
        record = {"percent_on_the_unseen_half": percent, "weights_sha256": "ab" * 32, "command": "python scripts/recover.py"}
        (folder / "record.json").write_text(json.dumps(record))


def test_the_recovered_transformer(at, weights, monkeypatch):
    """A line for each method, run or not; modifiers are compared seed by seed; the curves are drawn."""

    def one(at, backbone, row, seed, settings):
        if row.split()[0] != "dualprompt" or backbone != "vit_s14_photographs_selfsup":
            return None
        acc = 33.3 + seed + 2.0 * ("freeze" in row)
        part = {"acc": acc, "incremental_average": 40.0, "forgetting": 9.9}
        return {
            "class_il": part, "task_il": part, "class_means": part, "seconds": 7.0, "image_encodes": 8000,
            "bases": {"g_prefix": [1.0, 2.0, 0.59]} if "pgp" in row else {}, "accuracy": [90.0, acc], "forgetting": [None, 9.9],
        }  # fmt: skip

    monkeypatch.setattr(recovered, "one", one)
    drawn = [at.pictures / f"photographs{kind}.svg" for kind in ("", "_pgp")]
    for file in drawn:
        file.unlink(missing_ok=True)
    recovered.recovered(at, ["dataset.md5=null"])
    text = content(at, "recovered")
    assert text.count("36.8") == 2 and text.count("8,000") == 6
    tried = [*recovered.SEARCHED.items(), *recovered.WHOLE_SEARCHED.items()]
    searched = sum(len(rates) for row, (_, *rates) in tried if row != "dualprompt")
    done = [
        row
        for row in (*recovered.ROWS[recovered.FIRST], *recovered.RELEASED, *recovered.WHOLE_ROWS)
        if row.split()[0] == "dualprompt"
    ]
    assert len(done) == 6
    rows = list(chain(*recovered.ROWS.values(), recovered.RELEASED, recovered.WHOLE_ROWS))
    assert text.count("not run") == len(rows) - len(done) + searched
    assert any(f"`dualprompt {recovered.AS_RELEASED}`" in line and "`modifier=pgp`" in line for line in text.splitlines())
    frozen, projected = (next(line for line in text.splitlines() if f"`modifier={name}`" in line) for name in ("freeze", "pgp"))
    assert "+2.00 ± 0.00" in frozen and "+0.00 ± 0.00" in projected and "g_prefix 59 %" in projected
    assert "| `dualprompt` | without labels | 35.3 ± 1.6 |" in " ".join(text.split())
    assert all(file.exists() for file in drawn)


def test_the_kept_numbers_are_those_of_the_commands_on_the_page(at):
    """A changed default gives a run another address: then the page must be made again."""
    settings = [recovered.HALF, *recovered.RUN_WITH]
    for backbone, rows in recovered.ROWS.items():
        assert all(recovered.one(at, backbone, row, 0, settings) for row in rows)


def test_nothing_is_drawn_where_nothing_is_finished(at, weights, monkeypatch):
    monkeypatch.setattr(recovered, "one", lambda *_: None)
    recovered.recovered(at, [])
    assert "±" not in content(at, "recovered").replace("mean ± standard deviation", "")


def test_curves_are_averaged_after_they_are_computed():
    """Forgetting takes a maximum, so the forgetting of the mean matrix is another number."""
    runs = [AccuracyMatrix.of_percents(rows) for rows in ([[80], [20, 9], [10, 9, 9]], [[20], [80, 9], [10, 9, 9]])]
    curves = [{"forgetting": [None, *run.forgetting_curve()[1:]]} for run in runs]
    assert recovered.means_of(curves, "forgetting")[1:] == [0.0, 35.0]
    assert runs[0].curve() == [80.0, 14.5, pytest.approx(28 / 3)]


def test_numbers_of_photographs_are_kept_for_the_same_weights(at, weights):
    """A table may grow on several machines: a finished run counts after its folder is gone, but not for other weights."""
    backbone, row, settings = "vit_s14_photographs", "l2p modifier=[pgp,class_means]", [recovered.HALF, "dataset.md5=null"]
    (at.root / "docs" / "results" / "photographs.json").unlink(missing_ok=True)
    assert recovered.one(at, backbone, row, 0, settings) is None
    words = [*f"method={row}".split(), f"backbone={backbone}", "seed=0", *settings]
    run = at.outputs / address(at.compose(*words))
    run.mkdir(parents=True)
    part = {"acc": 61.25, "incremental_average": 70.0, "forgetting": 7.5}
    summary = {
        "class_il": part, "task_il": part, "seconds": 3.0, "address": str(run.relative_to(at.outputs)), "image_encodes": 7,
        "identity": {"weights_sha256": "ab" * 32}, "config": {"modifier": {"pgp": {}, "class_means": {}}},
    }  # fmt: skip
    (run / "summary.json").write_text(json.dumps(summary))
    means = [{"modifier": "ClassMeans", "correct": correct, "acc": 0.0} for correct in ([90.0], [70.0, 60.0])]
    (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in (SITE, SITE, *means)))
    (run / "accuracy.csv").write_text(ACCURACY)
    (run / "DONE").touch()
    first = recovered.one(at, backbone, row, 0, settings)
    assert (
        first["class_il"] == part
        and first["bases"]["prompts"][2] == 0.25
        and first["accuracy"] == [90.0, 60.0]
        and first["forgetting"] == [None, 50.0]
    )
    assert first["class_means"] == {"acc": 65.0, "forgetting": 20.0}
    shutil.rmtree(run)
    assert recovered.one(at, backbone, row, 0, settings) == first
    record = at.root / "data" / "weights" / backbone / "record.json"
    shutil.rmtree(record.parent)
    assert recovered.one(at, backbone, row, 0, settings) == first  # by the copy of the record, where the weights are not
    record.parent.mkdir()
    record.write_text(json.dumps({"weights_sha256": "cd" * 32}))
    assert recovered.one(at, backbone, row, 0, settings) is None


def test_recipes_follow_their_rule_and_name_what_was_not_run(at, monkeypatch, capsys):
    """Half a point over seeds that agree changes a learning rate; the same gain over seeds that disagree does not."""
    runs = {"rapf": (0.003, 0.6, 0.01), "aper": (0.1, 3.6, 3.0), "slca": (0.01, 0.4, 0.0), "ease": (0.3, 0.6, 0.0)}

    def finished(at, *words):
        lr, seed = (float(word.split("=")[1]) for word in words if word.startswith(("optim.lr=", "seed=")))
        for method, (own, gain, spread) in runs.items():
            if f"method={method}" in words and (seed == searched.SEEDS[0] or method in ("rapf", "aper")):
                return 80.0 + (gain - spread * (seed - 10) if lr > own else 0.0)
        return None

    monkeypatch.setattr(searched, "finished", finished)
    searched.rates(at, [])
    rows = {line.split("|")[1].strip(): line for line in content(at, "rates").splitlines() if line.startswith("| `")}
    assert " 0.59 ± 0.01 |" in rows["`rapf`"] and "**0.006**" in rows["`rapf`"]
    assert " 0.60 ± 1.73 |" in rows["`aper`"] and "kept" in rows["`aper`"]
    assert " 0.40 |" in rows["`slca`"] and "kept" in rows["`slca`"], "one seed is enough to keep"
    assert " 0.60 |" in rows["`ease`"] and "more seeds" in rows["`ease`"], "the first seed is not enough to change"
    missing = [row for row in rows.values() if "not run" in row or "more seeds" in row]
    printed = capsys.readouterr().out.splitlines()
    assert len(missing) == len(searched.RECIPES) - 3 == len(printed)
    assert "python run.py -m method=ease optim.lr=0.3,0.6 seed=11,12 scenario.validation=0.2" in printed
    assert "python run.py -m method=l2p optim.lr=0.001,0.002,0.004 seed=10 scenario.validation=0.2" in printed


def test_recipes_have_the_learning_rates_of_the_search(at):
    """On the project's own page. Bold is the recipe's rate; everywhere else the recipe has the rate before the search."""
    rows = [line.split("|")[1:-1] for line in content(at, "rates").splitlines() if line.startswith("| `")]
    assert [row[0].strip(" `") for row in rows] == list(searched.RECIPES)
    for name, *cells in rows:
        method, *words = name.strip(" `").split()
        chosen = cells[-1].strip()
        expected = chosen.strip("*") if chosen.startswith("*") else cells[0]
        assert at.compose(f"method={method}", *words)["optim"]["lr"] == float(expected), name


def test_the_end_of_a_search_is_shown(at):
    own = {"class_il": {"incremental_average": 28.5}, "config": {"optim": {"lr": 0.01}}}
    output = "task 1\nbest of 10 trials: x\naverage 30.1 on the validation images\non the test images: ACC 7.0\nfiles: x\n"
    at.fill("optuna", searched.told(output, own))
    text = content(at, "optuna")
    assert "ACC 7.0\n```" in text and "0.01, has an average of 28.5" in text and "task 1" not in text and "files" not in text
