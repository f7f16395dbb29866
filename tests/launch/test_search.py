"""A search with Optuna: a better learning rate on held-out images, the test accuracy once, and trials that stop early."""

import re

import pytest

import cil
from cil.launch import run as front_door
from tests.children import typed
from tests.harness import ROOT

FAST = ("method=finetune", "method.learn=head", "dataset.train_per_class=8", "dataset.test_per_class=3", "scenario.tasks=2",
        "machine=cpu", "log.live=false")  # fmt: skip
RANGE = "optim.lr=tag(log,interval(0.001,1))"


def test_optuna_finds_a_better_rate_and_tests_it_once(data_root, outputs, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    place = (f"outputs={outputs}", f"data.root={data_root}", f"data.features={data_root}/features")
    words = [*FAST, "scenario.validation=0.25", *place]
    ended = typed("-m", "hydra/sweeper=optuna", *words, RANGE, cwd=tmp_path).wait()
    assert ended.returncode == 0, ended.stderr
    trials = [cil.load(done.parent) for done in outputs.glob("*/*/*/seed0/DONE")]
    (test,) = [run for run in trials if not run.config["scenario"].get("validation")]
    trials.remove(test)
    values = {run.config["optim"]["lr"]: run.summary["class_il"]["incremental_average"] for run in trials}
    assert len(values) == 10 and values[test.config["optim"]["lr"]] == max(values.values())
    before = cil.run(*words)
    assert before.config["optim"]["lr"] == 0.005 and max(values.values()) > before.summary["class_il"]["incremental_average"]
    told = re.search(r"^on the test images, .*: ACC ([\d.]+)", ended.stdout, re.M)
    assert float(told[1]) == pytest.approx(test.summary["class_il"]["acc"], abs=0.05)
    assert f"average {max(values.values()):.1f} on the validation images" in ended.stdout
    after = ended.stdout[told.start() :]
    assert ended.stdout.count("on the test images") == after.count(": ACC") == 1 and "learned:" not in after
    assert "validation=0.25" not in test.summary["command"]


def test_a_search_without_images_to_choose_on_is_one_sentence(outputs, tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")
    ended = typed("-m", "hydra/sweeper=optuna", *FAST, RANGE, f"outputs={outputs}", cwd=tmp_path).wait()
    assert ended.returncode == 2 and not outputs.exists() and not ended.stdout
    assert ended.stderr.startswith("error: a search needs images to choose on; type scenario.validation=0.1")
    assert ended.stderr.count("\n") == 1


@pytest.fixture
def search(monkeypatch, capsys, outputs):
    """Words of a search → what it prints."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="hydra-optuna-sweeper is not installed")

    def searched(*words: str) -> tuple[str, str]:
        every = ["-m", "hydra/sweeper=optuna", *FAST[2:], "scenario.validation=0.25", *words, f"outputs={outputs}"]
        monkeypatch.setattr("sys.argv", ["run.py", *every])
        assert front_door.front_door() == 2
        return capsys.readouterr()

    return searched


def test_an_objective_that_is_undefined_is_told_before_the_first_trial(search, outputs):
    for words, line in (
        (("method=joint", "objective.metric=forgetting"), "is only evaluated after the last task, as joint with method.curve="),
        (("method=joint",), "objective.metric=average is not defined for a method that is only evaluated after the last task"),
        (
            ("method=finetune", "scenario.tasks=1", "objective.metric=forgetting"),
            "objective.metric=forgetting is not defined with one task; type",
        ),
    ):
        out, err = search(*words, RANGE)
        assert not out and not outputs.exists() and err.count("\n") == 1 and line in err


@pytest.mark.parametrize("words, line", [
    (("optim.lr=0.1",), "no setting has several values to choose from; type one, as in 'optim.lr=tag(log,"),
    (("seed=0,1", RANGE), "seed=0,1 would choose the best seed; type one seed, and run the best settings with more"),
    (("optim.lr=interval(0.1,0.01)",), "optim.lr=interval(0.1,0.01) holds no numbers to draw from; type another range"),
    (("hydra.sweeper.n_trials=0", RANGE), "hydra.sweeper.n_trials=0 is not a number of runs; type 1 or more"),
    (("hydra.sweeper.n_trial=2", RANGE), "there is no setting hydra.sweeper.n_trial; did you mean hydra.sweeper.n_trials?"),
    (("optim.lrr=interval(0.1,1)",), "there is no setting optim.lrr; did you mean optim.lr?"),
])  # fmt: skip
def test_a_search_of_nothing_is_refused(search, outputs, words, line):
    out, err = search("method=finetune", *words)
    assert not out and not outputs.exists() and err.count("\n") == 1 and err.startswith(f"error: {line}")


@pytest.mark.parametrize("rate", [0.5, 1])
def test_a_search_in_which_every_trial_fails_says_so(search, rate):
    words = ("hydra.sweeper.n_trials=2", f"hydra.sweeper.max_failure_rate={rate}", "optim.lr=interval(-3,-1)")
    lines = search("method=finetune", *words)[1].splitlines()
    assert all(line.startswith("error: ") for line in lines) and lines[0].count("is not a number above 0 to 1000; type") == 1
    assert len(lines) == (1 if rate == 0.5 else 3)
    assert rate == 0.5 or lines[-1].startswith("error: every trial of the search failed, so there is no best one; ")


def test_without_optuna_the_sweeper_says_what_to_install(monkeypatch, capsys, outputs):
    monkeypatch.setattr(front_door, "find_spec", {}.get)
    monkeypatch.setattr("sys.argv", ["run.py", "-m", "hydra/sweeper=optuna", RANGE, f"outputs={outputs}"])
    assert front_door.front_door() == 2
    assert "hydra/sweeper=optuna needs Optuna; type pip install hydra-optuna-sweeper" in capsys.readouterr().err


def test_a_range_needs_a_sweeper_that_draws(monkeypatch, capsys, outputs):
    monkeypatch.setattr("sys.argv", ["run.py", "-m", RANGE, f"outputs={outputs}"])
    assert front_door.front_door() == 2
    assert "interval(…) is a range, of which a grid has no values; type hydra/sweeper=optuna" in capsys.readouterr().err


def example() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "search.md").read_text(), re.S)
    return code


def test_the_example_stops_bad_trials_and_can_be_started_again(monkeypatch, tmp_path, data_root, capsys):
    optuna = pytest.importorskip("optuna", reason="optuna is not installed")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    made, calls = cil.run, []
    words = (*FAST, "scenario.tasks=5", f"data.root={data_root}", f"data.features={data_root}/features")

    def small(*own, **more):
        calls.append(own)
        own = [word.replace("validation=0.1", "validation=0.25") for word in own]
        return made(*own, *words, **more)

    monkeypatch.setattr(cil, "run", small, raising=False)
    monkeypatch.chdir(tmp_path)
    studies = []
    for _ in range(2):
        found: dict = {}
        exec(example(), found)
        studies.append([(str(t.state), t.params, t.intermediate_values, t.value) for t in found["study"].trials])
        assert found["study"].best_value >= found["study"].trials[0].value
    assert studies[0] == studies[1] and len(studies[0]) == 10
    stopped = [trial for trial in studies[0] if "PRUNED" in trial[0]]
    assert stopped and all(len(trial[2]) < 5 for trial in stopped)
    assert capsys.readouterr().out.count("test accuracy:") == 2  # once a search
    assert sum("scenario.validation=0.1" not in own for own in calls) == 2
