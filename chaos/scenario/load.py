"""A scenario file (TOML) to a :class:`Scenario`; whatever is wrong in it is one line that says so.

Tables are the classes of ``chaos/scenario/scenario.py``; ``[[fault]]`` holds a kind, its
quantities, when (``at_s`` or ``at``), how long (``for_s``) and at what (``target``, ``links`` or
``groups``); ``[[request]]`` is a :class:`PlannedRequest`.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from pathlib import Path

from chaos.errors import ScenarioError
from chaos.faults.catalogue import fault_named, fault_of, nearest
from chaos.faults.fault import Fault
from chaos.invariants.invariant import Id
from chaos.scenario.reader import (
    EVENTS,
    Misplaced,
    Place,
    landmark_of,
    read,
    refuse_unknown,
    table_of,
    value_of,
)
from chaos.scenario.request import PlannedRequest
from chaos.scenario.scenario import SCHEMA, Expect, FaultEntry, Landmark, Scenario
from chaos.scenario.validate import validate

__all__ = ["EVENTS", "SHIPPED", "find", "load", "parse", "scenario_of", "shipped"]

SHIPPED = Path(__file__).resolve().parent.parent / "scenarios"
"""Scenario files that come with the harness; ``regressions/`` below it holds shrunk failures."""

_LISTS = {"fault": "faults", "request": "requests"}
_ENTRY = ("id", "kind", "at_s", "at", "for_s", "target", "links", "groups")


def shipped() -> tuple[Path, ...]:
    """All scenario files that come with the harness, regressions last."""
    return (*sorted(SHIPPED.glob("*.toml")), *sorted(SHIPPED.glob("*/*.toml")))


def find(name: str) -> Path:
    """A file by its path, or one that is shipped by its bare name. Raises ``ScenarioError``."""
    path = Path(name)
    if path.is_file():
        return path
    known = {each.stem: each for each in shipped()}
    found = known.get(name.removesuffix(".toml"))
    if found is None or len(path.parts) > 1:
        near = nearest(path.stem, list(known)) or f"; shipped are {', '.join(known)}"
        raise ScenarioError(f"there is no scenario file {name}{near}")
    return found


def load(path: Path) -> Scenario:
    """Reads a file. Raises ``ScenarioError`` with the file, the line and what to do."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScenarioError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ScenarioError(f"{path}: is not UTF-8 text: save it as UTF-8") from None
    return parse(text, str(path))


def parse(text: str, source: str = "scenario") -> Scenario:
    """Reads the text of a file; ``source`` names it in errors. Raises ``ScenarioError``."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ScenarioError(f"{source}: is not TOML: {error}") from None
    try:
        return scenario_of(data)
    except Misplaced as error:
        line = _line_of(text, error.place)
        where = f"{source}:{line}" if line else source
        raise ScenarioError(f"{where}: {error}") from None


def scenario_of(data: object) -> Scenario:
    """Plain data as a scenario. Raises ``Misplaced``."""
    table = dict(table_of(data, ()))
    schema = table.pop("schema", SCHEMA)
    if schema != SCHEMA:
        raise Misplaced(("schema",), f"this release reads schema {SCHEMA}, not {schema!r}")
    entries = table.pop("fault", [])
    requests = table.pop("request", [])
    expect = table.pop("expect", {})
    for name in ("faults", "requests"):
        if name in table:
            raise Misplaced((name,), f"write each as [[{name.removesuffix('s')}]]")
    scenario = read(Scenario, table)
    values = {name: getattr(scenario, name) for name in Scenario.__dataclass_fields__}
    values["expect"] = _expect(expect, ("expect",))
    values["requests"] = tuple(
        read(PlannedRequest, each, place) for place, each in _numbered(requests, "request")
    )
    values["faults"] = tuple(_entry(each, place) for place, each in _numbered(entries, "fault"))
    made = Scenario(**values)
    validate(made)
    return made


def _numbered(data: object, name: str) -> list[tuple[Place, object]]:
    if not isinstance(data, list):
        raise Misplaced((name,), f"write each as [[{name}]]")
    return [((name, number), each) for number, each in enumerate(data, start=1)]


def _expect(data: object, place: Place) -> Expect:
    table = dict(table_of(data, place))
    if table.get("invariants") == "all":
        table["invariants"] = [each.value for each in Id]
    return read(Expect, table, place)


def _entry(data: object, place: Place) -> FaultEntry:
    """One ``[[fault]]``: the fault's own quantities stand among the keys of the entry."""
    table = table_of(data, place)
    kind = table.get("kind")
    if not isinstance(kind, str):
        raise Misplaced(place, 'kind is missing: add `kind = "latency"` or another')
    try:
        quantities = [name for name, _ in fault_named(kind).ranges()]
    except ScenarioError as error:
        raise Misplaced((*place, "kind"), str(error)) from None
    refuse_unknown(table, [*_ENTRY, *quantities], place)
    links = value_of(tuple[str, ...], table.get("links", []), (*place, "links"))
    groups = value_of(tuple[tuple[str, ...], ...], table.get("groups", []), (*place, "groups"))
    for_s = table.get("for_s")
    return FaultEntry(
        fault=_fault(kind, {name: table[name] for name in quantities if name in table}, place),
        at=_when(table, place),
        for_s=None if for_s is None else _number(for_s, (*place, "for_s")),
        target=_target(table.get("target"), (*place, "target")),
        links=links,  # type: ignore[arg-type]  # as its annotation was
        groups=groups,  # type: ignore[arg-type]
        id=_text(table.get("id", ""), (*place, "id")),
    )


def _fault(kind: str, settings: dict[str, float], place: Place) -> Fault:
    try:
        return fault_of(kind, settings)
    except ScenarioError as error:
        raise Misplaced(place, str(error)) from None


def _when(table: dict[str, object], place: Place) -> float | Landmark:
    if ("at" in table) == ("at_s" in table):
        raise Misplaced(place, 'say when: `at_s = 10`, or `at = "after:answered(n2)#3"`')
    if "at" in table:
        return landmark_of(table["at"], (*place, "at"))
    at_s = _number(table["at_s"], (*place, "at_s"))
    if at_s < 0:
        raise Misplaced((*place, "at_s"), "counts from the start of the storm: 0 or more")
    return at_s


def _number(data: object, place: Place) -> float:
    value = value_of(float, data, place)
    assert isinstance(value, float)
    return value


def _text(data: object, place: Place) -> str:
    value = value_of(str, data, place)
    assert isinstance(value, str)
    return value


def _target(data: object, place: Place) -> str | None:
    if data is None:
        return None
    if isinstance(data, list):
        return ",".join(_text(each, place) for each in data)
    return _text(data, place)


_KEY = re.compile(r"\s*\"?([\w-]+)\"?\s*=")
_HEADER = re.compile(r"\s*(\[\[?)\s*([\w.\"-]+)\s*\]\]?\s*(?:#.*)?")


def _line_of(text: str, place: Place) -> int | None:
    """The line of a place: that of its innermost key, else that of its table; None without any."""
    if not place:
        return None
    names = [part for part in place if isinstance(part, str)]
    number = next((part for part in place[1:2] if isinstance(part, int)), None)
    header: int | None = None
    lines: dict[str, int] = {}
    counts: Counter[str] = Counter()
    inside = len(place) == 1
    for line_number, line in enumerate(text.splitlines(), start=1):
        found = _HEADER.fullmatch(line)
        key = _KEY.match(line)
        if found is not None:
            table = found[2]
            counts[table] += 1
            inside = table.split(".")[0] == names[0] and number in {None, counts[table]}
            inside = inside and len(place) > 1
            if table == names[0] and number in {None, counts[table]}:
                header = header or line_number
        elif inside and key is not None:
            lines.setdefault(key[1], line_number)
    known = (lines[name] for name in reversed(names) if name in lines)
    return next(known, header)
