"""Counts what a checker compares, and keeps to the voids while it does.

A fact that an active fault voids is not compared: it counts as voided, whatever it says. Where it
does say that the invariant was broken, the fault's own promise is checked in its place: the mark of
the detection that it declares must stand in the history.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from chaos.invariants.invariant import Finding, Id, Witness, finding
from chaos.invariants.voids import Span, voids_of
from chaos.run import Run, marks

WITNESSES_MAX = 16
"""More contradictions of one kind say nothing new; ``exercised`` counts the facts."""


class Tally:
    """The facts of one invariant in one run."""

    def __init__(self, invariant: Id, run: Run) -> None:
        self.invariant = invariant
        self.exercised = 0
        self.voided = 0
        self._voids = voids_of(run)
        self._is_voidable = self._voids.touch(invariant)
        self._marks = marks(run)
        self._witnesses: list[Witness] = []
        self._undetected: dict[str, None] = {}

    def compare(
        self,
        nodes: Iterable[str],
        from_s: float,
        to_s: float,
        witness: Witness | None,
        *,
        ingress: str | None = None,
    ) -> bool:
        """Counts one fact.

        Args:
            nodes: Those that had a part in it.
            from_s: Since when.
            to_s: Until when.
            witness: The contradiction, or None where it is as promised.
            ingress: Where a request entered, for voids of what enters there.

        Returns:
            Whether it counts, that is, whether no void covers it.
        """
        if not self._is_voidable:
            voids: Sequence[Span] = ()
        else:
            voids = self._voids.covering(self.invariant, nodes, from_s, to_s, ingress)
        if not voids:
            self.exercised += 1
            if witness is not None:
                self.add(witness)
            return True
        self.voided += 1
        if witness is not None:
            self._demand_detection(voids, witness)
        return False

    def is_voided(self, nodes: Iterable[str], from_s: float, to_s: float) -> bool:
        """Whether a void covers some nodes at some moment of a span of time."""
        return bool(self._voids.covering(self.invariant, nodes, from_s, to_s))

    def finding(self, *, share_of_bound: float | None = None) -> Finding:
        """What was counted, as the checker's answer."""
        return finding(
            self.invariant,
            exercised=self.exercised,
            witnesses=self._witnesses,
            voided=self.voided,
            share_of_bound=share_of_bound,
        )

    def _demand_detection(self, voids: Sequence[Span], witness: Witness) -> None:
        if any(span.instead in self._marks for span in voids):
            return
        first = voids[0]
        if first.fault_id in self._undetected:
            return
        self._undetected[first.fault_id] = None
        self.add(
            Witness(
                expected=f"{self.invariant.value} is voided by {first.fault_id}, which must be "
                f"detected: mark {first.instead}",
                found=f"no such mark, and {witness.found}",
                events=(first.begin, *witness.events[-1:]),
                node=witness.node,
                request=witness.request,
            )
        )

    def add(self, witness: Witness) -> None:
        """A contradiction between facts that were counted one by one."""
        if len(self._witnesses) < WITNESSES_MAX:
            self._witnesses.append(witness)
