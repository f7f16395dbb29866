"""The launcher hydra/launcher=stacked. Hydra finds launchers in this folder only; the work is in cil/commands/stacked.py."""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.types import HydraContext
from omegaconf import DictConfig


class StackedLauncher(BasicLauncher):
    """Hydra's own launcher, which trains the runs in turn or reports that they are done. `train_together` is called before."""

    def setup(self, *, hydra_context: HydraContext, **rest: Any) -> None:
        from cil.commands.compose import Files

        super().setup(hydra_context=hydra_context, **rest)
        loader: Any = hydra_context.config_loader
        loader.repository = Files(loader.repository)  # each run of a sweep reads the same files

    def train_together(self, jobs: Sequence[Sequence[str]]) -> None:
        from cil.commands.stacked import train_together

        assert self.hydra_context is not None and self.config is not None
        loader, base = self.hydra_context.config_loader, self.config
        load, composed = loader.load_sweep_config, dict[tuple[str, ...], DictConfig]()

        def compose(words: list[str]) -> DictConfig:
            return composed.setdefault(tuple(words), load(base, words))

        train_together(jobs, compose)
        loader.load_sweep_config = lambda base, words: composed.pop(tuple(words), None) or load(base, words)  # type: ignore[method-assign]
