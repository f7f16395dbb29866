"""A training step of several runs launches hardly more kernels than that of one."""

import json

import pytest

from cil.commands import bench
from tests import harness

DEEP = ("backbone.changes.depth=12", "dataset.train_per_class=2", "train.batch_size=2",
        *harness.SMALL[2:])  # fmt: skip


@pytest.mark.parametrize(("words", "five", "ten"), [
    (["method=dualprompt"], 1.3, 1.6),
    (["method=dualprompt", "modifier=pgp"], 1.4, 1.6),  # every second run has PGP
    (["method=l2p"], 1.3, 1.6),
    (["method=coda_prompt"], 1.3, 1.6),
])  # fmt: skip
def test_kernels_of_several_runs(words, five, ten, data_root, capsys):
    assert bench.main(["stack", "--rounds", "1", *words, f"data.root={data_root}", *DEEP]) == 0
    rows = {row["runs"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert list(rows) == [1, 2, 5, 10] and rows[1]["kernels"] > 400
    assert rows[5]["kernels_ratio"] <= five and rows[10]["kernels_ratio"] <= ten
