"""A scenario: a cluster, its requests, what is done to both, and what must hold nevertheless.

Read from TOML by ``chaos/scenario/load.py``. Times are seconds from the start of the storm unless
a name says otherwise; nodes are called ``n1`` … ``nN``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from chaos.faults.fault import Family, Fault, Mode, Network
from chaos.invariants.invariant import Id
from chaos.scenario.request import PlannedRequest

SCHEMA = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Peers, tenants and what each peer's engine is like.

    ``delay_ms`` is the one-way delay of every link. ``outside`` names for a node the tenants that
    it is no member of; ``slow`` names nodes whose engine is so many times slower. ``late`` nodes
    start that many seconds into the storm. ``remote`` nodes have a server beside them instead of
    an engine of their own (``chaos/remote_toy.py``, node mode only): ``remote_salts`` whether it
    keeps tenants apart, ``remote_tells_ids`` whether its answers can be gone on with elsewhere,
    ``remote_exact`` whether what it has cached is told by it, not inferred. Certificates of hosts
    last ``certificate_s`` and ``n1`` renews them (node mode only); 0: they outlast every run.
    ``model`` is for live mode with the real engine; ``network`` and ``plain_peers`` are for live
    mode too.
    """

    nodes: int = 5
    tenants: tuple[str, ...] = ("a", "b")
    engine: str = "toy"
    model: str = ""
    slots: int = 4
    cache_blocks: int = 2048
    context_tokens: int = 8192
    prefill_tokens_per_s: float = 5000.0
    decode_ms_per_token: float = 20.0
    delay_ms: float = 0.2
    policy: str = "cost"
    outside: dict[str, tuple[str, ...]] = field(default_factory=dict)
    slow: dict[str, float] = field(default_factory=dict)
    late: dict[str, float] = field(default_factory=dict)
    remote: tuple[str, ...] = ()
    remote_salts: bool = True
    remote_tells_ids: bool = True
    remote_exact: bool = True
    certificate_s: float = 0.0
    plain_peers: bool = False
    network: Network = Network.LOOPBACK

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))

    def engine_tenant(self, name: str) -> str | None:
        """The one tenant that a node's engine serves; None where it serves all of the node's."""
        if name not in self.remote or self.remote_salts:
            return None
        mine = [tenant for tenant in self.tenants if tenant not in self.outside.get(name, ())]
        return mine[0] if len(mine) > 1 else None

    def could_alone(self, name: str, tenant: str, *, tools: bool) -> bool:
        """Whether a node's own engine serves such a request."""
        return self.engine_tenant(name) in {None, tenant} and (name in self.remote or not tools)


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests at random ingresses: a document, shared by its questions, and a question.

    Every tenant sends the same documents. ``hot_fraction`` of the requests ask about the first one.
    Where a node has a remote server, ``tools_share`` of them need an engine that is given whole
    bodies, half of these as streams; all others are streams.
    """

    requests_per_s: float = 4.0
    documents: int = 6
    document_tokens: int = 512
    question_tokens: int = 24
    max_tokens: int = 12
    cancel_fraction: float = 0.0
    hot_fraction: float = 0.0
    tools_share: float = 0.2
    timeout_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds that checkers hold a run to.

    ``converge_s`` after healing: every replica equals what its origin published. ``grace_s``: a
    peer that is asked to end has ended. ``ttft_ratio_p99_max`` is of the overlay-off twin.
    """

    success_fraction_min: float = 1.0
    ttft_ratio_p99_max: float = 1.5
    converge_s: float = 30.0
    grace_s: float = 35.0
    progress_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Landmark:
    """The ``count``-th time that an event of the history happens (at a node, where one is named).

    Written ``after:answered(n2)#3``; ``EVENTS`` in ``chaos/scenario/load.py`` lists the events.
    """

    event: str
    node: str | None = None
    count: int = 1

    def __str__(self) -> str:
        where = f"({self.node})" if self.node else ""
        return f"after:{self.event}{where}#{self.count}"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultEntry:
    """One ``[[fault]]``; ``for_s`` None is until the run heals. Selectors are as written.

    ``id`` names its random streams; an empty one becomes its kind and a number.
    """

    fault: Fault
    at: float | Landmark
    for_s: float | None = None
    target: str | None = None
    links: tuple[str, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swarm:
    """Random faults on top of the timeline.

    Every family is on with ``include_probability``, and so is each of its faults; the cluster's
    settings are drawn too where ``draw_cluster``.
    """

    families: tuple[Family, ...] = tuple(Family)
    include_probability: float = 0.5
    faults_max: int = 12
    draw_cluster: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Systematic:
    """All singles (``depth`` 1) or ordered pairs (2) of ``kinds`` at ``landmarks``, one a seed."""

    depth: int = 1
    kinds: tuple[str, ...] = ()
    landmarks: tuple[Landmark, ...] = ()
    for_s: float = 8.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Expect:
    """What is checked, and which marks must be reached for the verdict not to be ``unknown``."""

    invariants: tuple[Id, ...] = tuple(Id)
    marks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One file. ``core`` are the nodes that healing makes whole: all of them where it is empty.

    What ails the others then stays. ``proves`` is the promise that the file is about, if one.
    ``requests`` are sent besides those of the workload, which has none at 0 ``requests_per_s``.
    """

    name: str
    about: str = ""
    proves: Id | None = None
    mode: Mode = Mode.NODE
    seed: int = 1
    warm_up_s: float = 12.0
    duration_s: float = 60.0
    settle_s: float = 45.0
    core: tuple[str, ...] = ()
    cluster: Cluster = field(default_factory=Cluster)
    workload: Workload = field(default_factory=Workload)
    limits: Limits = field(default_factory=Limits)
    requests: tuple[PlannedRequest, ...] = ()
    faults: tuple[FaultEntry, ...] = ()
    swarm: Swarm | None = None
    systematic: Systematic | None = None
    expect: Expect = field(default_factory=Expect)
