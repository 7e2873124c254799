"""What happened in a run, in order: facts that checkers are pure functions of.

One line of ``history.jsonl`` is one :class:`Event`. ``what`` is one of :class:`What`; its comment
says what ``subject`` is and what ``data`` holds. Content of prompts never gets in, only ids,
counts, sizes, and the token ids of answers.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

_encoder = msgspec.json.Encoder(order="sorted")


class What(enum.Enum):
    """Kinds of events."""

    PHASE = "phase"
    """subject "": name (warm_up, storm, healed, settled, stopped; looked: whether a live run has
    left anything)."""

    INVOKE = "invoke"
    """subject request: ingress, tenant, max_tokens, prompt_tokens (0 where not known); whole where
    no stream was asked for of an engine that would give one piece then, tools where it has some."""
    STARTED = "started"
    """subject request: node (the one that serves)."""
    TOKENS = "tokens"
    """subject request: ids (list of token ids, as the client got them); where some node has a
    remote server also text (of the chunk, if it is one), piece (``chaos/pieces.py``), and blind:
    True where the engine told no ids."""
    OK = "ok"
    """subject request: reason, node, prompt_tokens, cached_tokens, completion_tokens, hops,
    resumes, attempts (0 where not known)."""
    FAIL = "fail"
    """subject request: code, message; ``expected`` True where the request itself was at fault."""
    CANCELLED = "cancelled"
    """subject request: by (client, or the fault's id)."""
    INFO = "info"
    """subject request: why; its outcome is unknown, as its ingress was lost."""

    ROUTED = "routed"
    """subject request: attempt, node, here (tokens cached at the ingress), claims {node: tokens},
    held {node: tokens that node's cache truly held then}; of nodes whose claim was more than that:
    age_s {node: how old the router took its digest to be}, false_s {node: how long ago its cache
    last held as much; None: never since it booted}."""
    SERVED = "served"
    """subject node: request, tenant, prompt_tokens, cached_tokens (what the engine took from its
    cache, whatever a lying one says), explained_tokens (the longest prefix that this tenant's own
    requests can have left at this node since its engine began)."""

    SAID = "said"
    """subject node: request, from_s, pieces (all that its engine said, by ``chaos/pieces.py``),
    whole (whether it came to its end), completion_tokens (as the engine counts; None: it does not).
    Only where an engine may say something else than the twin, or in chunks."""

    ACCEPTED = "accepted"
    """subject observer node: origin, identity (of the origin: 1, more after it was installed anew),
    object (record, head, frame), generation, seq, stream, sender, genuine (the origin's own
    process signed exactly this; None in live mode, where nobody knows). ``seq`` is the number that
    the observer knows the object by from then on: of a frame, how far it has that stream."""
    CHANGED = "changed"
    """subject node: sender, by a message of a peer that is revoked or a stranger: what changed."""
    SEALED = "sealed"
    """subject node: key (hex digest of the sealing key), counter."""
    REVOKED = "revoked"
    """subject node that is revoked: identity (left out: every one), at (the node that knows of it
    from now on; left out: all others), by (the node that it was first said at)."""

    NODE_UP = "node_up"
    """subject node: generation, why."""
    NODE_DOWN = "node_down"
    """subject node: why."""
    STOPPED = "stopped"
    """subject node: took_s, an orderly end that was asked for."""
    STUCK = "stuck"
    """subject node, request or "run": why (what did not end, or broke), for_s."""

    FAULT_BEGIN = "fault_begin"
    """subject fault id: kind, nodes."""
    FAULT_END = "fault_end"
    """subject fault id: kind, effects (how many times it took effect), undone."""
    FAULT_MISSED = "fault_missed"
    """subject fault id: kind, why (nothing there to act on, or its landmark never came)."""
    FAULT_UNSUPPORTED = "fault_unsupported"
    """subject fault id: kind, why."""

    MARK = "mark"
    """subject mark: something worth seeing happened; node, request or fault where it has one."""
    LANDMARK = "landmark"
    """subject event (answered, forwarded, digest_published, evicted, peer_up, peer_down): node."""
    GAUGE = "gauge"
    """subject node: name, value, cap (None: none is stated), baseline (value before the storm)."""
    AGREEMENT = "agreement"
    """subject "": pairs, agreeing (observer-origin-tenant triples), of running core nodes."""
    DIVERGED = "diverged"
    """subject observer: origin, tenant, missing, extra: at the end of settling."""
    CLAIMS = "claims"
    """subject node, at the end of settling: tenant, phantom (published and not held), unpublished
    (run ends held and not published), truncated."""
    CONVERGED = "converged"
    """subject "": after_s (from healing)."""
    LEAK = "leak"
    """subject node: tenant (whose canary was seen), where."""
    LEFT = "left"
    """subject what the harness left behind: kind (process, socket, file, rule)."""


class Event(msgspec.Struct, frozen=True, gc=False):
    """One fact. ``at_s`` counts from the start of the run.

    A struct and no dataclass because a run makes thousands: a quarter of the time.
    """

    at_s: float
    what: What
    subject: str
    data: dict[str, Any]  # plain JSON values, by the vocabulary above


@dataclass(slots=True)
class History:
    """An append-only list of events. ``now`` gives the run's time in seconds."""

    now: Callable[[], float]
    events: list[Event] = field(default_factory=list)
    watchers: list[Callable[[Event], None]] = field(default_factory=list)

    def add(self, what: What, subject: str = "", **data: Any) -> Event:  # as in Event
        """Notes a fact now."""
        event = Event(round(self.now(), 6), what, subject, data)
        self.events.append(event)
        for watcher in self.watchers:
            watcher(event)
        return event

    def of(self, *kinds: What) -> Iterator[tuple[int, Event]]:
        """Events of some kinds with their indices, in order."""
        for index, event in enumerate(self.events):
            if event.what in kinds:
                yield index, event

    def digest(self) -> str:
        """32 hex digits that two histories share exactly when they are the same."""
        state = hashlib.blake2b(digest_size=16)
        for event in self.events:
            state.update(line(event))
        return state.hexdigest()


def line(event: Event) -> bytes:
    """An event as one line of JSON."""
    shown = {"at_s": event.at_s, "what": event.what, "subject": event.subject, **event.data}
    return _encoder.encode(shown) + b"\n"
