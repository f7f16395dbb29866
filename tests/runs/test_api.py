"""The Python interface and `cil results`."""

import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import cil
from cil.commands import results, tables
from cil.common.errors import UserError
from tests import harness

WORDS = ("method=finetune", "backbone=resnet_tiny", "scenario.tasks=2", "train.epochs=1", *harness.SMALL)


@pytest.fixture(scope="module")
def place(tmp_path_factory, data_root):
    return [f"outputs={tmp_path_factory.mktemp('outputs')}", f"data.root={data_root}"]


@pytest.fixture(scope="module")
def made(place):
    return cil.run(*WORDS, *place, seed=3)


def test_a_run_is_what_its_folder_says(made, place):
    assert made.summary["seed"] == 3 and made.config["method"]["_target_"] == "cil.methods.finetune.Finetune"
    assert made.accuracy.shape == (2, 2) and np.isnan(made.accuracy[0, 1])
    assert np.nanmean(made.accuracy[1]) == pytest.approx(made.summary["class_il"]["acc"])
    assert made.identity["data_digest"] and made.events[0]
    again = cil.run(*WORDS, *place, seed=3)
    assert again.path == made.path and cil.load(str(made.path)).summary == made.summary
    assert "finetune on glyphs_10tasks, seed 3: ACC" in repr(made)


def test_predictions_are_those_that_the_accuracy_counts(made):
    scenario = made.trainer.scenario
    for task in scenario:
        answers = made.predict(task.test.pixels[task.test.rows])
        percent = 100 * (answers == task.test.labels).float().mean().item()
        assert percent == pytest.approx(made.accuracy[1, task.index], abs=1e-4)
    assert answers.dtype == torch.long and answers.max() < len(scenario.class_names)


def test_a_folder_without_a_finished_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no finished run"):
        cil.load(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'runn'"):
        cil.runn  # noqa: B018


def test_a_wrong_setting_is_refused_as_on_the_command_line(place):
    for words, sentence in {
        ("train.epoch=3",): "there is no setting train.epoch; did you mean train.epochs?",
        ("optim.lrr=3",): "there is no setting optim.lrr; did you mean optim.lr?",
        ("method=finetun",): "method=finetun is not known; did you mean finetune?",
        ("optim.lr=???",): "optim.lr has no value; type optim.lr=…",
        ("method",): "'method' cannot be read; type key=value, in quotes where the value has brackets or spaces",
        ("scenario.tasks=[[",): r"the command line cannot be read \(.*\); quote values with brackets or spaces",
        ("a b=3",): r"the command line cannot be read \(.*\); quote values with brackets or spaces",
        ("optim=null",): "optim=null is not the name of an option; choose from .*",
        ("method=[1,2]",): r"method=\[1,2\] is not the name of an option; choose from .*",
        ("reading=papers",): "reading=papers is not known; did you mean paper?",
    }.items():
        with pytest.raises(UserError, match=f"^{sentence.replace('?', '.')}$"):
            cil.run(*WORDS, *place, *words)


def test_results_are_rows(made, capsys):
    outputs = made.path.parents[3]
    (row,) = cil.rows(outputs)
    assert row["ACC"] == made.summary["class_il"]["acc"] and row["train.epochs"] == 1 and row["seed"] == 3
    assert len(cil.results(outputs)) == 1
    assert results.main(["--outputs", str(outputs), "--json", "--columns", "method,ACC"]) == 0
    assert json.loads(capsys.readouterr().out) == [{"method": "finetune", "ACC": row["ACC"]}]
    assert results.main(["--outputs", str(outputs)]) == 0
    head, line = capsys.readouterr().out.splitlines()
    assert head.startswith("scenario,method,seed") and line.startswith("glyphs_10tasks,finetune,3")
    assert results.main(["--outputs", str(outputs), "--latex"]) == 0
    assert f"finetune & paper & 3 & {row['ACC']:.1f}" in capsys.readouterr().out
    assert results.main(["--outputs", str(outputs), "--latex", "--columns", "optim.lr,avg_inc,optim._target_"]) == 0
    lr, mean, target = capsys.readouterr().out.splitlines()[3].removesuffix(r" \\").split(" & ")
    assert (float(lr), mean) == (row["optim.lr"], f"{row['avg_inc']:.1f}") and target == "torch.optim.SGD"
    assert results.latex(["a"], [{"a": "{x: 50% of $y}\\~"}]).splitlines()[3] == (r"\{x: 50\% of \$y\}\textbackslash{}\~{} \\")
    assert results.main(["--outputs", str(outputs), "--columns", "AC"]) == 2
    assert capsys.readouterr().err.startswith("error: --columns AC is not a column; did you mean ACC")
    assert results.main(["--outputs", str(outputs), "--columns", "misspelt"]) == 2
    assert capsys.readouterr().err == "error: --columns misspelt is not a column; see the first line of cil results\n"


def test_results_are_a_data_frame_where_pandas_is_installed(made, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not installed
    assert cil.results(made.path.parents[3]) == cil.rows(made.path.parents[3])
    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=lambda rows: ("frame", rows)))
    assert cil.results(made.path.parents[3]) == ("frame", cil.rows(made.path.parents[3]))


def test_tables_show_every_scenario(made, monkeypatch, capsys):
    outputs = made.path.parents[3]
    own = (f"outputs={outputs}", f"data.root={made.config['data']['root']}")
    cil.run(*WORDS, *own, "scenario=glyphs_20tasks", "scenario.tasks=2")
    capsys.readouterr()
    monkeypatch.setattr("sys.argv", ["tables", "--outputs", str(outputs)])
    assert tables.main() == 0
    told = capsys.readouterr().out
    cil.run(*WORDS, *own, "dataset.test_per_class=2")
    capsys.readouterr()
    assert tables.main() == 0
    digest = made.identity["data_digest"]
    heading = f"glyphs_10tasks: 100 classes, 900 training and 300 test images ({digest})\n"
    assert heading in capsys.readouterr().out, "other images are another table"
    monkeypatch.setattr("sys.argv", ["tables", "--outputs", str(outputs), "--scenario", "glyphs_10task"])
    assert tables.main() == 2
    assert capsys.readouterr().err.endswith("; did you mean glyphs_10tasks?\n")
    assert not {"size", "family"} & {key for row in cil.rows(outputs) for key in row}, "settings without values"
    assert told.startswith("glyphs_10tasks\n") and "\n\nglyphs_20tasks\n" in told and told.count("finetune") == 2
