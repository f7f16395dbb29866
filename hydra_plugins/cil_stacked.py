"""The launcher hydra/launcher=stacked. Hydra finds launchers in this folder only; the work is in cil/launch/stacked.py."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn
from hydra.types import HydraContext
from omegaconf import DictConfig


class StackedLauncher(BasicLauncher):
    """Hydra's own launcher, which trains the runs in turn or reports that they are done. `train_together` is called before."""

    def setup(self, *, hydra_context: HydraContext, **rest: Any) -> None:
        from cil.launch.compose import Files

        super().setup(hydra_context=hydra_context, **rest)
        loader: Any = hydra_context.config_loader
        loader.repository = Files(loader.repository)  # each run of a sweep reads the same files
        load, self.composed = loader.load_sweep_config, dict[tuple[str, ...], DictConfig]()

        def once(master_config: DictConfig, sweep_overrides: list[str]) -> DictConfig:
            """The configuration of a run: for Hydra's check of the sweep, for `train_together` and for the launch."""
            words = tuple(sweep_overrides)
            if words not in self.composed:
                self.composed[words] = load(master_config, sweep_overrides)
            return self.composed[words]

        loader.load_sweep_config = once

    def train_together(self, jobs: Sequence[Sequence[str]]) -> None:
        from cil.launch.stacked import train_together

        assert self.hydra_context is not None and self.config is not None
        train_together(jobs, partial(self.hydra_context.config_loader.load_sweep_config, self.config))

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        try:
            return super().launch(job_overrides, initial_job_idx)
        finally:
            for words in map(tuple, job_overrides):  # Hydra has written the job's number into its configuration
                self.composed.pop(words, None)
