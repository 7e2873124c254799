"""What a fault is aimed at: selectors as written, to explicit nodes, links and groups.

A selector is one of these, or several with commas between them, which add up::

    one          a node (for link faults: one direction of one link) drawn for this fault
    all          every node (every link; for partitions: everybody alone)
    minority     fewer than half of the nodes, as many as that can be, drawn for this fault
    n3, node:n3  that node
    link:n1>n2   that direction of that link; n1<>n2 is both, and * stands for every node
    role:ingress nodes at which requests enter
    role:core    nodes that healing makes whole
    role:outside nodes that it does not
    role:remote  nodes with a remote server
    tenant:a     members of the tenant

A link fault whose selector names nodes acts on all their links, in and out. A partition whose
selector names nodes parts them from the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from chaos.entropy import stream_seed
from chaos.errors import ScenarioError
from chaos.faults.catalogue import nearest
from chaos.faults.fault import Aim
from chaos.scenario.scenario import Cluster, FaultEntry, Landmark
from chaos.scenario.schedule import PlannedFault

Link = tuple[str, str]

WORDS = ("one", "all", "minority")
ROLES = ("ingress", "core", "outside", "remote")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What selectors look at: the cluster, the healed core, and where requests enter."""

    cluster: Cluster
    core: tuple[str, ...] = ()
    ingresses: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return self.cluster.names

    def roles(self) -> Mapping[str, tuple[str, ...]]:
        core = self.core or self.names
        return {
            "ingress": self.ingresses or self.names,
            "core": core,
            "outside": tuple(name for name in self.names if name not in core),
            "remote": self.cluster.remote,
        }


def resolve(entry: FaultEntry, fault_id: str, ground: Ground, seed: int) -> PlannedFault:
    """A fault of a scenario with explicit targets.

    What is drawn comes from the stream (seed, "target", ``fault_id``).

    Raises:
        ScenarioError: For a selector that is not understood, or selects nothing.
    """
    rng = Random(stream_seed(seed, "target", fault_id))
    aim = entry.fault.aim
    if isinstance(entry.at, Landmark) and entry.at.node is not None:
        known_node(entry.at.node, ground.names)
    if entry.links and (aim is not Aim.LINKS or entry.target):
        raise ScenarioError(f"{entry.fault.kind} takes {_wanted(aim)}, not `links` as well")
    if entry.groups and (aim is not Aim.GROUPS or entry.target):
        raise ScenarioError(f"{entry.fault.kind} takes {_wanted(aim)}, not `groups` as well")
    if not (entry.target or entry.links or entry.groups):
        raise ScenarioError(f"{entry.fault.kind} needs {_wanted(aim)}")
    links: tuple[Link, ...] = ()
    groups: tuple[tuple[str, ...], ...] = ()
    nodes: tuple[str, ...] = ()
    if aim is Aim.LINKS:
        links = _links(entry, ground, rng)
    elif aim is Aim.GROUPS:
        groups = _groups(entry, ground, rng)
    else:
        nodes = select_nodes(entry.target or "", ground, rng)
    return planned(entry, fault_id, nodes=nodes, links=links, groups=groups, names=ground.names)


def planned(
    entry: FaultEntry,
    fault_id: str,
    *,
    names: Sequence[str],
    nodes: Iterable[str] = (),
    links: tuple[Link, ...] = (),
    groups: tuple[tuple[str, ...], ...] = (),
) -> PlannedFault:
    """A planned fault; its nodes are the ends of its links and the members of its groups too."""
    touched = {*nodes, *(end for link in links for end in link), *(n for g in groups for n in g)}
    return PlannedFault(
        id=fault_id,
        fault=entry.fault,
        at=entry.at,
        for_s=0.0 if entry.fault.instant else entry.for_s,
        nodes=tuple(name for name in names if name in touched),
        links=links,
        groups=groups,
    )


def known_node(name: str, names: Sequence[str]) -> str:
    """The name of a node; raises ``ScenarioError`` where the cluster has none of that name."""
    if name not in names:
        hint = nearest(name, list(names))
        raise ScenarioError(f"there is no node {name!r} (n1 to {names[-1]}){hint}")
    return name


def select_nodes(text: str, ground: Ground, rng: Random) -> tuple[str, ...]:
    """Nodes of a selector, in the cluster's order. Raises ``ScenarioError``."""
    chosen: set[str] = set()
    for part in _parts(text):
        chosen.update(_nodes(part, ground, rng))
    if not chosen:
        raise ScenarioError(f"{text!r} selects no node of this cluster")
    return tuple(name for name in ground.names if name in chosen)


def select_links(text: str, names: Sequence[str]) -> tuple[Link, ...]:
    """Directed links of ``n1>n2``, ``n1<>n2``, ``n1>*``. Raises ``ScenarioError``."""
    both = "<>" in text
    ends = [end.strip() for end in text.split("<>" if both else ">")]
    if len(ends) != 2:
        raise ScenarioError(f"a link is written n1>n2, n1<>n2 or n1>*, not {text!r}")
    sources, targets = ([*names] if end == "*" else [known_node(end, names)] for end in ends)
    found = [(a, b) for a in sources for b in targets if a != b]
    if both:
        found += [(b, a) for a, b in found]
    if not found:
        raise ScenarioError(f"{text!r} names no link between two nodes")
    return tuple(dict.fromkeys(found))


def every_link(names: Sequence[str]) -> tuple[Link, ...]:
    """All directed links of a cluster."""
    return tuple((a, b) for a in names for b in names if a != b)


def _parts(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    if not all(parts):
        raise ScenarioError(f"a target is empty in {text!r}: write one selector, or a, b")
    return parts


def _nodes(part: str, ground: Ground, rng: Random) -> tuple[str, ...]:
    names = ground.names
    kind, _, value = part.partition(":")
    if part == "one":
        return (rng.choice(names),)
    if part == "all":
        return names
    if part == "minority":
        size = (len(names) - 1) // 2
        if size == 0:
            raise ScenarioError(f"a cluster of {len(names)} has no minority: use 3 nodes or more")
        return tuple(rng.sample(names, size))
    if kind == "node" and value:
        return (known_node(value, names),)
    if kind == "role" and value in ROLES:
        return ground.roles()[value]
    if kind == "tenant" and value:
        return members(value, ground.cluster)
    if not value and part in names:
        return (part,)
    raise ScenarioError(f"there is no target {part!r}{_like(part, ground)}")


def _like(part: str, ground: Ground) -> str:
    known = [*WORDS, *ground.names, *(f"role:{role}" for role in ROLES), "node:n1", "link:n1>n2"]
    known += [f"tenant:{tenant}" for tenant in ground.cluster.tenants]
    return nearest(part, known) or f"; known are {', '.join(known)}"


def members(tenant: str, cluster: Cluster) -> tuple[str, ...]:
    """Nodes that are members of a tenant. Raises ``ScenarioError`` where there is none such."""
    if tenant not in cluster.tenants:
        hint = nearest(tenant, list(cluster.tenants))
        raise ScenarioError(
            f"there is no tenant {tenant!r} (known: {', '.join(cluster.tenants)}){hint}"
        )
    return tuple(name for name in cluster.names if tenant not in cluster.outside.get(name, ()))


def _links(entry: FaultEntry, ground: Ground, rng: Random) -> tuple[Link, ...]:
    names = ground.names
    if len(names) < 2:
        raise ScenarioError(f"{entry.fault.kind} needs links, and one node has none")
    found: list[Link] = []
    for text in entry.links:
        found += select_links(text.removeprefix("link:"), names)
    for part in _parts(entry.target) if entry.target else ():
        if ">" in part:
            found += select_links(part.removeprefix("link:"), names)
        elif part == "one":
            found.append(rng.choice(every_link(names)))
        else:
            chosen = _nodes(part, ground, rng)
            found += [link for link in every_link(names) if set(link) & set(chosen)]
    return tuple(dict.fromkeys(found))


def _groups(entry: FaultEntry, ground: Ground, rng: Random) -> tuple[tuple[str, ...], ...]:
    names = ground.names
    if entry.groups:
        groups = entry.groups
    elif entry.target == "all":
        groups = tuple((name,) for name in names)
    else:
        chosen = select_nodes(entry.target or "", ground, rng)
        groups = (chosen, tuple(name for name in names if name not in chosen))
    seen: set[str] = set()
    for name in (name for group in groups for name in group):
        known_node(name, names)
        if name in seen:
            raise ScenarioError(f"{name} is in two groups")
        seen.add(name)
    if len(groups) < 2 or not all(groups):
        raise ScenarioError(f"{entry.fault.kind} needs two groups of nodes or more")
    return groups


def _wanted(aim: Aim) -> str:
    if aim is Aim.LINKS:
        return '`target` (such as "one", "n2" or "all") or `links = ["n1>n2"]`'
    if aim is Aim.GROUPS:
        return '`target` (such as "minority") or `groups = [["n1"], ["n2", "n3"]]`'
    return '`target` (such as "one", "n2", "minority" or "role:ingress")'
