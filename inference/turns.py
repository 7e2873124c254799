"""Turns between tenants: who was served longest ago comes first."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from inference.request import Namespace

T = TypeVar("T")


class Turns:
    """At which step each tenant that waits was last served; one that was not yet goes first."""

    __slots__ = ("_served", "_step")

    def __init__(self) -> None:
        self._step = 0
        self._served: dict[Namespace, int] = {}

    def order(self, waiting: list[T], namespace_of: Callable[[T], Namespace]) -> None:
        """Begins a step and sorts who waits; within a tenant they keep their order.

        A tenant with nothing that waits is forgotten.
        """
        self._step += 1
        namespaces = {namespace_of(each) for each in waiting}
        self._served = {each: step for each, step in self._served.items() if each in namespaces}
        waiting.sort(key=lambda each: self._served.get(namespace_of(each), 0))

    def served(self, namespace: Namespace) -> None:
        """The tenant got something of this step."""
        self._served[namespace] = self._step
