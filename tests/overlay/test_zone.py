from __future__ import annotations

import pytest

from overlay.errors import ConfigError
from overlay.zone import ZoneRule, may_forward, read_zone_rules

FAR = ZoneRule(between=("office", "cellar"), max_rtt_s=0.02)
NEVER = ZoneRule(between=("lab", "office"), forward=False)


@pytest.mark.parametrize(
    ("ours", "theirs", "rtt_s", "allowed"),
    [
        ("office", "cellar", 0.01, True),
        ("cellar", "office", 0.02, True),
        ("cellar", "office", 0.021, False),
        ("cellar", "office", None, False),
        ("office", "lab", 0.001, False),
        ("lab", "cellar", 9.0, True),
        ("office", "office", None, True),
        (None, "office", None, True),
        ("office", None, None, True),
    ],
)
def test_a_pair_of_zones_obeys_its_rule(
    ours: str | None, theirs: str | None, rtt_s: float | None, allowed: bool
) -> None:
    assert may_forward([FAR, NEVER], ours, theirs, rtt_s) is allowed


def test_the_last_rule_of_a_pair_counts() -> None:
    again = ZoneRule(between=("office", "lab"))
    assert may_forward([NEVER, again], "lab", "office", 1.0)


def test_rules_are_read_from_toml_values() -> None:
    written = [
        {"between": ["a", "b"], "max_rtt": "20ms"},
        {"between": ["a", "a"], "forward": False},
    ]
    assert read_zone_rules(written) == (
        ZoneRule(between=("a", "b"), max_rtt_s=0.02),
        ZoneRule(between=("a", "a"), forward=False),
    )


@pytest.mark.parametrize(
    "written",
    [
        "office",
        ["office"],
        [{"between": ["a"]}],
        [{"between": ["a", 1]}],
        [{"between": ["a", "b"], "forward": "yes"}],
        [{"between": ["a", "b"], "max_rtt": 20}],
        [{"between": ["a", "b"], "max_rtt": "20"}],
        [{"between": ["a", "b"], "extra": 1}],
        [{"between": ["a b", "c"]}],
        [{"forward": True}],
    ],
)
def test_a_malformed_rule_is_refused(written: object) -> None:
    with pytest.raises(ConfigError):
        read_zone_rules(written)
