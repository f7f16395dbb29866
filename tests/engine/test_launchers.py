"""A sweep by launchers that need no cluster: its runs are where they always are, and a mistake in one leaves the others."""

import os
import subprocess
import sys

import pytest

from cil.common.errors import explain
from tests import harness


@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_a_launcher_runs_all_and_tells_of_one_that_cannot(data_root, outputs, tmp_path, launcher):
    words = ["method=finetune", "backbone=resnet_tiny", "scenario.tasks=3,2", *harness.SMALL, f"outputs={outputs}"]
    words = [sys.executable, harness.ROOT / "run.py", "-m", f"hydra/launcher={launcher}", *words, f"data.root={data_root}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2
    assert "error: glyphs_10tasks: 100 classes do not split into 3 equal tasks" in ended.stderr
    assert "Traceback" not in ended.stderr and "Warning" not in ended.stderr
    (done,) = outputs.glob("*/*/*/seed*/DONE")
    summary = harness.RunDir(done.parent).summary()
    assert summary["command"].startswith("python run.py method=finetune")  # and not the launcher's own
    straight = harness.compose(*words[4:6], "scenario.tasks=2", *words[7:-2], f"outputs={outputs}_straight", words[-1])
    harness.assert_same_bits(harness.RunDir(done.parent), harness.execute(straight))


@pytest.mark.parametrize(("text", "line"), [
    ("Job 7_1 (task: 0) with path /o/7_1/7_1_0_result.pkl\nhas not produced any output (state: NODE_FAIL)\nError stream",
     "job 7_1 ended without a result (NODE_FAIL), see /o/7_1/7_1_0_log.err; type the same command to resume"),
    ("Job not requeued because: timed-out too many times.", "a job reached its time limit too often; type the same command"),
    ("sbatch: error: invalid partition: x", "the scheduler refused (sbatch: error: invalid partition: x); see conf/hydra"),
    ("Job (task=0) failed during processing with trace:", None),
])  # fmt: skip
def test_what_submitit_says_in_one_line(text, line):
    from submitit.core.utils import UncompletedJobError

    said = explain(UncompletedJobError(text))
    assert said is None if line is None else said.startswith(line)
