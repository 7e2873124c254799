"""What trust costs: sealing, opening, signatures and tokens, with and without, on one core.

    python -m benchmarks.trust [--quick] [--json]

"request" is one at the toy engine of its own peer, "idle" a second of ten peers with four tenants
that have nothing to do; both in the simulation, whose transport has no TLS, so the rest is less
than in earnest and the ratio is an upper one. "without" replaces the cryptography by nothing and
leaves all else. "parts" are single calls in microseconds of CPU time.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from chaos.entropy import SeededEntropy
from chaos.simulation import run_simulation
from chaos.world import World, world_of
from inference.toy import ToyConfig
from security import envelope, signed
from security.authority import Authority
from security.envelope import OVERHEAD_BYTES, Opener, Sealer
from security.epoch import open_epoch
from security.keys import HostKeys
from security.revocation import RevocationSet
from security.signed import Kind, sign_as_peer, verify_peer
from security.token import TokenCache, verify_token

TENANTS = ("one", "two", "three", "four")
PEERS = 10
SETTLE_S = 20.0
CORE_SHARE_TARGET = 0.01
NOW_S = 1_800_000_000.0
FRAME_BYTES = 512
ENGINE = ToyConfig(slots=4, prefill_tokens_per_s=1e6, decode_s_per_token=0.001, end_every=0)
PROMPT = "The river rises on the mountain and flows north to the sea. " * 8


class Meter:
    """CPU time and number of calls of what is measured inside a run."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.calls = 0

    def around(self, inner: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, measured."""

        def measured(*given: Any, **named: Any) -> Any:
            began_ns = time.thread_time_ns()
            try:
                return inner(*given, **named)
            finally:
                self.cpu_s += (time.thread_time_ns() - began_ns) / 1e9
                self.calls += 1

        return measured


@contextmanager
def metered() -> Iterator[Meter]:
    """Measures all signatures, sealing and opening in the block."""
    meter = Meter()
    with (
        mock.patch.object(Sealer, "seal", meter.around(Sealer.seal)),
        mock.patch.object(Opener, "open", meter.around(Opener.open)),
        mock.patch.object(signed, "_sign", meter.around(signed._sign)),  # noqa: SLF001
        mock.patch.object(signed, "_check", meter.around(signed._check)),  # noqa: SLF001
    ):
        yield meter


class NoCipher:
    """Seals nothing: as many bytes, none of them changed."""

    def __init__(self, _key: bytes) -> None:
        pass

    def encrypt(self, _nonce: bytes, plaintext: bytes, _header: bytes) -> bytes:
        return plaintext + bytes(16)

    def decrypt(self, _nonce: bytes, sealed: bytes, _header: bytes) -> bytes:
        return sealed[:-16]


@contextmanager
def without() -> Iterator[None]:
    """No cipher, no signature: only for comparison, inside this process."""

    def unsigned(_private: Any, overlay: str, kind: Kind, signer: bytes, body: bytes) -> bytes:
        made = signed.SignedObject(
            v=signed.VERSION,
            overlay=bytes.fromhex(overlay),
            kind=kind.value,
            signer=signer,
            body=body,
            signature=bytes(64),
        )
        return msgspec.msgpack.encode(made)

    with (
        mock.patch.object(envelope, "ChaCha20Poly1305", NoCipher),
        mock.patch.object(signed, "_sign", unsigned),
        mock.patch.object(signed, "_check", return_value=None),
    ):
        yield


def micros(call: Callable[[], object], *, times: int) -> float:
    """Microseconds of CPU time of one call."""
    call()
    began_ns = time.thread_time_ns()
    for _ in range(times):
        call()
    return (time.thread_time_ns() - began_ns) / times / 1000


def token_of(authority: Authority, secret: Callable[[int], bytes], now_unix_s: float) -> str:
    """A client's token for the first tenant."""
    _, token = authority.issue_token(
        authority.tenant_id(TENANTS[0]),
        "bench",
        ttl_s=86_400,
        scopes=["infer"],
        secret=secret,
        now_unix_s=now_unix_s,
    )
    return token.text


def parts(times: int) -> dict[str, float]:
    """Single calls, in microseconds."""
    secret = SeededEntropy(1, "trust").secret
    authority = Authority.create(secret, NOW_S, TENANTS)
    keys = HostKeys.generate(secret)
    tenants = [authority.tenant_id(name) for name in TENANTS]
    authority, grant = authority.enrol(keys.peer_id, keys.sealing_public, tenants, secret, NOW_S)
    trust, nothing = authority.trust, RevocationSet()
    opened = open_epoch(grant.epochs[0], trust, keys, NOW_S, nothing)
    assert opened is not None
    sealer = Sealer(opened.value.keys, keys.peer_id, 1, bytes(16))
    opener = Opener(opened.value.keys, keys.peer_id, 1, bytes(16))
    body = bytes(FRAME_BYTES - OVERHEAD_BYTES)
    sealed = sealer.seal("delta", b"", body)
    frame = sign_as_peer(keys, trust.overlay_id, Kind.HEAD, sealed)
    token = token_of(authority, secret, NOW_S)
    cache = TokenCache()
    return {
        "seal 512 B": micros(lambda: sealer.seal("delta", b"", body), times=times),
        "open 512 B": micros(lambda: opener.open("delta", b"", sealed), times=times),
        "sign": micros(
            lambda: sign_as_peer(keys, trust.overlay_id, Kind.HEAD, sealed), times=times
        ),
        "verify": micros(lambda: verify_peer(frame, Kind.HEAD, trust.overlay_id), times=times),
        "open an epoch": micros(
            lambda: open_epoch(grant.epochs[0], trust, keys, NOW_S, nothing), times=times // 4
        ),
        "token, first": micros(
            lambda: verify_token(token, trust, NOW_S, nothing), times=times // 4
        ),
        "token, again": micros(lambda: cache.verify(token, trust, NOW_S, nothing), times=times),
    }


async def warmed(world: World) -> None:
    """Every tenant has something cached at every peer, and all peers know it."""
    for host in world.hosts:
        for tenant in TENANTS:
            await world.ask(host, PROMPT, tenant=tenant, max_tokens=1)
    await trio.sleep(SETTLE_S)


async def idle(seconds: float) -> dict[str, float]:
    """CPU of a peer and second, as shares of a core."""
    async with world_of(1, [ENGINE] * PEERS, tenants=TENANTS) as world:
        await warmed(world)
        share = 1 / (seconds * PEERS)
        with metered() as meter:
            began_s = time.process_time()
            await trio.sleep(seconds)
            spent_s = time.process_time() - began_s
        return {
            "all": spent_s * share,
            "trust": meter.cpu_s * share,
            "calls_per_s": meter.calls * share,
        }


async def requests(count: int) -> dict[str, float]:
    """Microseconds of CPU of a request: all of it, and what of it is a token's check and limits."""
    async with world_of(1, [ENGINE], tenants=TENANTS[:1]) as world:
        host = world.hosts[0]
        node, authority = host.running, world.authority
        assert authority is not None
        token = token_of(authority, node.ports.entropy.secret, node.ports.clock.unix_s())
        checked_ns = 0
        began_s = time.process_time()
        for _ in range(count):
            check_ns = time.thread_time_ns()
            principal = node.principals.of_token(token)
            with node.quotas.admitted(principal):
                checked_ns += time.thread_time_ns() - check_ns
                await world.ask(host, PROMPT, tenant="one", max_tokens=8)
        spent_s = time.process_time() - began_s
    return {"all_us": spent_s / count * 1e6, "trust_us": checked_ns / count / 1000}


def measured(*, quick: bool) -> dict[str, dict[str, float]]:
    """Everything that is measured."""
    seconds, count = (10.0, 200) if quick else (60.0, 2000)
    of_idle = run_simulation(1, lambda: idle(seconds))
    with without():
        bare = run_simulation(1, lambda: idle(seconds))
    return {
        "parts_us": parts(500 if quick else 4000),
        "idle": {**of_idle, "all_without": bare["all"]},
        "request": run_simulation(1, lambda: requests(count)),
    }


def show(found: dict[str, dict[str, float]]) -> None:
    """Prints it for a person."""
    words = ", ".join(f"{name} {taken:.1f}" for name, taken in found["parts_us"].items())
    print(f"single calls, us: {words}")
    of_idle, request = found["idle"], found["request"]
    print(
        f"idle, {PEERS} peers, {len(TENANTS)} tenants, a peer: trust {of_idle['trust']:.3%} of a "
        f"core (target {CORE_SHARE_TARGET:.0%}) in {of_idle['calls_per_s']:.0f} calls/s; "
        f"all {of_idle['all']:.3%}, without cryptography {of_idle['all_without']:.3%}"
    )
    print(
        f"a request: {request['all_us']:.0f} us, of these token and limits "
        f"{request['trust_us']:.1f} us"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the work")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    options = parser.parse_args()
    results = measured(quick=options.quick)
    if options.json:
        print(json.dumps(results, indent=1))
    else:
        show(results)
    sys.exit(results["idle"]["trust"] > CORE_SHARE_TARGET)
