"""Zones: named parts of a network, and whether requests may cross from one to another.

A peer tells its zone in HELLO; each peer keeps its own rules. A pair that no rule names may
exchange requests, a peer without a zone is in no pair, and the last matching rule counts, so that
a file reads from general to particular.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from overlay.errors import ConfigError
from overlay.units import parse_duration

_ZONE_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_RULE_FORM = 'a rule is: between = ["a", "b"], forward = true or false, max_rtt = "20ms"'


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneRule:
    """Whether requests may cross between two zones (in either direction), and how far.

    ``max_rtt_s`` is the longest round trip over which they may; None sets no bound.
    """

    between: tuple[str, str]
    forward: bool = True
    max_rtt_s: float | None = None

    def names(self, left: str, right: str) -> bool:
        """True where the rule is about this pair, whichever way round."""
        return self.between in {(left, right), (right, left)}


def may_forward(
    rules: Sequence[ZoneRule], ours: str | None, theirs: str | None, rtt_s: float | None
) -> bool:
    """Whether a request may go from our zone to theirs over this round trip.

    An unmeasured round trip (None) satisfies no bound.
    """
    if ours is None or theirs is None:
        return True
    found = [rule for rule in rules if rule.names(ours, theirs)]
    if not found:
        return True
    rule = found[-1]
    if not rule.forward or rule.max_rtt_s is None:
        return rule.forward
    return rtt_s is not None and rtt_s <= rule.max_rtt_s


def zone_name(written: str) -> str:
    """A zone's name as written, checked.

    Raises:
        ConfigError: when it is none.
    """
    if _ZONE_NAME.fullmatch(written) is None:
        raise ConfigError("a zone is 1 to 64 letters, digits, dots, dashes and underscores")
    return written


def read_zone_rules(value: object) -> tuple[ZoneRule, ...]:
    """Rules as TOML gives them.

    Raises:
        ConfigError: when one is malformed; the message shows the form.
    """
    if not isinstance(value, list):
        raise ConfigError("write each rule under [[zone_rules]]")
    return tuple(_read_rule(each) for each in value)


def _read_rule(value: object) -> ZoneRule:
    match value:
        case {"between": [str() as left, str() as right], **rest}:
            forward, max_rtt = rest.pop("forward", True), rest.pop("max_rtt", None)
        case _:
            raise ConfigError(_RULE_FORM)
    if rest or not isinstance(forward, bool) or not isinstance(max_rtt, str | None):
        raise ConfigError(_RULE_FORM)
    return ZoneRule(
        between=(zone_name(left), zone_name(right)),
        forward=forward,
        max_rtt_s=None if max_rtt is None else parse_duration(max_rtt),
    )
