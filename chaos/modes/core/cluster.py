"""A cluster of core mode: hosts, the network between them, and their requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from chaos.clock import SIMULATION_EPOCH_UNIX_S
from chaos.entropy import SeededEntropy
from chaos.founding import found
from chaos.history import History, What
from chaos.modes.asked import AT_FAULT, Sent, body_of, prompt_ids, prompt_text
from chaos.modes.core.asking import Asking, work_of
from chaos.modes.core.heap import Heap
from chaos.modes.core.host import CoreHost
from chaos.modes.core.network import CoreNetwork
from chaos.modes.toy import toy_of
from chaos.scenario.schedule import PlannedRequest, Schedule
from chaos.scenario.selectors import members
from overlay.body import parse_chat
from overlay.config import OVERLAY_PORT
from overlay.errors import RequestError
from overlay.request import Usage
from security.authority import Authority
from security.peer_id import PeerId


@dataclass(eq=False)
class CoreCluster:
    """Hosts by name in order.

    ``open`` are requests that have not ended, ``request_ids`` gives the planned id of each of the
    product's, ``identities`` the node of each peer id; ``revoked`` stays empty in this mode.
    """

    schedule: Schedule
    history: History
    heap: Heap
    network: CoreNetwork
    hosts: dict[str, CoreHost]
    authority: Authority
    open: dict[str, _Client] = field(default_factory=dict)
    request_ids: dict[str, str] = field(default_factory=dict)
    identities: dict[PeerId, str] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    sent: list[Sent] = field(default_factory=list)
    holds: dict[str, set[str]] = field(default_factory=dict)
    closing: bool = False

    def running(self) -> list[CoreHost]:
        """Hosts whose peer runs, in order (frozen ones included)."""
        return [host for host in self.hosts.values() if host.peer is not None]

    def core(self) -> list[CoreHost]:
        """Hosts that healing makes whole."""
        names = self.schedule.core or self.schedule.cluster.names
        return [self.hosts[name] for name in names]

    def name_of(self, peer_id: PeerId) -> str:
        """The node with this identity; the peer id itself where none has it."""
        return self.identities.get(peer_id, peer_id)

    def identity_of(self, peer_id: PeerId) -> int:
        """1 for a node's identity, which it keeps in this mode; 0 where no node has it."""
        return int(peer_id in self.identities)

    def start(self, name: str, why: str) -> bool:
        """Boots a host; one that runs or is held down is left as it is. Whether it runs."""
        host = self.hosts[name]
        if host.peer is None and not self.holds.get(name) and not self.closing:
            peer = host.start()
            self.history.add(What.NODE_UP, name, generation=peer.generation, why=why)
        return host.peer is not None

    def kill(self, name: str, why: str) -> bool:
        """The process is gone at once, and so are the requests that had entered there."""
        host = self.hosts[name]
        if host.peer is None:
            return False
        host.kill(why)
        self.history.add(What.NODE_DOWN, name, why=why)
        for client in [each for each in self.open.values() if each.request.ingress == name]:
            client.lost("the ingress went away")
        return True

    def leave(self, name: str) -> None:
        """A peer ends in order."""
        host = self.hosts[name]
        if host.peer is not None:
            host.kill("left")
            self.history.add(What.STOPPED, name, took_s=0.0)
            self.history.add(What.NODE_DOWN, name, why="left")

    def hold(self, name: str, key: str) -> None:
        """Keeps a host down from its next end on, until :meth:`let` is called with the key."""
        self.holds.setdefault(name, set()).add(key)

    def let(self, name: str, key: str) -> None:
        """Takes a hold away. Unknown: no effect."""
        self.holds.get(name, set()).discard(key)

    def send(self, request: PlannedRequest) -> None:
        """A client sends a request now."""
        _Client(self, request).send()


@dataclass(eq=False)
class _Client:
    """Sends one request and writes down what becomes of it."""

    cluster: CoreCluster
    request: PlannedRequest
    asking: Asking | None = None

    def send(self) -> None:
        cluster, request = self.cluster, self.request
        text = prompt_text(request)
        cluster.sent.append(Sent(request, cluster.heap.now_s, text))
        cluster.history.add(
            What.INVOKE,
            request.id,
            ingress=request.ingress,
            tenant=request.tenant,
            max_tokens=request.max_tokens,
            prompt_tokens=len(prompt_ids(text)),
        )
        host = cluster.hosts[request.ingress]
        if host.peer is None:
            self._mark("ingress_lost")
            self._info(f"not taken: the ingress is down ({host.down})")
            return
        if host.frozen:
            self._mark("ingress_silent")
        cluster.open[request.id] = self
        boot, sent_s = host.starts, cluster.heap.now_s
        host.enter(boot, lambda: self._begin(host, text, sent_s))
        if request.cancel_after_s is not None:
            cluster.heap.after(request.cancel_after_s, self._cancel)

    def _begin(self, host: CoreHost, text: str, sent_s: float) -> None:
        if self.request.id not in self.cluster.open:
            return
        peer, request = host.running, self.request
        tenant_id = self.cluster.authority.tenant_id(request.tenant)
        tenant = peer.tenants.get(tenant_id)
        request_id = peer.entropy.secret(16).hex()
        self.cluster.request_ids[request_id] = request.id
        try:
            if tenant is None:
                raise RequestError("not a member", code="not_a_member", status=421)
            work = work_of(peer, parse_chat(body_of(request, text)), tenant, request_id)
        except RequestError as error:
            self.failed(error)
            return
        self.asking = Asking(
            peer=peer,
            tenant=tenant,
            work=work,
            deadline_s=sent_s + request.timeout_s,
            told=self,
            reach=host.reach,
        )
        self.asking.begin()

    @property
    def _is_over(self) -> bool:
        """Whether the client has left, or the ingress: what comes then, it does not see."""
        return self.request.id not in self.cluster.open

    # -- asked for by ``asking.Told``

    def started(self, served_by: PeerId) -> None:
        if self._is_over:
            return
        node = self.cluster.name_of(served_by)
        self.cluster.history.add(What.STARTED, self.request.id, node=node)

    def tokens(self, ids: tuple[int, ...]) -> None:
        if self._is_over:
            return
        self.cluster.history.add(What.TOKENS, self.request.id, ids=list(ids))

    def ended(self, asking: Asking, served_by: PeerId, usage: Usage, reason: str) -> None:
        if self._is_over:
            return
        self.cluster.history.add(What.LANDMARK, "answered", node=self.request.ingress)
        self._end(
            What.OK,
            reason=reason,
            node=self.cluster.name_of(served_by),
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
            hops=asking.hops,
            resumes=asking.resumes,
            attempts=asking.attempts,
        )

    def failed(self, error: RequestError) -> None:
        if self._is_over:
            return
        expected = error.code in AT_FAULT
        message = error.message[:200]
        self._end(What.FAIL, code=error.code, message=message, expected=expected)

    def lost(self, why: str) -> None:
        """Its ingress is gone: nobody can know."""
        self._mark("ingress_lost")
        self._info(why)

    def _cancel(self) -> None:
        if self.request.id not in self.cluster.open:
            return
        self._end(What.CANCELLED, by="client")
        if self.asking is not None:
            host = self.cluster.hosts[self.request.ingress]
            asking = self.asking
            if host.peer is asking.peer:
                host.enter(host.starts, asking.cancel)

    def _info(self, why: str) -> None:
        self._end(What.INFO, why=why)

    def _end(self, what: What, **data: object) -> None:
        self.cluster.open.pop(self.request.id, None)
        self.cluster.history.add(what, self.request.id, **data)

    def _mark(self, mark: str) -> None:
        ingress, request_id = self.request.ingress, self.request.id
        self.cluster.history.add(What.MARK, mark, node=ingress, request=request_id)


def make_cluster(schedule: Schedule, history: History, heap: Heap) -> CoreCluster:
    """Founds the overlay of a schedule; no peer runs yet."""
    plan = schedule.cluster
    of_tenant = {tenant: members(tenant, plan) for tenant in plan.tenants}
    addresses = {name: f"10.0.0.{number}" for number, name in enumerate(plan.names, start=1)}
    its_tenants = {
        addresses[name]: tuple(t for t in plan.tenants if name in of_tenant[t])
        for name in plan.names
    }
    authority, founded = found(
        its_tenants,
        plan.tenants,
        entropy=lambda purpose: SeededEntropy(schedule.seed, purpose),
        now_unix_s=SIMULATION_EPOCH_UNIX_S,
    )
    hosts = {
        name: CoreHost(
            name=name,
            address=f"{address}:{OVERLAY_PORT}",
            tenants=its_tenants[address],
            identity=founded[address],
            epochs=authority.epochs,
            toy=toy_of(schedule, name),
            policy=plan.policy,
            seed=schedule.seed,
            heap=heap,
        )
        for name, address in addresses.items()
    }
    network = CoreNetwork(heap, plan.delay_ms / 1000, list(hosts.values()))
    by_id = {host.peer_id: host for host in hosts.values()}
    for host in hosts.values():
        host.network, host.by_id, host.by_name = network, by_id, hosts
    identities = {peer_id: host.name for peer_id, host in by_id.items()}
    return CoreCluster(schedule, history, heap, network, hosts, authority, identities=identities)
