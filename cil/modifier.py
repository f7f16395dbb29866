"""The interface of a modifier: hooks in the training loop that work with any method that has the required capabilities.

Its state is in `state_dict`. A resumed run loads that and does not call `begin_task` or `end_task` again for earlier tasks.
"""

from cil.method import Method, Phase, Scenario, Task


class Modifier:
    """Base class of all modifiers. They act in the order of the command line; that order is part of the run's configuration."""

    remembered: tuple[str, ...] = ()  # names of the attributes that `state_dict` saves

    def attach(self, method: Method) -> None:
        """Raise an error if the method is unsuitable (`capabilities.require`)."""

    def suits(self, method: Method, scenario: Scenario) -> None:
        """Raise an error if the run cannot finish the scenario. Called once, before any training."""
        self.attach(method)

    def begin_task(self, method: Method, task: Task) -> None: ...

    def before_step(self, method: Method, phase: Phase) -> None:
        """Called before each optimizer step, when the gradients are final (already clipped)."""

    def after_step(self, method: Method, phase: Phase) -> None:
        """Called after each optimizer step."""

    def end_task(self, method: Method, task: Task) -> None: ...

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in self.remembered}

    def load_state_dict(self, state: dict) -> None:
        vars(self).update(state)

    def facts(self) -> dict:
        """Return plain numbers that are added to the record after each task."""
        return {}
