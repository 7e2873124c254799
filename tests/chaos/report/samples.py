"""Judged runs, made by hand: small histories that show everything that a page can show."""

from __future__ import annotations

import math
from random import Random

from chaos.faults.client import Burst, Cancel
from chaos.faults.clock import Skew
from chaos.faults.disk import Full
from chaos.faults.fault import Fault, Mode
from chaos.faults.link import Latency
from chaos.faults.metadata import StaleDigest
from chaos.faults.process import Kill9, RestartSame
from chaos.faults.security import Flood
from chaos.faults.topology import Isolate, Partition
from chaos.faults.worker import SlowGpu
from chaos.history import Event, History, What
from chaos.invariants.invariant import Finding, Id, Witness, finding
from chaos.run import Run, Totals, Twin
from chaos.scenario.scenario import Cluster, Expect, Landmark, Limits
from chaos.scenario.schedule import PlannedFault, Schedule
from chaos.verdict import Judged, judge

NODES = ("n1", "n2", "n3", "n4", "n5")


class Maker:
    """A history whose time is set by hand; events are sorted at the end."""

    def __init__(self, seed: int = 7) -> None:
        self.at_s = 0.0
        self.history = History(now=lambda: self.at_s)
        self.rng = Random(seed)
        self.twin_ttft: dict[str, float] = {}
        self.planned: list[PlannedFault] = []

    def add(self, at_s: float, what: What, subject: str = "", **data: object) -> Event:
        self.at_s = at_s
        return self.history.add(what, subject, **data)

    def sorted(self) -> tuple[Event, ...]:
        return tuple(sorted(self.history.events, key=lambda event: event.at_s))

    def phases(self, storm: float, healed: float, settled: float) -> None:
        for at_s, name in ((0.0, "warm_up"), (storm, "storm"), (healed, "healed")):
            self.add(at_s, What.PHASE, name=name)
        self.add(settled, What.PHASE, name="settled")
        self.add(settled + 2, What.PHASE, name="stopped")
        for node in NODES:
            self.add(0.1, What.NODE_UP, node, generation=1, why="start")
            self.add(settled + 2, What.STOPPED, node, took_s=0.4)

    def fault(
        self,
        name: str,
        fault: Fault,
        nodes: tuple[str, ...],
        at_s: float,
        for_s: float,
        *,
        storm: float = 12.0,
        effects: int = 3,
        at: float | Landmark | None = None,
        groups: tuple[tuple[str, ...], ...] = (),
        links: tuple[tuple[str, str], ...] = (),
    ) -> None:
        self.planned.append(
            PlannedFault(
                id=name,
                fault=fault,
                at=at_s - storm if at is None else at,
                for_s=0.0 if fault.instant else for_s,
                nodes=nodes,
                groups=groups,
                links=links,
            )
        )
        self.add(at_s, What.FAULT_BEGIN, name, kind=fault.kind, nodes=list(nodes))
        self.add(at_s + for_s, What.FAULT_END, name, kind=fault.kind, effects=effects, undone=True)

    def request(
        self,
        name: str,
        at_s: float,
        node: str,
        end: What = What.OK,
        *,
        took: float = 0.0,
        **data: object,
    ) -> None:
        rng = self.rng
        wait = 0.08 + rng.expovariate(6.0)
        stream = took or 0.24 + rng.random() * 0.1
        served = rng.choice(NODES)
        self.add(
            at_s,
            What.INVOKE,
            name,
            ingress=node,
            tenant=rng.choice("ab"),
            max_tokens=12,
            prompt_tokens=560,
        )
        if end is What.OK or rng.random() < 0.4:
            self.add(at_s + wait, What.STARTED, name, node=served)
            self.add(at_s + wait, What.TOKENS, name, ids=[1, 2, 3])
            self.twin_ttft[name] = 0.11 + rng.expovariate(7.0)
        if end is What.OK:
            data = {
                "reason": "stop",
                "node": served,
                "prompt_tokens": 560,
                "cached_tokens": 16 * rng.randrange(33),
                "completion_tokens": 12,
                "hops": 1,
                "resumes": 0,
                "attempts": 1,
            }
        self.add(at_s + wait + stream, end, name, **data)

    def agreement(self, from_s: float, to_s: float, bad: tuple[float, float]) -> None:
        at_s = from_s
        while at_s < to_s:
            inside = bad[0] <= at_s <= bad[1]
            dip = (math.sin((at_s - bad[0]) / (bad[1] - bad[0]) * math.pi) * 22) if inside else 0
            self.add(at_s, What.AGREEMENT, pairs=40, agreeing=40 - int(dip))
            at_s += 1.0

    def gauges(self, from_s: float, to_s: float, step: float = 1.0) -> None:
        caps = {"inbox_bytes": 65536, "sockets": 64, "tasks": None, "index_bytes": 4_000_000}
        at_s = from_s
        while at_s < to_s:
            for index, node in enumerate(NODES):
                wave = 1 + math.sin(at_s / 9 + index)
                values = {
                    "inbox_bytes": wave * 9000 * (6 if node == "n3" and 30 < at_s < 36 else 1),
                    "sockets": int(8 + wave * 3),
                    "tasks": int(30 + wave * 6),
                    "index_bytes": 20_000 + at_s * 50,
                }
                for name, value in values.items():
                    self.add(
                        at_s,
                        What.GAUGE,
                        node,
                        name=name,
                        value=value,
                        cap=caps[name],
                        baseline=8 if name == "sockets" else None,
                    )
            at_s += step


def schedule(maker: Maker, *, storm: float, duration: float, name: str = "partition") -> Schedule:
    return Schedule(
        name=name,
        mode=Mode.NODE,
        seed=17,
        cluster=Cluster(),
        limits=Limits(converge_s=20.0),
        expect=Expect(marks=("stale_claim_recovered",)),
        warm_up_s=storm,
        duration_s=duration,
        settle_s=40.0,
        core=(),
        requests=(),
        faults=tuple(maker.planned),
        proves=Id.CONVERGE,
    )


def run_of(maker: Maker, plan: Schedule, *, plant: str | None = None) -> Run:
    events = maker.sorted()
    return Run(
        schedule=plan,
        events=events,
        twin=Twin(tokens={}, ttft_s=maker.twin_ttft),
        totals=Totals(
            simulated_s=events[-1].at_s if events else 0.0,
            wall_s=3.21,
            deliveries=48_211,
            trace="5f2b8a1c9d0e4f6a7b3c5d1e2f809a4b",
        ),
        plant=plant,
        notes=("clients of n4 read slowly by their own wish",),
    )


def rich(*, violated: bool = True) -> Judged:
    """A run of 85 s with every kind of thing in it."""
    maker = Maker()
    maker.phases(12.0, 52.0, 80.0)
    everybody = NODES
    maker.fault("split", Partition(), everybody, 18, 16, groups=(("n1", "n2"), ("n3", "n4", "n5")))
    maker.fault("latency-1", Latency(delay_ms=50), ("n1", "n3"), 14, 30, links=(("n1", "n3"),))
    maker.fault("kill9-1", Kill9(), ("n2",), 24, 9)
    maker.fault("skew-1", Skew(), ("n4",), 20, 20, at=Landmark("answered", "n2", 3))
    maker.fault("full-1", Full(), ("n4",), 26, 8)
    maker.fault("stale-1", StaleDigest(), ("n3",), 28, 20)
    maker.fault("flood-1", Flood(), ("n3",), 30, 6)
    maker.fault("slow_gpu-1", SlowGpu(), ("n5",), 22, 18)
    maker.fault("cancel-1", Cancel(), ("n1",), 36, 5)
    maker.fault("restart-1", RestartSame(), ("n5",), 45, 0, effects=1)
    maker.planned.append(
        PlannedFault(
            id="burst-1", fault=Burst(), at=Landmark("evicted", None, 9), for_s=5.0, nodes=("n1",)
        )
    )
    maker.add(52.0, What.FAULT_MISSED, "burst-1", kind="burst", why="its landmark never came")
    maker.planned.append(
        PlannedFault(id="isolate-1", fault=Isolate(), at=20.0, for_s=None, nodes=("n5",))
    )
    maker.add(32.0, What.FAULT_UNSUPPORTED, "isolate-1", kind="isolate", why="no such thing here")
    maker.add(24.0, What.NODE_DOWN, "n2", why="kill9-1")
    maker.add(33.2, What.NODE_UP, "n2", generation=2, why="kill9-1 undone")
    maker.add(45.0, What.NODE_DOWN, "n5", why="restart-1")
    maker.add(45.4, What.NODE_UP, "n5", generation=2, why="restart-1")
    for n in range(180):
        at_s = 12.0 + n * 0.22
        node = NODES[maker.rng.randrange(5)]
        if node == "n2" and 22.5 < at_s < 24:
            maker.request(f"r{n}", at_s, node, What.INFO, why="the ingress went away")
        elif n % 37 == 5:
            maker.request(
                f"r{n}",
                at_s,
                node,
                What.FAIL,
                took=2.0,
                code="peer_failed",
                message="n3 closed the stream",
                expected=False,
            )
        elif n % 41 == 6:
            maker.request(
                f"r{n}",
                at_s,
                node,
                What.FAIL,
                code="context_length_exceeded",
                message="9000 tokens, at most 8192",
                expected=True,
            )
        elif n % 29 == 3:
            maker.request(f"r{n}", at_s, node, What.CANCELLED, took=0.2, by="cancel-1")
        else:
            maker.request(f"r{n}", at_s, node)
    maker.add(50.0, What.INVOKE, "r-open", ingress="n4", tenant="a", max_tokens=12)
    maker.agreement(2.0, 80.0, (16.0, 60.0))
    maker.gauges(2.0, 80.0)
    maker.add(61.4, What.CONVERGED, after_s=9.4)
    maker.add(35.0, What.MARK, "stale_claim_recovered", node="n1", request="r80")
    maker.add(36.0, What.MARK, "ingress_lost", node="n2", request="r60")
    run = run_of(
        maker,
        schedule(maker, storm=12.0, duration=40.0),
        plant="wrong-token-after-hit" if violated else None,
    )
    return judge(run, findings(run, violated=violated))


def findings(run: Run, *, violated: bool) -> list[Finding]:
    """One of each status for the invariants of a run."""
    asked = [n for n, e in enumerate(run.events) if e.what is What.TOKENS and e.at_s > 31]
    witness = Witness(
        expected="the tokens of r90 equal those of a cold run of its own: [1, 2, 9]",
        found="its tokens are [1, 2, 3]",
        events=(asked[0], asked[3]),
        node="n3",
        request="r90",
    )
    found = []
    for number, each in enumerate(Id):
        if each in {Id.CLEAN, Id.AUTHORITY}:
            found.append(finding(each, exercised=0, witnesses=(), voided=4))
        else:
            bound = {Id.CONVERGE: 0.47, Id.NO_WORSE: 0.82, Id.BOUNDED: 0.86}.get(each)
            mine = [witness] * 7 if each is Id.OUTPUT and violated else []
            found.append(
                finding(
                    each,
                    exercised=40 + 97 * number,
                    voided=number,
                    witnesses=mine,
                    share_of_bound=bound,
                )
            )
    return found


def long(*, nodes: int = 5, requests: int = 2000, minutes: float = 20.0) -> Judged:
    """As large a run as a page must bear."""
    maker = Maker(3)
    end = minutes * 60
    maker.phases(12.0, end - 60, end)
    for n in range(12):
        maker.fault(
            f"f{n}",
            (Latency(), Kill9(), Partition(), SlowGpu())[n % 4],
            (NODES[n % nodes],),
            30 + n * (end - 200) / 12,
            70.0,
            effects=n,
        )
    for n in range(requests):
        at_s = 12 + n * (end - 80) / requests
        end_of = What.FAIL if n % 50 == 7 else What.OK
        data = {"code": "peer_failed", "message": "gone", "expected": False}
        maker.request(
            f"r{n}",
            at_s,
            NODES[n % nodes],
            end_of,
            took=3.0,
            **(data if end_of is What.FAIL else {}),
        )
    maker.agreement(2.0, end, (100.0, end - 40))
    maker.gauges(2.0, end)
    maker.add(end - 50, What.CONVERGED, after_s=10.0)
    run = run_of(maker, schedule(maker, storm=12.0, duration=end - 72))
    return judge(run, findings(run, violated=False))


def bare() -> Judged:
    """A run in which nothing happened at all."""
    maker = Maker()
    return judge(run_of(maker, schedule(maker, storm=1.0, duration=1.0)), [])


HOSTILE = (
    "<script>alert(1)</script>\"'&amp;</style><img src=http://x.invalid/a.png onerror=alert(2)>"
    "$\\frac{x}{0}$ {{ 7*7 }} \u202eevil\x00\x1b[31m\ud800 \U0001f9ea" + "W" * 300
)


def hostile() -> Judged:
    """A history in which every text is an attack on who reads it."""
    maker = Maker()
    maker.phases(2.0, 6.0, 9.0)
    maker.fault(HOSTILE, Latency(), (HOSTILE, "n1"), 3.0, 2.0, storm=2.0)
    maker.add(3.0, What.NODE_DOWN, HOSTILE, why=HOSTILE)
    maker.add(3.1, What.NODE_UP, HOSTILE, generation=HOSTILE, why=HOSTILE)
    maker.add(3.2, What.NODE_DOWN, HOSTILE, why=HOSTILE)
    maker.request(HOSTILE, 3.0, HOSTILE, What.FAIL, code=HOSTILE, message=HOSTILE, expected=False)
    maker.request("r1", 4.0, "n1")
    maker.add(4.0, What.GAUGE, HOSTILE, name=HOSTILE, value=3.0, cap=HOSTILE, baseline=None)
    maker.add(4.0, What.GAUGE, "n1", name=HOSTILE, value=float("nan"), cap=None, baseline=None)
    maker.add(4.0, What.AGREEMENT, pairs=0, agreeing=0)
    maker.add(4.0, What.MARK, HOSTILE, node=HOSTILE)
    maker.add(4.5, What.PHASE, name=HOSTILE)
    run = run_of(maker, schedule(maker, storm=2.0, duration=4.0, name=HOSTILE), plant=HOSTILE)
    witness = Witness(
        expected=HOSTILE, found=HOSTILE, events=(3, 99_999), node=HOSTILE, request=HOSTILE
    )
    return judge(run, [finding(Id.OUTPUT, exercised=1, witnesses=[witness])])
