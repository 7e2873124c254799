"""Random partitions: whatever two issuers sign on whatever side, all of it holds after healing."""

from __future__ import annotations

from itertools import combinations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.overlay.revocation.pair import ISSUERS, Host, merged

HOSTS = 4
PLACES = st.integers(0, HOSTS - 1)


class Spreading(RuleBasedStateMachine):
    """Hosts, of which pairs are connected; sets only grow, and equal sets have equal digests."""

    @initialize()
    def begin(self) -> None:
        self.hosts = [Host(f"host {number}") for number in range(HOSTS)]
        self.links: dict[tuple[int, int], list[int]] = {}
        self.signed: set[str] = set()
        self.known: list[set[str]] = [set() for _ in range(HOSTS)]

    @rule(place=PLACES, issuer=st.integers(0, 1), number=st.integers(0, 40))
    def revoke(self, place: int, issuer: int, number: int) -> None:
        id_ = f"{issuer}:{number}"
        self.signed.add(id_)
        self.hosts[place].revoke(id_, ISSUERS[issuer])

    @rule(one=PLACES, other=PLACES)
    def connect(self, one: int, other: int) -> None:
        if one == other:
            return
        pair = (min(one, other), max(one, other))
        a, b = self.hosts[pair[0]], self.hosts[pair[1]]
        self.links[pair] = [a.exchange.end, b.exchange.end]
        merged(a, b)

    @rule(one=PLACES, other=PLACES)
    def cut(self, one: int, other: int) -> None:
        self.links.pop((min(one, other), max(one, other)), None)

    @rule()
    def flood(self) -> None:
        """Everybody tells those that it is connected with, until nobody has news."""
        moved = True
        while moved:
            moved = False
            for (one, other), since in self.links.items():
                for side, (a, b) in enumerate(((one, other), (other, one))):
                    until = self.hosts[a].tell(self.hosts[b], since[side])
                    moved = moved or until != since[side]
                    since[side] = until

    @rule(place=PLACES)
    def crash(self, place: int) -> None:
        for pair in [pair for pair in self.links if place in pair]:
            del self.links[pair]
        self.hosts[place].start()

    @invariant()
    def sets_only_grow(self) -> None:
        for place, host in enumerate(self.hosts):
            assert self.known[place] <= host.ids <= self.signed
            self.known[place] = host.ids

    def teardown(self) -> None:
        if not hasattr(self, "hosts"):
            return
        for _ in range(2):
            for a, b in combinations(self.hosts, 2):
                merged(a, b)
        digests = {host.exchange.known.digest for host in self.hosts}
        assert len(digests) == 1
        assert all(host.ids == self.signed for host in self.hosts)


def test_every_statement_holds_everywhere_after_healing() -> None:
    run_state_machine_as_test(
        Spreading, settings=settings(max_examples=40, stateful_step_count=25, deadline=None)
    )
