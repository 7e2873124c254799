"""Plain data (of TOML or JSON) to the typed classes of a scenario, refusing what they have not.

Every error names its place. The classes' own annotations say what is read; their bounds are here.
"""

from __future__ import annotations

import enum
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

from chaos.errors import ScenarioError
from chaos.faults.catalogue import fault_of, nearest
from chaos.faults.fault import Fault
from chaos.scenario.request import PlannedRequest
from chaos.scenario.scenario import (
    Cluster,
    Landmark,
    Limits,
    Scenario,
    Swarm,
    Systematic,
    Workload,
)

T = TypeVar("T")
Place = tuple[str | int, ...]

EVENTS = ("answered", "forwarded", "digest_published", "evicted", "peer_up", "peer_down")
"""What a landmark can wait for; the modes write each as a ``LANDMARK`` of the history."""

_LANDMARK = re.compile(r"after:(?P<event>\w+)(?:\((?P<node>\w+)\))?(?:#(?P<count>[0-9]+))?")

HOUR_S = 3600.0
NODES_MAX = 64
BOUNDS: Mapping[type, Mapping[str, tuple[float, float]]] = {
    Scenario: {
        "warm_up_s": (0, HOUR_S),
        "duration_s": (0.1, 24 * HOUR_S),
        "settle_s": (0, HOUR_S),
    },
    Cluster: {
        "nodes": (1, NODES_MAX),
        "slots": (1, 256),
        "cache_blocks": (8, 1_000_000),
        "context_tokens": (128, 1_000_000),
        "prefill_tokens_per_s": (1, 1e7),
        "decode_ms_per_token": (0.001, 60_000),
        "delay_ms": (0, 60_000),
        "certificate_s": (0, HOUR_S),
        "slow": (0.01, 1000),
        "late": (0, HOUR_S),
    },
    Workload: {
        "requests_per_s": (0, 1000),
        "documents": (1, 100_000),
        "document_tokens": (1, 100_000),
        "question_tokens": (1, 100_000),
        "max_tokens": (1, 100_000),
        "cancel_fraction": (0, 1),
        "hot_fraction": (0, 1),
        "timeout_s": (0.1, HOUR_S),
    },
    Limits: {
        "success_fraction_min": (0, 1),
        "ttft_ratio_p99_max": (0.01, 10_000),
        "converge_s": (0.1, HOUR_S),
        "grace_s": (0.1, HOUR_S),
        "progress_s": (0.1, HOUR_S),
    },
    Swarm: {"include_probability": (0, 1), "faults_max": (1, 100)},
    Systematic: {"depth": (1, 2), "for_s": (0.1, HOUR_S)},
    PlannedRequest: {
        "at_s": (0, 24 * HOUR_S),
        "document": (0, 2**31),
        "document_tokens": (1, 100_000),
        "question": (0, 2**31),
        "question_tokens": (1, 100_000),
        "max_tokens": (1, 100_000),
        "timeout_s": (0.1, HOUR_S),
        "cancel_after_s": (0, HOUR_S),
    },
}


class Misplaced(ScenarioError):
    """Something wrong at a place: names of tables and keys, and numbers in lists from 1."""

    def __init__(self, place: Place, what: str) -> None:
        super().__init__(f"{shown(place)}: {what}" if place else what)
        self.place = place
        self.what = what


def shown(place: Place) -> str:
    """A place for people: ``fault 2, target``."""
    text = ""
    for part in place:
        text += f" {part}" if isinstance(part, int) else f", {part}" if text else part
    return text


def read(kind: type[T], data: object, place: Place = ()) -> T:
    """An instance of a dataclass; raises ``Misplaced`` for what it has not or cannot be."""
    table = table_of(data, place)
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    refuse_unknown(table, list(known), place)
    hints = _hints(kind)  # type: ignore[arg-type]  # classes are hashable
    values: dict[str, object] = {}
    for name, value in table.items():
        values[name] = value_of(hints[name], value, (*place, name))
        limits = BOUNDS.get(kind, {}).get(name)
        if limits is not None:
            check_bounds(values[name], limits, (*place, name))
    for name, each in known.items():
        if name not in values and each.default is MISSING and each.default_factory is MISSING:
            raise Misplaced(place, f"{name} is missing: add `{name} = …`")
    return kind(**values)


def table_of(data: object, place: Place) -> dict[str, Any]:  # plain data
    """A table. Raises ``Misplaced`` for anything else."""
    if not isinstance(data, dict):
        raise Misplaced(place, f"must be a table, not {data!r}")
    return data


def refuse_unknown(table: Mapping[str, object], known: list[str], place: Place) -> None:
    """Raises ``Misplaced`` for the first key that is not known, with the nearest one."""
    for name in table:
        if name not in known:
            near = nearest(name, known)
            hint = near or f"; known are {', '.join(known)}"
            raise Misplaced((*place, name), f"there is no {name!r} here{hint}")


def check_bounds(value: object, limits: tuple[float, float], place: Place) -> None:
    """Raises ``Misplaced`` for a number outside; of a table every value counts, None never."""
    if isinstance(value, dict):
        for name, each in value.items():
            check_bounds(each, limits, (*place, name))
    elif isinstance(value, int | float) and not limits[0] <= value <= limits[1]:
        raise Misplaced(place, f"must be from {limits[0]:g} to {limits[1]:g}, not {value!r}")


def value_of(hint: Any, data: object, place: Place) -> object:  # hint: an annotation
    """Plain data as what an annotation says."""
    if isinstance(hint, types.UnionType):
        return _union(hint.__args__, data, place)
    origin = typing.get_origin(hint)
    if origin is tuple:
        return _tuple(typing.get_args(hint), data, place)
    if origin is dict:
        inner = typing.get_args(hint)[1]
        table = table_of(data, place)
        return {name: value_of(inner, each, (*place, name)) for name, each in table.items()}
    if hint is float:
        return _float(data, place)
    if hint in {int, bool, str}:
        if type(data) is not hint:
            raise Misplaced(place, f"must be {_WORDS[hint]}, not {data!r}")
        return data
    if issubclass(hint, Fault):
        return _fault(data, place)
    if issubclass(hint, enum.Enum):
        return _choice(hint, data, place)
    if hint is Landmark:
        return landmark_of(data, place)
    assert is_dataclass(hint), hint
    assert isinstance(hint, type), hint
    made: object = read(hint, data, place)
    return made


def landmark_of(data: object, place: Place) -> Landmark:
    """``after:answered(n2)#3``; raises ``Misplaced`` where it is not like that."""
    found = _LANDMARK.fullmatch(data.strip()) if isinstance(data, str) else None
    if found is None:
        raise Misplaced(
            place, f'must be like "after:answered(n2)#3" (node and number may go), not {data!r}'
        )
    event = found["event"]
    if event not in EVENTS:
        hint = nearest(event, list(EVENTS)) or f"; known are {', '.join(EVENTS)}"
        raise Misplaced(place, f"there is no event {event!r}{hint}")
    count = int(found["count"] or 1)
    if count < 1:
        raise Misplaced(place, "the first time that an event happens is #1")
    return Landmark(event, found["node"], count)


_WORDS = {int: "a whole number", bool: "true or false", str: "text in quotes"}


@cache
def _hints(kind: type) -> dict[str, Any]:  # annotations of a class
    return typing.get_type_hints(kind)


def _union(hints: tuple[Any, ...], data: object, place: Place) -> object:
    if data is None and types.NoneType in hints:
        return None
    if Landmark in hints and isinstance(data, str):
        return landmark_of(data, place)
    (hint,) = (each for each in hints if each not in {types.NoneType, Landmark})
    return value_of(hint, data, place)


def _tuple(hints: tuple[Any, ...], data: object, place: Place) -> object:
    if not isinstance(data, list):
        raise Misplaced(place, f"must be a list, not {data!r}")
    if hints[-1] is not Ellipsis and len(data) != len(hints):
        raise Misplaced(place, f"must have {len(hints)} entries, not {len(data)}")
    return tuple(
        value_of(hints[0], each, (*place, number)) for number, each in enumerate(data, start=1)
    )


def _float(data: object, place: Place) -> float:
    if isinstance(data, bool) or not isinstance(data, int | float) or not math.isfinite(data):
        raise Misplaced(place, f"must be a number, not {data!r}")
    return float(data)


def _choice(kind: type[enum.Enum], data: object, place: Place) -> enum.Enum:
    known = {str(each.value): each for each in kind}
    if data not in known:
        near = nearest(str(data), list(known)) or f"; known are {', '.join(known)}"
        raise Misplaced(place, f"there is no {data!r}{near}")
    return known[str(data)]


def _fault(data: object, place: Place) -> Fault:
    settings = dict(table_of(data, place))
    kind = settings.pop("kind", None)
    if not isinstance(kind, str):
        raise Misplaced(place, 'kind is missing: add `kind = "latency"` or another')
    try:
        return fault_of(kind, settings)
    except ScenarioError as error:
        raise Misplaced(place, str(error)) from None
