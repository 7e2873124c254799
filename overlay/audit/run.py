"""Runs the attacks on real peers of this host, one after the other, and judges them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
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
    """Runs every attack; peers and their files are gone afterwards.

    Raises:
        OverlayError: When a peer cannot be started or ends, or a request fails.
    """
    began_s = trio.current_time()
    folder = Path(tempfile.mkdtemp(prefix="rhizome-audit-"))
    try:
        with torch_writes_to(folder):
            async with running_cluster(folder, ("audited",), (VICTIM, ATTACKER)) as cluster:
                say("a host is set up", 0, 1)
                await cluster.create(*ENGINE_FLAGS)
                audit = Audit(cluster, seed=seed, samples=samples, say=say, found=found)
                result = await audit.run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    result.took_s = trio.current_time() - began_s
    return result


class Audit:
    """The attacks in turn, each on a peer that was started for it."""

    def __init__(
        self, cluster: Cluster, *, seed: int, samples: int, say: Say, found: Found
    ) -> None:
        self._cluster = cluster
        self._seed = seed
        self._samples = samples
        self._say = say
        self._found = found

    async def run(self) -> SideChannels:
        shared, strict = Isolation.SHARED, Isolation.STRICT
        load = {}
        for isolation in (strict, shared):
            async with self._attacker("load", isolation, self._samples) as attacker:
                measured = await attacker.load(self._samples)
            load[isolation] = self._separation(f"load, {isolation.value}", measured)
        eviction, cached = {}, {}
        few = max(1, self._samples // SAMPLES_SHOWN_PART)
        for isolation, samples in ((strict, self._samples), (shared, few)):
            flags = ("--kv-cache", EVICTION_CACHE[isolation.value])
            async with self._attacker("eviction", isolation, samples, *flags) as attacker:
                measured = await attacker.eviction(samples)
            eviction[isolation] = self._separation(f"eviction, {isolation.value}", measured)
            cached[isolation.value] = (measured.cached_below, measured.cached_above)
        async with self._attacker("guesses", shared, self._samples) as attacker:
            within, across = await attacker.guesses(self._samples)
        return SideChannels(
            seed=self._seed,
            within=self._separation("guesses, own tenant", within),
            across=self._separation("guesses, other tenant", across),
            eviction=eviction[strict],
            eviction_shared=eviction[shared],
            load_shared=load[shared],
            load_strict=load[strict],
            cached=cached,
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

        self._say(f"{what}: starting a peer", 0, 2 * samples)
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
