"""The contract of a modifier: it acts on any method that offers what it needs, at named moments of the one loop."""

from cil.method import Method, Phase
from cil.scenario import Task


class Modifier:
    """Modifiers act in the order listed on the command line; that order is part of a run's address."""

    def attach(self, method: Method) -> None:
        """Refuse unsuitable hosts, in words (`capabilities.require`)."""

    def begin_task(self, method: Method, task: Task) -> None: ...

    def before_step(self, method: Method, phase: Phase) -> None:
        """Gradients are final (clipped), weights have not moved."""

    def end_task(self, method: Method, task: Task) -> None: ...

    def state_dict(self) -> dict:
        return {}

    def load_state_dict(self, state: dict) -> None: ...
