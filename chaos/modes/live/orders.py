"""What the harness tells a live node over its standard input, and what the node tells of itself.

One JSON object a line each way. The end of the input is the death of the harness: the node ends.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

LINE_BYTES_MAX = 1 << 20


class Order(msgspec.Struct, frozen=True, kw_only=True, tag_field="do", forbid_unknown_fields=True):
    """Base of orders; the node answers each with :class:`Done` of its number.

    ``fault`` is the id of the fault that it belongs to: several of a kind go together.
    """

    number: int
    fault: str


class SetClock(Order, frozen=True, tag="clock"):
    """The wall clock is ahead by so many seconds; 0 ends it."""

    ahead_s: float


class FillDisk(Order, frozen=True, tag="disk"):
    """Whether every write is refused."""

    full: bool


class HoldDigest(Order, frozen=True, tag="digest"):
    """Whether what happens in the cache is kept from the digest."""

    stale: bool


class SlowEngine(Order, frozen=True, tag="slow"):
    """The engine takes so many times as long; 1 ends it."""

    factor: Annotated[float, Meta(ge=1, le=1000)]


class CrashEngine(Order, frozen=True, tag="crash"):
    """The engine's next step raises."""


AnyOrder = SetClock | FillDisk | HoldDigest | SlowEngine | CrashEngine


class Done(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="done"):
    """An order was carried out; ``effects`` is how often its fault has taken effect so far."""

    number: int
    effects: int = 0


class Published(msgspec.Struct, frozen=True, array_like=True):
    """One digest: its stream's number, how many prefixes, and a digest of the set."""

    seq: int
    count: int
    digest: str


class State(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="state"):
    """Now and then: what the node publishes by tenant, what it knows by ``origin|tenant``."""

    generation: int
    mine: dict[str, Published]
    known: dict[str, Published]
    truth: dict[str, tuple[int, int]]
    """By tenant: prefixes published and not held, run ends held and not published."""
    gauges: dict[str, tuple[float, float | None]]
    """Value and cap by name."""
    evictions: int
    """How often its cache has evicted something."""


class Accepted(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="accepted"):
    """The node believes an object of a peer: see ``What.ACCEPTED``."""

    origin: str
    object: str
    generation: int
    seq: int
    stream: str | None


class Sealed(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="sealed"):
    """The node has used a key and a counter: see ``What.SEALED``."""

    key: str
    counter: int


class Served(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="served"):
    """Its engine serves a request: see ``What.SERVED``. Tenant and request are the peers' ids."""

    request: str
    tenant: str
    prompt_tokens: int
    cached_tokens: int
    explained_tokens: int


Told = State | Accepted | Sealed | Served
"""What a node tells by itself."""

Fact = Done | Told

encode = msgspec.json.Encoder().encode
decode_order = msgspec.json.Decoder(AnyOrder).decode
decode_fact = msgspec.json.Decoder(Fact).decode
