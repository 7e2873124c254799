"""Whose request starts next: virtual token counters over tenants (VTC, Sheng et al., OSDI 2024).

Rules:

1. A tenant's counter grows by the prompt's tokens when a request of it first starts, cached or not,
   and by :data:`ANSWER_WEIGHT` for each token of an answer. So nobody's place depends on anybody's
   cache hits, its own included.
2. Next is the oldest waiting request of the tenant with the smallest counter. Whoever is next and
   does not fit into memory is waited for; nobody passes it.
3. A tenant that had nothing waiting is lifted to the smallest counter of those that have, so that
   being idle earns nothing.
4. Where all places to wait are taken, a tenant that has fewer than its even share of them may wait
   all the same (:func:`has_room`): whoever fills the queue keeps out its own tenant alone.
5. A preempted request goes back to the head of its tenant's queue and is not charged again.

Lag bound: between tenants that have requests waiting all along, counters differ by at most

    P + ANSWER_WEIGHT x S x A        (P longest prompt, S slots, A longest answer, in tokens)

as a counter only grows beyond the smallest one by the requests that the tenant had running when it
was last the smallest. So over any such interval the work that two of them are given differs by at
most twice that, whatever a third one does.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, TypeVar

from inference.request import Namespace

ANSWER_WEIGHT = 2
"""Cost of a token of an answer, in prompt tokens; as in the paper."""

Item = TypeVar("Item")


def has_room(namespace: Namespace, waiting: Sequence[Namespace], places: int) -> bool:
    """Whether one more request of a tenant may wait.

    With n tenants at most ``places`` times 1 + 1/2 + ... + 1/n wait.

    Args:
        namespace: The tenant.
        waiting: The tenants of those that wait, one for each.
        places: How many may wait as long as there is room for everybody.
    """
    if len(waiting) < places:
        return True
    return waiting.count(namespace) < places // len({*waiting, namespace})


class FairQueue(Generic[Item]):
    """Waiting requests of many tenants, and what each tenant has been given."""

    def __init__(self) -> None:
        self._queues: dict[Namespace, deque[Item]] = {}
        self._counters: dict[Namespace, int] = {}
        self._busy: dict[Namespace, int] = {}
        self._last = 0

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def push(self, namespace: Namespace, item: Item) -> None:
        """A new request of a tenant; it waits behind the tenant's others."""
        self._lift(namespace)
        self._busy[namespace] = self._busy.get(namespace, 0) + 1
        self._queues.setdefault(namespace, deque()).append(item)

    def push_back(self, namespace: Namespace, item: Item) -> None:
        """A started request goes back, before the tenant's others.

        Its tenant is not lifted: it was never idle, and is still owed what it has not been given.
        """
        self._queues.setdefault(namespace, deque()).appendleft(item)

    def first(self) -> tuple[Namespace, Item] | None:
        """Who is next; it stays where it is."""
        if not self._queues:
            return None
        namespace = min(self._queues, key=lambda each: (self.counter(each), each))
        return namespace, self._queues[namespace][0]

    def take(self, namespace: Namespace, item: Item) -> None:
        """A request starts, or is given up while it waits."""
        queue = self._queues[namespace]
        queue.remove(item)
        if not queue:
            del self._queues[namespace]
            self._last = self.counter(namespace)

    def charge(self, namespace: Namespace, tokens: int) -> None:
        """A tenant is given work."""
        self._counters[namespace] = self.counter(namespace) + tokens

    def done(self, namespace: Namespace) -> None:
        """A request of the tenant has ended, however that was."""
        self._busy[namespace] -= 1
        if not self._busy[namespace]:
            del self._busy[namespace]
        if not self._busy:
            # Nobody is left who could be given less than its due.
            self._counters.clear()
            self._last = 0

    def counter(self, namespace: Namespace) -> int:
        """What a tenant has been given, or lifted to."""
        return self._counters.get(namespace, 0)

    def _lift(self, namespace: Namespace) -> None:
        if namespace in self._queues:
            return
        waiting = [self.counter(each) for each in self._queues]
        floor = min(waiting) if waiting else self._last
        self._counters[namespace] = max(self.counter(namespace), floor)
        for each in [each for each in self._counters if each not in self._busy]:
            # It would be lifted to this when it comes back.
            if self._counters[each] <= floor and each != namespace:
                del self._counters[each]
