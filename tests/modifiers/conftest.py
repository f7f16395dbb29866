"""Three small tasks, and a backbone so narrow that the released mix-up of spaces can be made."""

import pytest

NARROW = (
    "backbone.changes.embed_dim=32",
    "train.epochs=2",
    "train.batch_size=12",
    "optim.lr=0.01",
    "machine.checkpoint_seconds=0",
)


@pytest.fixture
def small(compose, scenario, monkeypatch):
    """Three tasks of 36 images; the backbone is 32 wide, so that the released code's mix-up of spaces can be made."""
    monkeypatch.setattr("cil.build.build_scenario", lambda config, backbone: scenario)
    pool = {"l2p": ("method.pool=5", "method.length=2", "method.top_k=2")}
    return lambda host, *words: compose(f"method={host}", "modifier=pgp", *NARROW, *pool.get(host, ()), *words)
