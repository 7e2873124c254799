"""BOUNDED: every other booking of a request is never let go."""

from __future__ import annotations

from chaos.invariants.invariant import Id
from chaos.plants.plant import Plant, become
from overlay.node import Node
from overlay.routing.booking import BookingId, Bookings


class _Hoarding(Bookings):
    def end(self, booking_id: BookingId, now_s: float) -> None:
        """Every other booking stays."""
        if booking_id % 2:
            Bookings.end(self, booking_id, now_s)


class BookingsKept(Plant):
    """Every node's router."""

    name = "bookings-kept"
    invariant = Id.BOUNDED

    def node(self, node: Node) -> Node:
        become(node.router.bookings, _Hoarding)
        return node
