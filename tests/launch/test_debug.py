"""`debug=true` tries everything once on two short tasks, where no table finds it."""

import json

import pytest

from cil.common.errors import UserError
from cil.launch.compose import compose as composed
from cil.report.collect import collect
from cil.runs.run_folder import address, digest
from tests import harness

LARGE = ("dataset.train_per_class=9", "dataset.test_per_class=3")


@pytest.mark.parametrize("words", [
    ("method=finetune", "train.epochs=3", "train.batch_size=16"), ("method=bic", "scenario.first=50", "scenario.tasks=6"),
    ("method=dualprompt", "modifier=pgp"), ("method=rapf",), ("method=joint", "scenario.validation=0.2"),
    ("method=coop", "scenario=latin_to_greek"), ("experiment=attriclip_table7/glyphs_10tasks",),
], ids=lambda words: words[0])  # fmt: skip
def test_any_method_and_scenario_ends_after_two_short_tasks(data_root, outputs, words, capsys):
    config = harness.compose(
        f"outputs={outputs}", f"data.root={data_root}", "machine=cpu", "log.live=false", "debug=true", *words
    )
    run = harness.execute(config)
    summary = run.summary()
    assert summary["tasks"] == 2 and run.newest is not None
    assert run.path == outputs / "debug" / run.path.relative_to(outputs / "debug")
    epochs = [event for event in map(json.loads, run.events.read_text().splitlines()) if "epoch" in event]
    assert all(event["epoch"] == 0 and event["images"] <= 16 for event in epochs)
    assert len(summary["warnings"]) == 1 and "the numbers mean nothing" in summary["warnings"][0]
    assert "debug=true: two tasks" in capsys.readouterr().out.partition("task 1/2")[0]
    for place in (outputs, outputs / "debug"):
        assert collect(place)[0] == []


def test_it_runs_again_and_leaves_the_real_run_alone(data_root, outputs, monkeypatch, capsys):
    words = ["method=class_mean", *harness.SMALL, *LARGE, f"outputs={outputs}", f"data.root={data_root}", "debug=true"]
    monkeypatch.setattr("sys.argv", ["run.py", *words])
    for _ in range(2):
        assert harness.front_door.front_door() == 0
        assert "done already" not in capsys.readouterr().out
    assert [place.name for place in outputs.iterdir()] == ["debug"]


def test_a_sweep_says_where_its_runs_are_and_that_tables_leave_them_out(data_root, outputs, monkeypatch, capsys):
    words = ["-m", "debug=true", "method=class_mean", *harness.SMALL, *LARGE, f"outputs={outputs}", f"data.root={data_root}"]
    monkeypatch.setattr("sys.argv", ["run.py", *words])
    assert harness.front_door.front_door() == 0
    told = capsys.readouterr().out
    place = told.partition("results: ")[2].partition("FOLDER")[0]
    assert len(list(outputs.parent.glob(f"{place.removeprefix(f'{outputs.parent}/')}*/seed0/DONE"))) == 1
    assert "no table" not in told and "numbers mean nothing, and cil tables leaves them out" in " ".join(told.split())


def test_it_changes_no_address_of_other_runs():
    off, on = composed("method=finetune", "debug=false"), composed("method=finetune", "debug=true")
    assert "debug" not in off and digest(off) == digest(composed("method=finetune")) != digest(on)
    assert address(on).startswith("debug/") and on["data"]["decoded"] == "outputs/debug/decoded"
    with pytest.raises(UserError, match="debug=perhaps is not true or false"):
        composed("method=finetune", "debug=perhaps")
