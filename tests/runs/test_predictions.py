"""Stored predictions: what is counted from them, and what is never believed."""

import numpy as np
import pytest

from cil.common.errors import UserError
from cil.metrics import AccuracyMatrix
from cil.runs import predictions
from cil.runs.run_folder import RunDir
from tests import harness

LABELS, ANSWERS = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 1, 1, 2, 0, 0])


def arrays(scores: np.ndarray | None = None, answers: np.ndarray = ANSWERS) -> dict[str, np.ndarray]:
    scores = np.eye(3)[answers] if scores is None else scores
    small = {"answers": answers, "labels": LABELS, "tasks": np.array([0, 0, 0, 1, 1, 1]), "rows": np.arange(6)}
    return {"scores": scores, **{key: value.astype(np.int32) for key, value in small.items()}, "names": np.array(list("abé"))}


@pytest.fixture
def run(tmp_path) -> RunDir:
    """Two tasks of two and one classes, three test images each; two and one answers are correct."""
    made, matrix = RunDir(tmp_path), AccuracyMatrix([3, 3])
    matrix.set_row(0, [3])
    matrix.set_row(1, [2, 1])
    made.write_matrices({"class_il": matrix})
    return made


def test_a_confusion_matrix_counts_every_image_once():
    counts = predictions.confusion(LABELS, ANSWERS, 3)
    assert counts.tolist() == [[1, 1, 0], [0, 1, 0], [2, 0, 1]]
    assert predictions.per_class(counts).round(1).tolist() == [50.0, 100.0, 33.3]
    assert np.isnan(predictions.per_class(predictions.confusion(LABELS[:3], ANSWERS[:3], 3))).tolist() == [False, False, True]
    wider = predictions.confusion(LABELS, np.array([0, 1, 1, 2, 0, 4]), 3)  # a class that was not seen yet
    assert wider.shape == (5, 5) and wider[2].tolist() == [1, 0, 1, 0, 1] and wider.sum() == 6


def test_what_is_written_is_read(run):
    predictions.write(run, 1, arrays())
    (found,) = predictions.read(run.path).values()
    assert found.scores.dtype == np.float16 and found.scores.tolist() == np.eye(3)[ANSWERS].tolist()
    assert found.names.tolist() == list("abé") and found.answers.tolist() == ANSWERS.tolist()
    assert found.correct().tolist() == [2, 1] and found.confusion().trace() == 3
    assert predictions.read(run.path, [0]) == {}


def test_scores_out_of_the_range_of_float16_stay_float32(run):
    scores = np.eye(3, dtype=np.float32)[ANSWERS] - np.float32(70000.5)
    predictions.write(run, 1, arrays(scores))
    assert np.array_equal(predictions.read(run.path)[1].scores, scores)
    scores[0, 2], scores[1:] = -np.inf, 1.0  # a masked class is within the range
    predictions.write(run, 1, arrays(np.where(scores < -9, -np.inf, scores)))
    assert predictions.read(run.path)[1].scores.dtype == np.float16


def test_a_damaged_file_is_not_believed(run):
    predictions.write(run, 1, arrays())
    file = predictions.place(run.path, 1)
    whole = file.read_bytes()
    for damaged in (whole[: len(whole) // 2], b"", whole.replace(b"PK", b"XX")):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match="is damaged; delete it and type the command of the run again"):
            predictions.read(run.path)
    for place in range(60, len(whole) - 900, 37):  # one changed byte, somewhere in the data
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            found = predictions.read(run.path)[1]
            same = {**{name: getattr(found, name) for name in predictions.SMALL}, "scores": found.scores}
        except UserError:
            continue
        assert all(np.array_equal(same[name], value) for name, value in arrays().items()), place


def test_predictions_of_another_run_are_not_believed(run):
    predictions.write(run, 1, arrays(answers=np.array([0, 0, 1, 2, 0, 0])))
    with pytest.raises(UserError, match=r"task_01\.npz does not count what accuracy\.csv counts; delete it"):
        predictions.read(run.path)


def test_a_run_that_goes_on_removes_what_is_ahead_of_it(run):
    predictions.write(run, 1, arrays())
    predictions.write(run, 0, arrays())
    assert [file.name for file in sorted((run.path / "predictions").iterdir())] == ["task_00.npz"]
    (run.path / "predictions" / ".task_01.npz.1.partial").write_text("torn")
    run.clear_partial()
    assert not list((run.path / "predictions").glob(".*"))


def test_the_setting_is_in_no_address(compose):
    asked, not_asked = compose("save.predictions=true"), compose()
    assert harness.run_of(asked).path == harness.run_of(not_asked).path
    from cil.runs.settings import checked

    with pytest.raises(UserError, match=r"save\.predictions=yes please is not"):
        checked(asked | {"save": {"predictions": "yes please"}})
    with pytest.raises(UserError, match=r"there is no setting save\.prediction; did you mean save.predictions"):
        checked(asked | {"save": {"prediction": True}})


def test_the_setting_is_no_reason_for_another_number():
    from cil.report.why import between

    assert between({"config.save.predictions": True}, {"config.save.predictions": False}) == []
