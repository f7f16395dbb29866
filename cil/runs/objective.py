"""The objective of a search: the number of a run that a search optimises, and the images on which it is measured."""

from typing import Any, Literal

from cil.common.errors import UserError
from cil.common.ranges import fits

METRICS = {
    "average": ("class_il", "incremental_average"),
    "last": ("class_il", "acc"),
    "forgetting": ("class_il", "forgetting"),
    "task_il": ("task_il", "acc"),
}
SMALLER_IS_BETTER = ("forgetting",)
CHOSEN_ON_TEST = "chosen on test accuracy (objective.on=test)"


def checked_objective(objective: Any, scenario: dict) -> dict:
    """Return the objective; raise a one-line `UserError` if it is not known or contradicts the scenario."""
    if not isinstance(objective, dict):
        raise UserError(f"objective={objective} names no setting; type objective.metric={objective}, or objective.on=test")
    for key, annotation in {"metric": Literal[tuple(METRICS)], "on": Literal["validation", "test"]}.items():
        fits(f"objective.{key}", objective.get(key), annotation)
    if wrong := [key for key in objective if key not in ("metric", "on")]:
        raise UserError(f"there is no setting objective.{wrong[0]}; choose from metric, on")
    if objective["on"] == "test" and scenario.get("validation"):
        raise UserError(f"objective.on=test needs the test images, which scenario.validation={scenario['validation']} leaves "
                        "out; leave one of the two out")  # fmt: skip
    return objective


def require_images(objective: dict, scenario: dict) -> None:
    """Raise a `UserError` if a search has neither a validation split nor the permission to use test accuracy."""
    if objective["on"] == "validation" and not scenario.get("validation"):
        raise UserError("a search needs images to choose on; type scenario.validation=0.1, or objective.on=test to choose on "
                        "test accuracy, which tables then say")  # fmt: skip


def require_defined(metric: str, scenario: dict, curve: object) -> None:
    """Raise a `UserError` if the objective is undefined whatever a run gives. `curve`: the setting of `joint`."""
    if METRICS[metric][1] in ("forgetting", "incremental_average") and curve is False:
        other = "objective.metric=last, or method.curve=true" if metric == "average" else "objective.metric=last"
        raise UserError(f"objective.metric={metric} is not defined for a method that is only evaluated after the last task, as "
                        f"joint with method.curve=false; type {other}")  # fmt: skip
    tasks = len(scenario["sizes"]) if isinstance(scenario.get("sizes"), list) else scenario.get("tasks")
    if metric == "forgetting" and tasks == 1 and not str(scenario.get("_target_")).endswith(".InTurn"):
        raise UserError("objective.metric=forgetting is not defined with one task; type objective.metric=last, or "
                        "scenario.tasks=2 or more")  # fmt: skip


def direction(metric: str) -> str:
    """Whether a search should "maximize" or "minimize" this metric."""
    return "minimize" if metric in SMALLER_IS_BETTER else "maximize"


def value_of(summary: dict, metric: str) -> float:
    """The number of a finished run that a search optimises, in percent."""
    part, key = METRICS[metric]
    if (value := summary[part][key]) is None:
        raise UserError(f"objective.metric={metric} is not defined for {summary['method']}, which is only evaluated after the "
                        "last task; type objective.metric=last")  # fmt: skip
    return value


def chosen_on_test(summary: dict) -> bool:
    """Whether this run belongs to a search on test accuracy."""
    return bool(summary["config"].get("objective"))
