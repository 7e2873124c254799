"""What the page of a run shows, taken from its history: lives, faults, requests, curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from chaos.history import Event, What
from chaos.outcome import ENDS, FaultOutcome, fault_outcomes
from chaos.run import Run
from chaos.scenario.scenario import Limits


@dataclass(frozen=True, slots=True, kw_only=True)
class Life:
    """One node: when it was up, as (from, to, generation), and what began or ended each span."""

    node: str
    ups: tuple[tuple[float, float, str], ...]
    changes: tuple[tuple[float, str, str], ...]
    """(when, up, down or stopped, why)."""
    downs: tuple[tuple[float, float], ...]
    """Spans between two lives, and after the last one where it did not end in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A fault that was applied, from when to when, with its number in the table of faults."""

    number: int
    outcome: FaultOutcome
    from_s: float
    to_s: float
    nodes: tuple[str, ...]

    @property
    def instant(self) -> bool:
        return self.to_s <= self.from_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request. ``ttft_s`` is None where no token came, ``twin_s`` where the twin has none.

    ``outcome`` is ok, failed, refused (failed by its own fault), cancelled, unknown or open.
    """

    id: str
    ingress: str
    tenant: str
    from_s: float
    to_s: float
    outcome: str
    detail: str
    served_by: str = ""
    ttft_s: float | None = None
    twin_s: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def look(self) -> str:
        """Its outcome, or ``cold`` where it is ok and the whole prompt was computed."""
        whole = self.prompt_tokens > 0 and self.cached_tokens == 0
        return "cold" if whole and self.outcome == "ok" else self.outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """One gauge of all nodes: samples (when, value) by node. Caps and baselines by node."""

    name: str
    samples: Mapping[str, tuple[tuple[float, float], ...]]
    caps: Mapping[str, float]
    baselines: Mapping[str, float]

    @property
    def flat(self) -> bool:
        """Whether it never changed, at any node."""
        return len({value for each in self.samples.values() for _, value in each}) == 1

    def peak(self) -> tuple[str, float, float]:
        """Node, when and value of the highest sample, one over its cap before all others."""
        node, at_s, value = max(
            ((node, at_s, v) for node, each in self.samples.items() for at_s, v in each),
            key=lambda sample: (sample[2] > self.caps.get(sample[0], math.inf), sample[2]),
        )
        return node, at_s, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """A run as its page shows it. Times are seconds from the start of the run."""

    run: Run
    end_s: float
    phases: tuple[tuple[float, str], ...]
    lives: tuple[Life, ...]
    bands: tuple[Band, ...]
    outcomes: tuple[FaultOutcome, ...]
    requests: tuple[Asked, ...]
    agreement: tuple[tuple[float, int, int], ...]
    """(when, triples that agree, triples)."""
    converged: tuple[float, float] | None
    """(when, seconds from healing)."""
    gauges: tuple[Gauge, ...]
    marks: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """How often a mark was reached, and when first."""

    @property
    def limits(self) -> Limits:
        return self.run.schedule.limits

    @property
    def healed_s(self) -> float | None:
        """When healing was done, if the run came so far."""
        return next((at for at, name in self.phases if name == "healed"), None)

    @property
    def stopped_s(self) -> float:
        """When the nodes were asked to end, or the end of the run."""
        return next((at for at, name in self.phases if name == "settled"), self.end_s)

    def band_of(self, fault_id: str) -> Band | None:
        return next((band for band in self.bands if band.outcome.planned.id == fault_id), None)

    def disturbed(self) -> tuple[tuple[float, float], ...]:
        """Spans during which some fault was active, without overlap, in order."""
        merged: list[tuple[float, float]] = []
        for band in sorted(self.bands, key=lambda band: band.from_s):
            if merged and band.from_s <= merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], band.to_s))
            else:
                merged.append((band.from_s, band.to_s))
        return tuple(merged)


def facts_of(run: Run) -> Facts:
    """The facts of a run."""
    end_s = max([run.totals.simulated_s, *(event.at_s for event in run.events)], default=0.0)
    end_s = end_s if math.isfinite(end_s) and end_s > 0 else 1.0
    outcomes = fault_outcomes(run)
    converged = next((e for e in run.events if e.what is What.CONVERGED), None)
    return Facts(
        run=run,
        end_s=end_s,
        phases=tuple((e.at_s, text_of(e, "name")) for e in run.events if e.what is What.PHASE),
        lives=tuple(_lives(run, end_s)),
        bands=tuple(_bands(run, outcomes, end_s)),
        outcomes=outcomes,
        requests=tuple(_requests(run, end_s)),
        agreement=tuple(
            (e.at_s, int(number(e, "agreeing") or 0), int(number(e, "pairs") or 0))
            for e in run.events
            if e.what is What.AGREEMENT
        ),
        converged=(
            None if converged is None else (converged.at_s, number(converged, "after_s") or 0.0)
        ),
        gauges=tuple(_gauges(run)),
        marks=_marks(run),
    )


def text_of(event: Event, name: str) -> str:
    """A datum of an event as text; empty where it has none."""
    value = event.data.get(name)
    return "" if value is None else str(value)


def number(event: Event, name: str) -> float | None:
    """A datum of an event as a number; None where it is none, or not finite."""
    value: Any = event.data.get(name)  # plain JSON values
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def _lives(run: Run, end_s: float) -> Iterator[Life]:
    names = list(run.schedule.cluster.names)
    kinds = {What.NODE_UP: "up", What.NODE_DOWN: "down", What.STOPPED: "stopped"}
    by_node: dict[str, list[Event]] = {name: [] for name in names}
    for event in run.events:
        if event.what in kinds:
            by_node.setdefault(event.subject, []).append(event)
    for node, events in by_node.items():
        ups: list[tuple[float, float, str]] = []
        changes: list[tuple[float, str, str]] = []
        since: tuple[float, str] | None = None
        for event in events:
            ended = bool(changes) and changes[-1][1] == "stopped"
            if event.what is What.NODE_DOWN and ended:
                continue  # an orderly end said already
            changes.append((event.at_s, kinds[event.what], text_of(event, "why")))
            if since is not None:
                ups.append((since[0], event.at_s, since[1]))
            up = event.what is What.NODE_UP
            since = (event.at_s, text_of(event, "generation")) if up else None
        if since is not None:
            ups.append((since[0], end_s, since[1]))
        downs = [(left[1], right[0]) for left, right in pairwise(ups) if right[0] > left[1]]
        if changes and changes[-1][1] == "down" and ups and ups[-1][1] < end_s:
            downs.append((ups[-1][1], end_s))
        yield Life(node=node, ups=tuple(ups), changes=tuple(changes), downs=tuple(downs))


def _bands(run: Run, outcomes: tuple[FaultOutcome, ...], end_s: float) -> Iterator[Band]:
    begins = {e.subject: e for e in reversed(run.events) if e.what is What.FAULT_BEGIN}
    ends = {e.subject: e.at_s for e in reversed(run.events) if e.what is What.FAULT_END}
    for index, outcome in enumerate(outcomes, 1):
        begin = begins.get(outcome.planned.id)
        if begin is None:
            continue
        named = begin.data.get("nodes")
        nodes = tuple(map(str, named)) if isinstance(named, list | tuple) else ()
        to_s = ends.get(outcome.planned.id, begin.at_s if outcome.fault.instant else end_s)
        yield Band(
            number=index,
            outcome=outcome,
            from_s=begin.at_s,
            to_s=begin.at_s if outcome.fault.instant else max(begin.at_s, to_s),
            nodes=nodes or outcome.planned.nodes,
        )


def _requests(run: Run, end_s: float) -> Iterator[Asked]:
    invoked: dict[str, Event] = {}
    first_token: dict[str, float] = {}
    started: dict[str, str] = {}
    ended: dict[str, Event] = {}
    for event in run.events:
        if event.what is What.INVOKE:
            invoked.setdefault(event.subject, event)
        elif event.what is What.TOKENS:
            first_token.setdefault(event.subject, event.at_s)
        elif event.what is What.STARTED:
            started[event.subject] = text_of(event, "node")
        elif event.what in ENDS:
            ended.setdefault(event.subject, event)
    for name, event in invoked.items():
        end = ended.get(name)
        token_s = first_token.get(name)
        yield Asked(
            id=name,
            ingress=text_of(event, "ingress"),
            tenant=text_of(event, "tenant"),
            from_s=event.at_s,
            to_s=end.at_s if end else end_s,
            outcome=_outcome(end),
            detail=_detail(end),
            served_by=(text_of(end, "node") if end else "") or started.get(name, ""),
            ttft_s=None if token_s is None else token_s - event.at_s,
            twin_s=run.twin.ttft_s.get(name),
            prompt_tokens=int((end and number(end, "prompt_tokens")) or 0),
            cached_tokens=int((end and number(end, "cached_tokens")) or 0),
        )


def _outcome(end: Event | None) -> str:
    if end is None:
        return "open"
    if end.what is What.FAIL and end.data.get("expected") is True:
        return "refused"
    return ENDS[end.what]


def _detail(end: Event | None) -> str:
    if end is None:
        return "no end in the history"
    if end.what is What.FAIL:
        return f"{text_of(end, 'code')}: {text_of(end, 'message')}"
    names = {What.OK: "reason", What.CANCELLED: "by", What.INFO: "why"}
    return text_of(end, names[end.what])


def _gauges(run: Run) -> Iterator[Gauge]:
    samples: dict[str, dict[str, list[tuple[float, float]]]] = {}
    caps: dict[str, dict[str, float]] = {}
    baselines: dict[str, dict[str, float]] = {}
    for event in run.events:
        value = number(event, "value") if event.what is What.GAUGE else None
        if value is None:
            continue
        name, node = text_of(event, "name"), event.subject
        samples.setdefault(name, {}).setdefault(node, []).append((event.at_s, value))
        for into, key in ((caps, "cap"), (baselines, "baseline")):
            found = number(event, key)
            if found is not None:
                into.setdefault(name, {})[node] = found
    for name in sorted(samples):
        yield Gauge(
            name=name,
            samples={node: tuple(each) for node, each in sorted(samples[name].items())},
            caps=caps.get(name, {}),
            baselines=baselines.get(name, {}),
        )


def _marks(run: Run) -> dict[str, tuple[int, float]]:
    found: dict[str, tuple[int, float]] = {}
    for event in run.events:
        if event.what is What.MARK:
            count, first_s = found.get(event.subject, (0, event.at_s))
            found[event.subject] = (count + 1, first_s)
    return dict(sorted(found.items()))
