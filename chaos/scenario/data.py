"""Schedules as JSON and back exactly, and scenarios as the text of a scenario file."""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import msgspec

from chaos.errors import ScenarioError
from chaos.faults.fault import Fault
from chaos.invariants.invariant import Id
from chaos.scenario.reader import read
from chaos.scenario.scenario import (
    SCHEMA,
    FaultEntry,
    Landmark,
    Scenario,
    Workload,
)
from chaos.scenario.schedule import PlannedFault, Schedule


def plain(value: object) -> Any:  # JSON values
    """Any part of a scenario or schedule as JSON values."""
    if isinstance(value, Fault):
        return {"kind": value.kind, **value.settings()}
    if isinstance(value, Landmark):
        return str(value)
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, Mapping):
        return {name: plain(each) for name, each in value.items()}
    if isinstance(value, tuple | list):
        return [plain(each) for each in value]
    if is_dataclass(value):
        return {each.name: plain(getattr(value, each.name)) for each in fields(value)}
    return value


def schedule_json(schedule: Schedule) -> bytes:
    """A schedule as one JSON document; equal schedules give equal bytes."""
    return msgspec.json.encode(plain(schedule))


def schedule_from(data: object) -> Schedule:
    """A schedule from JSON values. Raises ``ScenarioError`` that says where it is wrong."""
    return read(Schedule, data)


def schedule_from_json(text: bytes) -> Schedule:
    """A schedule from JSON. Raises ``ScenarioError``."""
    try:
        data = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise ScenarioError(f"the schedule is not JSON: {error}") from None
    return schedule_from(data)


def timeline(schedule: Schedule, *, about: str = "") -> Scenario:
    """A scenario that plans to exactly this schedule: nothing in it is drawn."""
    return Scenario(
        name=schedule.name,
        about=about,
        proves=schedule.proves,
        mode=schedule.mode,
        seed=schedule.seed,
        warm_up_s=schedule.warm_up_s,
        duration_s=schedule.duration_s,
        settle_s=schedule.settle_s,
        core=schedule.core,
        cluster=schedule.cluster,
        workload=Workload(requests_per_s=0.0),
        limits=schedule.limits,
        requests=schedule.requests,
        faults=tuple(map(_written, schedule.faults)),
        expect=schedule.expect,
    )


def _written(fault: PlannedFault) -> FaultEntry:
    """The entry that resolves to this fault."""
    aimed = fault.links or fault.groups
    return FaultEntry(
        fault=fault.fault,
        at=fault.at,
        for_s=None if fault.fault.instant else fault.for_s,
        target=None if aimed else ",".join(fault.nodes),
        links=tuple(f"{a}>{b}" for a, b in fault.links),
        groups=fault.groups,
        id=fault.id,
    )


def scenario_data(scenario: Scenario) -> dict[str, Any]:  # JSON values
    """A scenario as the tables of its file, without what has its default value."""
    made: dict[str, Any] = {"schema": SCHEMA, "name": scenario.name}
    for each in fields(Scenario):
        value = getattr(scenario, each.name)
        if each.name in {"name", "requests", "faults", "expect"} or value is None:
            continue
        if is_dataclass(value):
            changed = _changed(value)
            if changed or each.name in {"swarm", "systematic"}:
                made[each.name] = changed
        elif value != each.default:
            made[each.name] = plain(value)
    expect = _changed(scenario.expect)
    if expect:
        made["expect"] = expect
    if scenario.requests:
        made["request"] = [_changed(request) for request in scenario.requests]
    if scenario.faults:
        made["fault"] = [_fault(entry) for entry in scenario.faults]
    return made


def _changed(value: Any) -> dict[str, Any]:  # a dataclass, to JSON values
    """Fields that are not at their default."""
    bare = {each.name: getattr(value, each.name) for each in fields(value)}
    defaults = {
        each.name: each.default_factory() if callable(each.default_factory) else each.default
        for each in fields(value)
    }
    return {
        name: plain(each)
        for name, each in bare.items()
        if each is not None and each != defaults[name]
    }


def _fault(entry: FaultEntry) -> dict[str, Any]:  # JSON values
    made: dict[str, Any] = {"kind": entry.fault.kind}
    if entry.id:
        made["id"] = entry.id
    made["at_s" if isinstance(entry.at, float | int) else "at"] = plain(entry.at)
    made |= {
        name: plain(getattr(entry, name))
        for name in ("for_s", "target", "links", "groups")
        if getattr(entry, name)
    }
    return made | entry.fault.settings()


def scenario_toml(scenario: Scenario) -> str:
    """The text of a file that loads as this scenario."""
    data = scenario_data(scenario)
    tables = {name: value for name, value in data.items() if isinstance(value, dict)}
    arrays = {name: data[name] for name in ("request", "fault") if name in data}
    lines = _pairs((n, v) for n, v in data.items() if n not in tables and n not in arrays)
    for name, value in tables.items():
        lines += ["", f"[{name}]", *_pairs(value.items())]
    for name, entries in arrays.items():
        for entry in entries:
            lines += ["", f"[[{name}]]", *_pairs(entry.items())]
    return "\n".join(lines) + "\n"


_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPED = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}


def _pairs(items: Iterable[tuple[str, Any]]) -> list[str]:  # JSON values
    return [f"{_key(name)} = {_toml(value)}" for name, value in items]


def _key(name: str) -> str:
    return name if _BARE.fullmatch(name) else _string(name)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _string(value)
    if isinstance(value, dict):
        return "{ " + ", ".join(_pairs(value.items())) + " }" if value else "{}"
    if isinstance(value, list):
        if value and value == [each.value for each in Id]:
            return '"all"'
        return "[" + ", ".join(map(_toml, value)) + "]"
    assert isinstance(value, int | float)
    return f"{value:.0f}" if isinstance(value, float) and _whole(value) else repr(value)


def _whole(value: float) -> bool:
    """Whether a number is better read without its point (the reader gives it back)."""
    return value.is_integer() and abs(value) < 1e15 and str(value)[0] != "-"


def _string(text: str) -> str:
    def escaped(char: str) -> str:
        control = ord(char) < 0x20 or ord(char) == 0x7F
        return _ESCAPED.get(char) or (f"\\u{ord(char):04x}" if control else char)

    return '"' + "".join(map(escaped, text)) + '"'
