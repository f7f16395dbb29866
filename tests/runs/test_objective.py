"""The objective of a search: what main returns, on which images, and how runs on test accuracy are marked."""

import pytest
import yaml

from cil.common.errors import UserError
from cil.launch import run as front_door
from cil.report.collect import collect, rows, table
from cil.report.finished import rows as every_run
from cil.runs.objective import METRICS, direction, require_images, value_of
from cil.runs.record import Record, Reported
from cil.runs.run_folder import digest, read_matrices
from tests import harness
from tests.harness import ROOT

WORDS = ("method=finetune", "backbone=resnet_tiny", "scenario.tasks=2", "train.batch_size=64")


@pytest.fixture
def finished(compose):
    return harness.execute(compose(*WORDS, "scenario.validation=0.25"))


def test_an_objective_is_a_number_of_the_matrix(finished):
    summary, matrix = finished.summary(), read_matrices(finished.path)["class_il"]
    assert value_of(summary, "average") == pytest.approx(matrix.incremental_average(), abs=1e-3)
    assert value_of(summary, "last") == pytest.approx(matrix.average(), abs=1e-3) != value_of(summary, "average")
    assert value_of(summary, "forgetting") == pytest.approx(matrix.forgetting(), abs=1e-3)
    assert {metric for metric in METRICS if direction(metric) == "minimize"} == {"forgetting"}
    undefined = {**summary, "method": "joint", "class_il": {**summary["class_il"], "incremental_average": None}}
    with pytest.raises(UserError, match=r"average is not defined for joint.* type objective.metric=last"):
        value_of(undefined, "average")


def test_only_an_objective_on_test_images_is_part_of_a_run(compose):
    plain = compose(*WORDS)
    assert "objective" not in plain
    for words in (["objective.metric=last"], ["objective.on=validation"]):
        assert compose(*WORDS, *words) == plain
    assert compose(*WORDS, "scenario.validation=0.25", "objective.metric=last").get("objective") is None
    on_test = compose(*WORDS, "objective.on=test")
    assert on_test["objective"] == {"on": "test"} and digest(on_test) != digest(plain)
    assert digest(compose(*WORDS, "objective.on=test", "objective.metric=last")) == digest(on_test)


@pytest.mark.parametrize(("words", "sentence"), [
    (["objective=average"], "objective=average names no setting; type objective.metric=average, or objective.on=test"),
    (["objective.metric=avrage"], "objective.metric=avrage is not known; did you mean average?"),
    (["objective.on=train"], "objective.on=train is not known"),
    (["+objective.images=test"], "there is no setting objective.images; choose from metric, on"),
    (["objective.on=test", "scenario.validation=0.1"], "objective.on=test needs the test images, which scenario."),
])  # fmt: skip
def test_a_wrong_objective_is_one_sentence(compose, words, sentence):
    with pytest.raises(Exception, match=r".") as raised:
        compose(*WORDS, *words)
    said = front_door.explain(raised.value)
    assert said and said.startswith(sentence) and "\n" not in said


def test_a_search_needs_a_validation_split_or_the_word_test():
    with pytest.raises(UserError, match=r"type scenario.validation=0.1, or objective.on=test"):
        require_images({"metric": "average", "on": "validation"}, {})
    require_images({"metric": "average", "on": "validation"}, {"validation": 0.1})
    require_images({"metric": "average", "on": "test"}, {})


def test_tables_mark_runs_that_were_chosen_on_test_accuracy(compose, outputs):
    for words in ([], ["objective.on=test"]):
        harness.execute(compose(*WORDS, *words))
    found, _ = collect(outputs)
    (plain,), (marked,) = sorted(rows(found), key=lambda group: "objective" in group[0]["config"])
    titles = [line for line in table([[plain], [marked]]).splitlines() if line.startswith("finetune")]
    assert "chosen on test accuracy" not in titles[0] and titles[1].startswith("finetune, chosen on test accuracy")
    assert any("chosen on test accuracy" in warning for warning in marked["warnings"])
    assert not any("chosen on test accuracy" in warning for warning in plain["warnings"])
    assert plain["class_il"] == marked["class_il"] and plain["address"] != marked["address"]
    assert [row.get("objective.on") for row in every_run(outputs)].count("test") == 1


def test_accuracies_are_told_once_a_task_also_after_a_resume(compose):
    class Enough(Exception):
        pass

    config, told = compose(*WORDS, "scenario.tasks=5"), []

    def stop(matrix) -> None:
        told.append(matrix)
        if matrix.learned == 3:
            raise Enough

    run = harness.run_of(config)
    with pytest.raises(Enough):
        front_door.execute(config, run, stop)
    assert [matrix.learned for matrix in told] == [1, 2, 3] and run.newest.name == "task_02.pt"
    front_door.execute(config, run, told.append)
    assert [matrix.learned for matrix in told[3:]] == [1, 2, 3, 4, 5]
    assert [m.incremental_average() for m in told[:3]] == [m.incremental_average() for m in told[3:6]]
    harness.assert_same_bits(run, harness.execute({**config, "outputs": f"{config['outputs']}_straight"}))
    again: list = []
    Reported(read_matrices(run.path)["class_il"], again.append)()
    assert [m.average() for m in again] == [m.average() for m in told[3:]]


# --- W&B sweeps -------------------------------------------------------------------------------------------------------


def test_what_a_sweep_optimises_is_logged(finished):
    wanted = yaml.safe_load((ROOT / "scripts" / "wandb_sweep.yaml").read_text())["metric"]
    assert wanted == {"name": "/".join(METRICS["average"]), "goal": direction("average")}
    first, last = [point.values for point in Record(finished.path).fresh(None) if point.axis == "task"]
    assert {"/".join(key) for key in METRICS.values()} <= last.keys() and wanted["name"] in first
    assert last[wanted["name"]] == pytest.approx(value_of(finished.summary(), "average"), abs=1e-3)


def test_the_agent_of_a_sweep_types_a_command_that_composes():
    utils = pytest.importorskip("wandb.sdk.launch.sweeps.utils", reason="wandb is not installed")
    sweep = yaml.safe_load((ROOT / "scripts" / "wandb_sweep.yaml").read_text())
    assert (ROOT / sweep["program"]).is_file()
    given = {key: {"value": parameter["max"]} for key, parameter in sweep["parameters"].items()}
    words = utils.create_sweep_command_args({"args": given})["args_no_hyphens"]
    command = utils.create_sweep_command(sweep["command"])
    assert command[:3] == ["${env}", "${interpreter}", "${program}"] and command[-1] == "${args_no_hyphens}"
    config = harness.compose(*command[3:-1], *words)
    assert config["optim"]["lr"] == 0.1 and config["log"]["_target_"].endswith("Wandb") and config["scenario"]["validation"]


def test_a_trial_of_a_sweep_needs_images_to_choose_on(monkeypatch, capsys, outputs):
    monkeypatch.setenv("WANDB_SWEEP_ID", "abc")
    monkeypatch.setattr("sys.argv", ["run.py", *WORDS, f"outputs={outputs}"])
    assert front_door.front_door() == 2
    assert capsys.readouterr().err.startswith("error: a search needs images to choose on; type scenario.validation=0.1")
    assert not [*outputs.glob("*/*/*/*/*")]
