"""The seams of a peer: what it takes from outside, as protocols.

A peer reads no clock, draws no randomness, opens no socket and touches no disk except through
these ports, so that a simulation runs the same code. Each port has a real and a simulated
implementation, and one contract test (``tests/contracts``) is run against both. ``overlay/node.py``
is the only place that puts real ones together.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import trio

from inference.events import CacheEvent
from inference.request import (
    Capabilities,
    EngineLoad,
    EngineRequest,
    Namespace,
    Prompt,
    TokenEvent,
)
from overlay.address import Address
from security.peer_id import PeerId


class Clock(Protocol):
    """Time. ``now_s`` never falls and has no epoch (``trio.current_time``); ``unix_s`` may jump."""

    def now_s(self) -> float: ...

    def unix_s(self) -> float: ...


class Entropy(Protocol):
    """Randomness. ``secret`` is for keys, salts and ids; ``rng`` for jitter and choices only."""

    def secret(self, size_bytes: int) -> bytes: ...

    @property
    def rng(self) -> random.Random: ...


class ByteChannel(Protocol):
    """A reliable ordered byte stream. One sender task and one receiver task at a time.

    ``receive_some`` returns ``b""`` at the end. A lost connection raises
    ``trio.BrokenResourceError``, a locally closed one ``trio.ClosedResourceError``. A send that is
    cancelled has broken the channel for sending: nobody knows how much of it will arrive.
    """

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...

    async def receive_some(self) -> bytes: ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureChannel:
    """A byte channel whose far end has proved possession of ``leaf``'s key.

    ``leaf`` is the DER certificate, or None for a client that proves itself by token instead.
    Nothing about the leaf has been judged yet except that its issuer chains to our root.
    """

    channel: ByteChannel
    leaf: bytes | None
    issuer: bytes | None
    address: Address


class Transport(Protocol):
    """Authenticated, encrypted byte channels between hosts.

    ``listen`` accepts until cancelled, reports its bound addresses as started value, and runs
    ``accept`` in a task of its own for each channel; an accept that raises ends that channel only.
    ``dial`` raises ``security.errors.SecurityError`` when the far end is not ``peer_id`` (None: any
    peer of the overlay, for bootstrap addresses), and ``trio.BrokenResourceError`` or ``OSError``
    when there is no connection to be had. ``show`` gives another certificate of the same key, and
    the roots that others are held against, for handshakes that begin from then on.
    """

    async def listen(
        self,
        addresses: Sequence[Address],
        accept: Callable[[SecureChannel], Awaitable[None]],
        *,
        task_status: trio.TaskStatus[tuple[Address, ...]] = trio.TASK_STATUS_IGNORED,
    ) -> None: ...

    async def dial(self, address: Address, peer_id: PeerId | None) -> SecureChannel: ...

    def show(self, leaf: bytes, issuer: bytes, roots: Sequence[bytes]) -> None: ...


class Enrolment(Protocol):
    """Asks enrolment listeners of this overlay, as one whose certificate may have ended.

    ``ask`` sends one message and gives the answer. It raises ``security.errors.SecurityError`` when
    the far end is not of this overlay under ``roots``, and ``overlay.errors`` when there is no
    answer to be had. ``ask_anybody`` judges nobody: only what proves itself may be made of its
    answer.
    """

    async def ask(self, address: Address, request: bytes, roots: Sequence[bytes]) -> bytes: ...

    async def ask_anybody(self, address: Address, request: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerHint:
    """Somebody says that a peer can be reached there. Never trust, never liveness."""

    peer_id: PeerId | None
    addresses: tuple[Address, ...]


class Discovery(Protocol):
    """Finds addresses of other peers.

    ``run`` announces ourselves and sends hints until cancelled; the channel is bounded and hints
    that find it full are dropped and counted by the implementation.
    """

    async def run(
        self,
        peer_id: PeerId,
        addresses: Sequence[Address],
        hints: trio.MemorySendChannel[PeerHint],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None: ...


class Storage(Protocol):
    """Small durable tables of bytes. A batch is written whole or not at all.

    ``read`` returns every row of a table, sorted by key. ``write`` returns once the batch survives
    a crash of the process (``durable=False``) or of the machine (``durable=True``); a value of
    None deletes. Both raise ``overlay.errors.StorageError``, ``StorageFull`` for a full disk, and
    leave what was there.
    """

    def read(self, table: str) -> Mapping[bytes, bytes]: ...

    def write(
        self, table: str, rows: Mapping[bytes, bytes | None], *, durable: bool = False
    ) -> None: ...


class TokenStream(Protocol):
    """An answer under way; ends after the event that carries a finish reason."""

    def __aiter__(self) -> TokenStream: ...

    async def __anext__(self) -> TokenEvent: ...


class Engine(Protocol):
    """A host's inference engine.

    ``submit`` is entered for one request and left when the caller has enough: leaving early
    cancels it, and its slot is free when the block is left. It raises ``inference.errors``:
    ``InvalidRequest`` and ``UnknownModel`` on entering, ``EngineOverloaded`` when the queue is
    full, ``EngineFailed`` at any time. ``cancel`` ends a request from elsewhere; its stream then
    raises ``EngineFailed``. ``share_among`` tells which tenants may send requests, for engines that
    divide themselves among them. ``cache_events`` drains what happened since the last call, in
    order, bounded: an engine that had to drop some gives ``Cleared`` and all it holds. ``drop``
    lets go what a namespace has cached, and what requests with that chain key leave there later.
    ``tokenize`` raises ``InvalidRequest``; it is the same function on every peer of one prefix
    identity, and gives None where only the engine itself knows how it reads a prompt. What
    ``capabilities`` says may change while it runs, as a remote server comes and goes. ``posture``
    has lines (name, words) for the host's owner: what was found, and what is degraded. ``stalled``
    says whether it works on something and has finished no step for far longer than a step should
    take; a slow engine is not stalled.
    """

    def capabilities(self) -> Capabilities: ...

    async def tokenize(self, model: str, prompt: Prompt) -> tuple[int, ...] | None: ...

    def submit(self, request: EngineRequest) -> AbstractAsyncContextManager[TokenStream]: ...

    def cancel(self, request_id: str) -> None: ...

    def share_among(self, tenants: Iterable[Namespace]) -> None: ...

    def load(self) -> EngineLoad: ...

    def posture(self) -> Sequence[tuple[str, str]]: ...

    def stalled(self) -> bool: ...

    def cache_events(self) -> Sequence[CacheEvent]: ...

    def drop(self, namespace: Namespace, chain_key: bytes) -> None: ...

    async def run(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Everything that a peer takes from outside; without ``enrolment`` it can ask peers alone."""

    clock: Clock
    entropy: Entropy
    transport: Transport
    discovery: Discovery
    storage: Storage
    engine: Engine
    enrolment: Enrolment | None = None
