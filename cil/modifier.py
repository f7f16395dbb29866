"""The contract of a modifier: it acts on any method that offers what it needs, at named moments of the one loop.

What it remembers is in its `state_dict`: a resumed run loads that and does not call `begin_task` or `end_task` again.
"""

from cil.data.scenario import Scenario, Task
from cil.method import Method, Phase


class Modifier:
    """Modifiers act in the order listed on the command line; that order is part of a run's address."""

    def attach(self, method: Method) -> None:
        """Refuse unsuitable hosts, in words (`capabilities.require`)."""

    def suits(self, method: Method, scenario: Scenario) -> None:
        """Refuse what cannot be learned to the end. Asked once, before anything is trained."""
        self.attach(method)

    def begin_task(self, method: Method, task: Task) -> None: ...

    def before_step(self, method: Method, phase: Phase) -> None:
        """Gradients are final (clipped), weights have not moved."""

    def after_step(self, method: Method, phase: Phase) -> None:
        """The optimizer has moved the weights."""

    def end_task(self, method: Method, task: Task) -> None: ...

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None: ...

    def facts(self) -> dict:
        """Plain numbers for the record after each task."""
        return {}
