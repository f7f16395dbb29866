"""Predictions that runs keep: they count what the accuracies count, however a run is evaluated, killed or asked again."""

import os
import subprocess
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch

import cil
from cil.common.errors import UserError
from cil.engine.trainer import Trainer
from cil.launch.run import verified
from cil.runs import predictions
from cil.runs.run_folder import RunDir, read_matrices
from tests import harness
from tests.data.test_in_turn import SMALL as IN_TURN
from tests.engine.test_processes import command, only
from tests.methods.test_contract import small, trainer_of  # noqa: F401

KEEP = "save.predictions=true"


def counted(run: RunDir) -> dict[int, predictions.Predictions]:
    """The predictions of a run, after a check that each file counts the answers of every way of counting that it can."""
    found, matrices = predictions.read(run.path), read_matrices(run.path)
    for task, own in found.items():
        assert own.correct().tolist() == matrices["class_il"].correct[task, : task + 1].tolist()
        assert own.scores.shape[0] == len(own.answers) == matrices["class_il"].totals[: task + 1].sum()
        best = own.scores[np.arange(len(own.answers)), own.answers]
        assert (own.scores.max(1) - best <= 2e-3 * np.abs(best) + 1e-6).all(), "float16 may round two scores to one"
    return found


@pytest.mark.parametrize("method", ["class_mean", "dualprompt", "rapf"])
def test_every_test_image_has_scores_after_each_task(small, scenario, method):  # noqa: F811
    run = harness.execute(small(method, KEEP))
    found = counted(run)
    assert sorted(found) == [0, 1, 2]
    for task, own in found.items():
        tests = [one.test for one in scenario[: task + 1]]
        assert own.labels.tolist() == torch.cat([test.labels for test in tests]).tolist()
        assert own.rows.tolist() == torch.cat([test.rows for test in tests]).tolist()
        assert own.names.tolist() == [name for one in scenario[: task + 1] for name in one.names]
        assert own.scores.shape[1] == 2 * task + 2


def test_fit_returns_the_accuracies(small, tmp_path):  # noqa: F811
    trainer = trainer_of(small("class_mean"), tmp_path)
    made = trainer.fit()
    assert made is trainer.matrices and made["class_il"].learned == 3 and np.isfinite(made["task_il"].average())


def test_nothing_is_kept_unless_it_is_asked_for(small):  # noqa: F811
    run = harness.execute(small("class_mean"))
    assert not (run.path / "predictions").exists()
    with pytest.raises(UserError, match=r"has no predictions; type its settings again with save\.predictions=true"):
        _ = cil.load(run.path).predictions


def test_the_python_door_gives_accuracies_of_classes(small):  # noqa: F811
    run = cil.load(harness.execute(small("finetune", KEEP)).path)
    assert run.per_class.shape == (3, 6) and run.confusion.shape == (6, 6)
    assert np.isnan(run.per_class[0, 2:]).all() and np.isfinite(run.per_class[2]).all()
    for task in range(3):
        of_tasks = run.per_class[task].reshape(3, 2).mean(axis=1)[: task + 1]  # classes have equally many test images
        assert of_tasks == pytest.approx(run.accuracy[task, : task + 1])
    assert 100 * run.confusion.trace() / run.confusion.sum() == pytest.approx(run.accuracy[2].mean())


def test_a_method_without_answers_in_the_middle_has_those_of_the_end(small):  # noqa: F811
    run = harness.execute(small("joint", "method.curve=false", KEEP))
    assert sorted(counted(run)) == [2]
    door = cil.load(run.path)
    assert np.isnan(door.per_class[:2]).all() and np.isfinite(door.per_class[2]).all()


def test_two_datasets_with_separate_heads(tmp_path, data_root):
    words = (f"outputs={tmp_path}", f"data.root={data_root}", *IN_TURN, "scenario.heads=separate", "scenario.exemplars=own")
    run = harness.execute(harness.compose("method=finetune", *words, KEEP))
    matrix, found = read_matrices(run.path), counted(run)
    last = found[max(found)]
    task_il = np.zeros(len(matrix["task_il"].totals))
    starts = [last.labels[last.tasks == task].min() for task in range(len(task_il))] + [len(last.names)]
    for task, (start, stop) in enumerate(pairwise(starts)):
        own = last.tasks == task
        task_il[task] = (last.scores[own, start:stop].argmax(1) + start == last.labels[own]).sum()
    assert np.abs(task_il - matrix["task_il"].correct[-1]).max() <= 1, "the scores, too, are of the image"


def test_a_run_killed_before_its_checkpoint_keeps_nothing_of_what_it_had_written(small, tmp_path, monkeypatch):  # noqa: F811
    straight, config = harness.execute(small("finetune", KEEP, f"outputs={tmp_path / 'straight'}")), small("finetune", KEEP)
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save", killed_after(1, Trainer._save))
        with pytest.raises(KeyboardInterrupt):
            harness.execute(config)
    path = harness.run_of(config).path
    assert [file.name for file in sorted((path / "predictions").iterdir())] == ["task_00.npz", "task_01.npz"]
    predictions.place(path, 1).write_bytes(b"torn")
    predictions.place(path, 2).write_bytes(b"of a process that was ahead")
    (path / "predictions" / ".task_02.npz.1.partial").write_bytes(b"torn")
    one, two = counted(straight), counted(harness.execute(config))
    assert sorted(one) == sorted(two) == [0, 1, 2] and len(list((path / "predictions").iterdir())) == 3
    for task in one:
        assert np.array_equal(one[task].scores, two[task].scores) and np.array_equal(one[task].answers, two[task].answers)


def killed_after(task: int, save: Callable) -> Callable:
    """A `Trainer._save` that is never reached after a task."""

    def saved(self, ended, inside):
        if ended.index == task and inside is None:
            raise KeyboardInterrupt
        save(self, ended, inside)

    return saved


def test_a_finished_run_without_them_is_evaluated_again(small, tmp_path, capsys):  # noqa: F811
    kept = harness.execute(small("class_mean", KEEP, f"outputs={tmp_path / 'kept'}"))
    for keep, tasks, line in (
        ("all", [0, 1, 2], "made the predictions of 3 tasks from kept checkpoints\n"),
        ("newest", [2], "made the predictions of 1 task from kept checkpoints\nno predictions after 2 earlier tasks, since "
                        "their checkpoints were not kept; for all,\ntype outputs=DIR save.predictions=true to run it again\n"),
    ):  # fmt: skip
        place = (f"machine.keep_checkpoints={keep}", f"outputs={tmp_path / keep}")
        run = harness.execute(small("class_mean", *place))
        sealed = (run.path / "DONE").read_bytes()
        capsys.readouterr()
        assert verified(run, small("class_mean", *place, KEEP)) == run.summary()
        assert capsys.readouterr().out.endswith(line)
        found, expected = counted(run), counted(kept)
        assert sorted(found) == tasks and (run.path / "DONE").read_bytes() == sealed
        for task in tasks:
            assert np.array_equal(found[task].scores, expected[task].scores)
        predictions.place(run.path, 2).write_bytes(b"torn")
        verified(run, small("class_mean", *place, KEEP))
        assert sorted(counted(run)) == tasks, "a damaged file is made again, and the others stay"


def test_a_sweep_says_once_that_it_made_predictions(data_root, outputs, monkeypatch, capsys):
    words = ["-m", "method=class_mean", "scenario.tasks=2,4", *harness.SMALL, f"outputs={outputs}", f"data.root={data_root}"]
    printed = []
    for more in ([], [KEEP], [KEEP]):
        monkeypatch.setattr("sys.argv", ["run.py", *words, *more])
        assert harness.front_door.front_door() == 0
        printed.append(capsys.readouterr().out.partition("2 runs:")[::2])
    assert len(list(outputs.glob("*/*/*/seed0/predictions/*.npz"))) == 2
    assert printed[1][0] == printed[2][0] and printed[0][0].count("\n") == printed[1][0].count("\n"), "one line a run"
    assert [end.count("predictions: added to 2 finished runs; tasks without a kept") for _, end in printed] == [0, 1, 0]


def test_a_finished_run_without_checkpoint_says_what_to_type(small):  # noqa: F811
    run = harness.execute(small("class_mean"))
    run.newest.unlink()
    with pytest.raises(UserError, match=r"has no checkpoint to make them from; type outputs=DIR to run it again"):
        verified(run, small("class_mean", KEEP))
    assert verified(run, small("class_mean")) == run.summary()


def test_a_checkpoint_that_answers_otherwise_gives_no_predictions(small, monkeypatch):  # noqa: F811
    run = harness.execute(small("class_mean"))
    from cil.methods.class_mean import ClassMean

    original = ClassMean.predict_from
    monkeypatch.setattr(ClassMean, "predict_from", lambda self, *given: -original(self, *given))
    with pytest.raises(UserError, match=r"test images correctly here, where accuracy\.csv has .* so no predictions"):
        verified(run, small("class_mean", KEEP))
    assert not predictions.read(run.path)


PROCESS = """
import sys
import torch.distributed as dist
from cil.launch import run as front_door
from cil.runs import predictions
from cil.runs.run_folder import run_at
from tests import harness
config = harness.compose(*sys.argv[1:])
run = run_at(harness.run_of(config).path)
front_door.execute(config, run)
dist.barrier()
if run.writes:
    predictions.place(run.path, 4).unlink()
dist.barrier()
front_door.verified(run, config)
"""


def test_two_processes_keep_what_each_has_answered(tmp_path, data_root):
    """Also when they are asked again, with a file missing."""
    (tmp_path / "process.py").write_text(PROCESS)
    typed = command(tmp_path / "outputs", data_root, "method=class_mean", KEEP)
    typed = [str(tmp_path / "process.py") if word.endswith("run.py") else word for word in typed]
    done = subprocess.run(typed, cwd=harness.ROOT, capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PYTHONPATH": str(harness.ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("made the predictions of 1 task from kept checkpoints\n") == 1
    run = only(tmp_path / "outputs")
    assert sorted(counted(run)) == [0, 1, 2, 3, 4] and run.summary()["identity"]["processes"] == 2
