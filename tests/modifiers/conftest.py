"""Three small tasks, and a backbone so narrow that the released mix-up of spaces can be made."""

import pytest

NARROW = (
    "train.epochs=2",
    "train.batch_size=12",
    "optim.lr=0.01",
    "machine.checkpoint_seconds=0",
)


@pytest.fixture
def small(compose, scenario, monkeypatch):
    """Three tasks of 36 images; the backbone is 32 wide, so that the released code's mix-up of spaces can be made."""
    monkeypatch.setattr("cil.engine.build.build_scenario", lambda config, backbone, images=None: scenario)
    clip = ("backbone.changes.vision_cfg.width=32", "optim.lr=0.5", "method.first=null", "method.text_length=2")
    own = {"l2p": ("method.pool=5", "method.length=2", "method.top_k=2"), "clip_prompt": clip,
           "pet": ("method.size=3", "method.blocks=2", "method.head_epochs=1", "train.first=null")}  # fmt: skip

    def composed(host: str, *words: str) -> dict:
        host, *more = host.split()
        width = () if host == "clip_prompt" else ("backbone.changes.embed_dim=32",)
        return compose(f"method={host}", "modifier=pgp", *NARROW, *width, *own.get(host, ()), *more, *words)

    return composed
