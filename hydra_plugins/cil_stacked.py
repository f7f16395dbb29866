"""The launcher hydra/launcher=stacked. Hydra finds launchers in this folder only; the work is in cil/commands/stacked.py."""

from collections.abc import Sequence

from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra.core.utils import JobReturn


class StackedLauncher(BasicLauncher):
    """Trains together what can be. Then Hydra's own launcher takes all runs in turn: it trains the others and reports all."""

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from cil.commands.stacked import train_together

        assert self.hydra_context is not None and self.config is not None
        load, base = self.hydra_context.config_loader.load_sweep_config, self.config
        train_together(job_overrides, lambda words: load(base, words))
        return super().launch(job_overrides, initial_job_idx)
