"""A ticket that stands in a backup of an issuer's folder as unused, and was used since."""

from __future__ import annotations

from dataclasses import dataclass

import trio

from chaos.history import What
from chaos.issuing import ENROL_PORT
from chaos.modes.node.cluster import SimCluster, SimHost
from overlay.address import Address
from overlay.errors import RostersUnheard
from security.enrolment import make_join_request, open_admission
from security.errors import Refused, TicketUnknown, TicketUsed
from security.keys import HostKeys
from security.ticket import Ticket

VOIDED = "tickets_voided"
"""A mark: an issuer that was restored has refused a ticket that its backup takes for unused."""

TICKET_S = 600.0
ASK_EVERY_S = 1.0
ASKS_MAX = 30
STRANGER = Address("10.0.8.1", 7402)


@dataclass(eq=False)
class BackedUpTicket:
    """One ticket of an issuer; ``ticket`` is None where that cannot make any now."""

    cluster: SimCluster
    host: SimHost
    ticket: Ticket | None
    joiners: int = 0

    @classmethod
    def of(cls, cluster: SimCluster, host: SimHost) -> BackedUpTicket:
        """Has the issuer make one for the last of its tenants."""
        desk = host.running.desk
        assert desk is not None
        try:
            made = desk.invite(host.tenants[-1:], [Address(host.address, ENROL_PORT)], TICKET_S)
        except RostersUnheard:
            made = None
        return cls(cluster, host, made)

    async def use(self) -> None:
        """A host joins with it, and with that the tenant's roster changes."""
        if self.ticket is not None and not await self._joins(self.ticket):
            self.ticket = None

    async def use_again(self) -> None:
        """Another host tries: nothing may come of it (CHANGED), now or when the issuer answers."""
        for _ in range(ASKS_MAX):
            await trio.sleep(ASK_EVERY_S)
            if self.ticket is None or self.host.node is None:
                continue
            try:
                joined = await self._joins(self.ticket)
            except Refused:
                continue  # it has heard nobody yet
            history = self.cluster.history
            if joined:
                what = "it admitted a host with a ticket that was used before"
                history.add(What.CHANGED, self.host.name, sender="a used ticket", changed=what)
            else:
                history.add(What.MARK, VOIDED, node=self.host.name)
            return

    async def _joins(self, ticket: Ticket) -> bool:
        """Whether a host is admitted, or the ticket is void.

        Raises:
            Refused: Where the issuer cannot answer now.
        """
        self.joiners += 1
        purpose = f"joiner {ticket.ticket_id} {self.joiners}"
        keys = HostKeys.generate(self.cluster.entropy(purpose).secret)
        desk = self.host.running.desk
        assert desk is not None
        answer = await desk.admit(make_join_request(keys, ticket), STRANGER)
        try:
            open_admission(answer, ticket, keys, self.host.clock.unix_s())
        except (TicketUnknown, TicketUsed):
            return False
        return True
