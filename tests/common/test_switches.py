"""Groups of settings: flat in YAML, a frozen dataclass in a constructor."""

from dataclasses import FrozenInstanceError

import pytest

from cil.common.errors import UserError
from cil.common.ranges import Count, check
from cil.common.switches import grouped, settings_of, switches
from cil.engine.build import make
from tests.harness import compose


@switches
class Group:
    vote: bool
    batch: Count | None


def target(backbone: object, *, pool: Count, group: Group) -> tuple:
    return pool, group


def test_a_group_is_made_of_its_own_settings():
    assert list(settings_of(target)) == ["backbone", "pool", "vote", "batch"]
    made = grouped(target, {"pool": 3, "vote": True, "batch": None})
    assert made == {"pool": 3, "group": Group(vote=True, batch=None)}
    with pytest.raises(FrozenInstanceError):
        made["group"].vote = False


def test_types_and_names_inside_a_group_are_checked():
    with pytest.raises(UserError, match=r"method.vote=1 is not true or false"):
        check(target, "method", {"vote": 1})
    with pytest.raises(UserError, match=r"method.votes is not a setting of target; did you mean vote"):
        check(target, "method", {"votes": True})


def test_a_missing_switch_is_named():
    node = {key: value for key, value in compose("method=l2p")["method"].items() if key != "vote_test"}
    with pytest.raises(UserError, match=r"method: missing a required argument: 'vote_test'; write it in the YAML file"):
        make(node, "method", object())
