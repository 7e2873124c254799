"""Runs the attacks on real peers of this host, and judges them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from overlay.audit.attacks import ATTACKER, EVICTION_CACHE, VICTIM, Attacker, Measured, Probe
from overlay.audit.statistics import Separation, separation
from overlay.choices import Isolation
from overlay.client import PeerClient
from overlay.demo.cluster import Cluster, running_cluster
from overlay.demo.run import ENGINE_FLAGS, Say, torch_writes_to
from overlay.errors import PeerGone
from overlay.request import Delta, Finished

HOSTS = ("audited", "audited-beside")
"""Two, one for each core: the attacks of one would take three quarters of an hour."""

SAMPLES = 400
SAMPLES_QUICK = 60
SAMPLES_SHOWN_PART = 4
"""Of what is only shown, one in so many samples is taken."""

WITHIN_MIN = 0.9
ACROSS_RANGE = (0.40, 0.60)

Found = Callable[[str, Separation], None]
"""What an attack has found, as soon as it has."""


@dataclass(kw_only=True)
class SideChannels:
    """What was measured.

    ``cached`` has for each isolation how many tokens of its own prompt the attacker found cached in
    the two cases of eviction.
    """

    seed: int
    within: Separation
    across: Separation
    eviction: Separation
    load_shared: Separation
    load_strict: Separation
    eviction_shared: Separation
    cached: dict[str, tuple[int, int]] = field(default_factory=dict)
    took_s: float = 0.0

    def public(self) -> dict[str, object]:
        """The result as ``--json`` writes it."""
        return {
            "within_tenant": self.within.public(),
            "across_tenants": self.across.public(),
            "eviction": self.eviction.public(),
            "load": {"shared": self.load_shared.public(), "strict": self.load_strict.public()},
        }

    def failures(self) -> list[str]:
        """Rules that do not hold, in words."""
        failed = []
        if self.within.auc < WITHIN_MIN:
            failed.append(f"within the tenant the attack must work: AUC {WITHIN_MIN} or more")
        low, high = ACROSS_RANGE
        for name, found in (
            ("across tenants", self.across),
            ("by eviction in strict isolation", self.eviction),
            ("by load in strict isolation", self.load_strict),
        ):
            if not found.within(low, high):
                failed.append(f"{name} the interval must be inside [{low:.2f}, {high:.2f}]")
        return failed


async def run_side_channels(*, seed: int, samples: int, say: Say, found: Found) -> SideChannels:
    """Runs every attack, on two hosts beside each other; they and their files are gone afterwards.

    Raises:
        OverlayError: When a peer cannot be started or ends, or a request fails; perhaps in a group.
    """
    began_s = trio.current_time()
    folder = Path(tempfile.mkdtemp(prefix="rhizome-audit-"))
    try:
        with torch_writes_to(folder):
            say("hosts are set up", 0, 1)
            async with AsyncExitStack() as stack:
                audits = []
                for name in HOSTS:
                    cluster = await stack.enter_async_context(
                        running_cluster(folder, (name,), (VICTIM, ATTACKER))
                    )
                    await cluster.create(*ENGINE_FLAGS)
                    audits.append(Audit(cluster, seed=seed, samples=samples, say=say, found=found))
                say("hosts are set up", 1, 1)
                result = await run_beside(*audits, seed=seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result.took_s = trio.current_time() - began_s
    return result


async def run_beside(first: Audit, second: Audit, *, seed: int) -> SideChannels:
    """Shares the attacks out between two hosts, so that both take about as long."""
    shared, strict = Isolation.SHARED, Isolation.STRICT
    load: dict[Isolation, Separation] = {}
    eviction: dict[Isolation, tuple[Separation, tuple[int, int]]] = {}
    guesses: list[Separation] = []

    async def one_share() -> None:
        load[strict] = await first.load(strict)
        guesses.extend(await first.guesses())

    async def other_share() -> None:
        load[shared] = await second.load(shared)
        for isolation in (strict, shared):
            eviction[isolation] = await second.eviction(isolation)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one_share)
        nursery.start_soon(other_share)
    return SideChannels(
        seed=seed,
        within=guesses[0],
        across=guesses[1],
        eviction=eviction[strict][0],
        eviction_shared=eviction[shared][0],
        load_shared=load[shared],
        load_strict=load[strict],
        cached={isolation.value: cached for isolation, (_, cached) in eviction.items()},
    )


class Audit:
    """The attacks on one host, each on a peer that was started for it."""

    def __init__(
        self, cluster: Cluster, *, seed: int, samples: int, say: Say, found: Found
    ) -> None:
        self._cluster = cluster
        self._seed = seed
        self._samples = samples
        self._say = say
        self._found = found

    async def load(self, isolation: Isolation) -> Separation:
        """Whether the victim's request beside the attacker's was in the victim's cache."""
        async with self._attacker("load", isolation, self._samples) as attacker:
            measured = await attacker.load(self._samples)
        return self._separation(f"load, {isolation.value}", measured)

    async def eviction(self, isolation: Isolation) -> tuple[Separation, tuple[int, int]]:
        """Whether the victim sent something new; and tokens that were cached in the two cases."""
        samples = self._samples
        if isolation is Isolation.SHARED:
            samples = max(1, samples // SAMPLES_SHOWN_PART)
        flags = ("--kv-cache", EVICTION_CACHE[isolation.value])
        async with self._attacker("eviction", isolation, samples, *flags) as attacker:
            measured = await attacker.eviction(samples)
        found = self._separation(f"eviction, {isolation.value}", measured)
        return found, (measured.cached_below, measured.cached_above)

    async def guesses(self) -> tuple[Separation, Separation]:
        """Whether a prompt was sent: asked as the tenant that sent it, and as another one."""
        async with self._attacker("guesses", Isolation.SHARED, self._samples) as attacker:
            within, across = await attacker.guesses(self._samples)
        return (
            self._separation("guesses, own tenant", within),
            self._separation("guesses, other tenant", across),
        )

    @asynccontextmanager
    async def _attacker(
        self, what: str, isolation: Isolation, samples: int, *flags: str
    ) -> AsyncIterator[Attacker]:
        """Two tenants' clients at a fresh peer."""
        what = f"{what}, {isolation.value}"
        done = 0

        def on_sample() -> None:
            nonlocal done
            done += 1
            self._say(what, done, 2 * samples)

        self._say(what, 0, 2 * samples)
        peer = self._cluster.peers[0]
        await self._cluster.start("--isolation", isolation.value, *ENGINE_FLAGS, *flags)
        try:
            async with (
                PeerClient.connect(home=peer.home, tenant=VICTIM) as victim,
                PeerClient.connect(home=peer.home, tenant=ATTACKER) as attacker,
            ):
                ask = partial(asked, {VICTIM: victim, ATTACKER: attacker})
                yield Attacker(ask, seed=self._seed, on_sample=on_sample)
        finally:
            with trio.CancelScope(shield=True):
                await self._cluster.stop()

    def _separation(self, what: str, measured: Measured) -> Separation:
        found = separation(measured.below, measured.above, seed=self._seed)
        self._found(what, found)
        return found


async def asked(clients: dict[str, PeerClient], tenant: str, prompt: str) -> Probe:
    """One request for one token, as its client sees it."""
    began_s = trio.current_time()
    ttft_s = cached_tokens = None
    answer = clients[tenant].complete(prompt, max_tokens=1, temperature=0)
    async for event in answer:
        if ttft_s is None and isinstance(event, Delta | Finished):
            ttft_s = trio.current_time() - began_s
        if isinstance(event, Finished):
            cached_tokens = event.usage.cached_tokens
    if ttft_s is None or cached_tokens is None:
        raise PeerGone("an answer came without a token")
    return Probe(ttft_s=ttft_s, cached_tokens=cached_tokens)
