"""What stands in for wandb in tests, and keeps what it is told."""

from pathlib import Path


class Fake:
    """A module that keeps what it is told. `server`: id → the step that comes next, as the service behind wandb has it."""

    def __init__(self) -> None:
        self.runs, self.server, self.breaks, self.refuses = [], {}, set(), ()
        self.Settings = lambda **given: given
        self.Table = lambda *, columns, data: ("table", columns, data)
        self.Image = lambda file: ("image", Path(file).name)

    def init(self, **given) -> "FakeRun":
        if given["mode"] in self.refuses:
            raise OSError("no route to host")
        self.runs.append(FakeRun(self, given))
        return self.runs[-1]


class FakeRun:
    def __init__(self, module: Fake, given: dict) -> None:
        self.module, self.given, self.logged, self.axes = module, given, {}, {}
        self.summary, self.config, self.exit_code, self.calls = {}, FakeConfig(given["config"]), None, 0
        self.starting_step = module.server.get(given["id"], 0) if given["mode"] == "online" else 0
        self.url = f"https://wandb/{given['id']}" if given["mode"] == "online" else None

    def define_metric(self, name: str, *, step_metric: str) -> None:
        self.axes[name] = step_metric

    def log(self, values: dict, *, step: int) -> None:
        self.calls += 1
        if self.calls in self.module.breaks:
            raise OSError(28, "No space left on device")
        assert step not in self.logged and step >= self.starting_step
        self.logged[step] = values
        self.module.server[self.given["id"]] = step + 1

    def finish(self, *, exit_code: int) -> None:
        self.exit_code = exit_code


class FakeConfig(dict):
    def update(self, values: dict, *, allow_val_change: bool) -> None:
        super().update(values)
