"""What a routing decision costs: 64 peers, a prompt of 512 blocks, many entries in the index.

`python -m benchmarks.decide [--quick]`. The decision is what a router does once the prompt's tags
are there: look them up in the index, make candidates, decide by policy `cost`. The views of the
peers, from which the candidates are made, are kept for a kind of request while nothing changes;
what it costs to build them anew is printed beside it, as are hashing, tagging and tokenising.

Peers publish prompts as digests do: their ends and every 8th block. Each of the 256 prompts that
are asked about in turn is held to random depths by a quarter of the peers. Every figure stands as a
multiple of one keyed hash of 64 bytes too, measured in turn with the rest: on a shared machine the
multiple tells more.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import ParamSpec, TypeVar

from inference.blocks import BlockChain
from inference.errors import InferenceError
from inference.events import BlockHash
from inference.request import BLOCK_TOKENS, PrefixIdentity, TextPrompt
from overlay.gossip.digest import STRIDE_BLOCKS
from overlay.gossip.index import Index
from overlay.routing import (
    Bookings,
    Candidate,
    Decision,
    Measured,
    Memory,
    PeerView,
    Probation,
    Query,
    Recall,
    Ring,
    candidates_of,
    decide,
    policy_named,
)
from security.peer_id import PeerId, peer_id_of_bytes
from security.tags import tags_of
from security.tenant import TenantId

SEED = 1
PEER_COUNT = 64
SLOTS = 4
PROMPT_BLOCKS = 512
PROMPT_TOKENS = PROMPT_BLOCKS * BLOCK_TOKENS
PROMPT_COUNT = 256
HOLDERS = PEER_COUNT // 4
TARGET_US = 100.0

TENANT = TenantId("0" * 32)
TAG_KEY, CHAIN_KEY = bytes(16), bytes(32)
IDENTITY = PrefixIdentity(served_model="model", tokenizer="t", template="t")
TURNS = 10
"""Each thing is measured in so many turns, so that what disturbs the machine disturbs them all."""

NOW_S = 1000.0
HINT_AGE_S = 1.0
POLICY = policy_named("cost")
SENTENCE = "The harbour office kept a ledger of every ship that entered, and what it carried. "


P = ParamSpec("P")
T = TypeVar("T")


WHOLE = "lookup + candidates + decide, tags ready"
REFERENCE = "one keyed hash of 64 bytes (reference)"


@dataclass(slots=True)
class Times:
    """Nanoseconds of repeated runs of one thing."""

    taken_ns: list[int] = field(default_factory=list)

    def share_us(self, share: float) -> float:
        """The time within which that share of the runs was done, in microseconds."""
        ordered = sorted(self.taken_ns)
        return ordered[int(share * (len(ordered) - 1))] / 1000

    def line(self, name: str, reference_us: float) -> str:
        p50, p99 = self.share_us(0.5), self.share_us(0.99)
        return f"  {name:44} {p50:9.1f} {p99:9.1f} {p50 / reference_us:9.0f}"


def timed(times: Times, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Does some work once and notes how long it took."""
    began_ns = time.perf_counter_ns()
    result = work(*args, **kwargs)
    times.taken_ns.append(time.perf_counter_ns() - began_ns)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A prompt that has been tokenised, hashed and tagged."""

    token_ids: Sequence[int]
    hashes: Sequence[BlockHash]
    tags: Sequence[int]


class World:
    """One router among 64 peers, and all that it knows."""

    def __init__(self, entries: int) -> None:
        rng = random.Random(SEED)
        self.peers = tuple(peer_id_of_bytes(rng.randbytes(32)) for _ in range(PEER_COUNT))
        self.me, *self.others = self.peers
        self.rng = rng
        self.chain = BlockChain(CHAIN_KEY, IDENTITY)
        self.prompts = [self._prompt() for _ in range(PROMPT_COUNT)]
        self.index = Index()
        self._fill(entries)
        self.bookings, self.measured, self.probation = Bookings(), Measured(), Probation()
        self.memory = Memory()
        self.hints = {peer_id: rng.randrange(SLOTS + 1) for peer_id in self.others}
        self._meet()
        self.ring = Ring(dict.fromkeys(self.peers, SLOTS))
        self.turn = 0

    def _prompt(self) -> Prompt:
        token_ids = self.rng.choices(range(49_152), k=PROMPT_TOKENS)
        hashes = self.chain.hashes(token_ids)
        return Prompt(token_ids, hashes, tags_of(TAG_KEY, hashes))

    def _fill(self, entries: int) -> None:
        """What was published of these prompts, and of others until there are enough entries."""
        for peer_id in self.others:
            self.index.add(TENANT, peer_id, [], strided=True)
        for prompt in self.prompts:
            for peer_id in self.rng.sample(self.others, HOLDERS):
                depth = self.rng.randint(1, PROMPT_BLOCKS)
                published = [*prompt.tags[STRIDE_BLOCKS - 1 : depth : STRIDE_BLOCKS]]
                published.append(prompt.tags[depth - 1])
                self.index.add(TENANT, peer_id, published, strided=True)
        while len(self.index) < entries:
            peer_id = self.rng.choice(self.others)
            others = [self.rng.getrandbits(48) for _ in range(32)]
            self.index.add(TENANT, peer_id, others, strided=True)

    def _meet(self) -> None:
        """Some history with every peer: round trips, claims, requests under way."""
        for peer_id in self.peers:
            self.measured.on_rtt(peer_id, self.rng.uniform(0.0002, 0.002))
            self.measured.on_decoded(peer_id, 100, self.rng.uniform(1, 3), NOW_S - 5)
        for peer_id in self.others:
            self.bookings.on_hint(peer_id, NOW_S - HINT_AGE_S)
            self.bookings.begin(peer_id, uncached_tokens=500, now_s=NOW_S - 0.5)

    # -- the parts of a decision

    def lookup(self, tags: Sequence[int]) -> dict[PeerId, int]:
        """Tokens that each peer says it holds."""
        claims = self.index.claims(TENANT, tags)
        return {peer_id: depth * BLOCK_TOKENS for peer_id, depth in claims.items()}

    def recall(self, prompt: Prompt) -> Recall:
        return self.memory.recall(prompt.hashes, NOW_S)

    def views(self) -> list[PeerView]:
        """What is known of every peer apart from any request."""
        return [self._view(peer_id) for peer_id in self.peers]

    def _view(self, peer_id: PeerId) -> PeerView:
        measured, booked = self.measured, self.bookings.booked(peer_id, NOW_S)
        local = peer_id == self.me
        return PeerView(
            peer_id=peer_id,
            local=local,
            slots=SLOTS,
            running=self.hints.get(peer_id, 0),
            queued=0,
            queued_tokens=0,
            prefill_tokens_per_s=measured.prefill_tokens_per_s(peer_id, 2000.0, NOW_S),
            decode_s_per_token=measured.decode_s_per_token(peer_id, 0.02, NOW_S),
            rtt_s=0.0 if local else measured.rtt_s(peer_id),
            age_s=HINT_AGE_S,
            freshness=self.memory.freshness(HINT_AGE_S),
            load_freshness=measured.load_freshness(HINT_AGE_S),
            trust=measured.trust(peer_id),
            observed_wait_s=measured.observed_wait_s(peer_id, NOW_S),
            booked_requests=booked.requests,
            booked_tokens=booked.queued_tokens,
            in_flight=booked.in_flight,
            standing=self.probation.standing(peer_id, NOW_S),
        )

    def decide(self, candidates: Sequence[Candidate], place: bytes) -> Decision:
        self.turn += 1
        query = Query(
            prompt_tokens=PROMPT_TOKENS,
            expected_output_tokens=128.0,
            place=place,
            ring=self.ring,
            turn=self.turn,
        )
        return decide(query, candidates, POLICY, self.rng)

    def whole(self, prompt: Prompt, recall: Recall, views: Sequence[PeerView]) -> Decision:
        held = self.lookup(prompt.tags)
        candidates = candidates_of(views, held, recall.inferred_tokens)
        return self.decide(candidates, recall.place)

    def everything(self, prompt: Prompt) -> Decision:
        return self.whole(prompt, self.recall(prompt), self.views())


def measure_decision(world: World, runs: int) -> None:
    """The whole decision, each of its parts by itself, and what comes with it."""
    views = world.views()
    recalls = {prompt: world.recall(prompt) for prompt in world.prompts}
    held = {prompt: world.lookup(prompt.tags) for prompt in world.prompts}
    made = {
        prompt: candidates_of(views, held[prompt], recalls[prompt].inferred_tokens)
        for prompt in world.prompts
    }
    works: dict[str, Callable[[Prompt], object]] = {
        WHOLE: lambda prompt: world.whole(prompt, recalls[prompt], views),
        "  index lookup": lambda prompt: world.lookup(prompt.tags),
        "  candidates": lambda prompt: candidates_of(
            views, held[prompt], recalls[prompt].inferred_tokens
        ),
        "  decide": lambda prompt: world.decide(made[prompt], recalls[prompt].place),
        "recall of own placements and place": world.recall,
        "64 views built anew": lambda _prompt: world.views(),
        "recall, views and the decision together": world.everything,
        REFERENCE: lambda _prompt: hash_once(),
    }
    times = {name: Times() for name in works}
    for turn in range(-1, TURNS):
        for name, work in works.items():
            for run in range(runs // TURNS):
                timed(times[name], work, world.prompts[run % PROMPT_COUNT])
            if turn < 0:  # warm from here on
                times[name].taken_ns.clear()
    reference_us = times[REFERENCE].share_us(0.5)
    print(f"  {'':44} {'p50 us':>9} {'p99 us':>9} {'x hash':>9}")
    for name, each in times.items():
        target = f"   (target: p50 <= {TARGET_US:.0f} us)" if name == WHOLE else ""
        print(each.line(name, reference_us) + target, flush=True)


def measure_preparation(world: World, runs: int) -> None:
    """Tokenising, hashing and tagging of a prompt."""
    hashing, tagging, reference = Times(), Times(), Times()
    for run in range(runs):
        prompt = world.prompts[run % PROMPT_COUNT]
        timed(hashing, world.chain.hashes, prompt.token_ids)
        timed(tagging, tags_of, TAG_KEY, prompt.hashes)
        timed(reference, hash_once)
    reference_us = reference.share_us(0.5)
    print(f"before that, once for each prompt of {PROMPT_TOKENS:,} tokens")
    print(hashing.line("hashing 512 blocks", reference_us))
    print(tagging.line("tagging 512 hashes", reference_us), flush=True)
    measure_tokenising(max(3, runs // 50), reference_us)


def measure_tokenising(runs: int, reference_us: float) -> None:
    """By the real model's tokenizer, where that model is installed."""
    try:
        # Late, as these load torch and transformers.
        from inference.store.files import default_cache_dir, find_model
        from inference.tokenizer import PromptTokenizer

        files = find_model(None, default_cache_dir(), lambda _what, _done: None)
        tokenizer = PromptTokenizer(files.folder, context_tokens=PROMPT_TOKENS)
    except (ImportError, InferenceError) as error:
        print(f"  tokenising: not measured, no model here ({type(error).__name__})")
        return
    tokens_each = len(tokenizer.tokenize(TextPrompt(text=SENTENCE * 100)) or ()) / 100
    prompt = TextPrompt(text=SENTENCE * int(PROMPT_TOKENS / tokens_each))
    tokenising = Times()
    for _ in range(runs):
        count = len(timed(tokenising, tokenizer.tokenize, prompt) or ())
    print(tokenising.line(f"tokenising {count:,} by {files.name}", reference_us))


def hash_once() -> bytes:
    return blake2b(TAG_KEY * 4, key=CHAIN_KEY, digest_size=16).digest()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--quick", action="store_true", help="100 k entries only and a tenth of the runs"
    )
    quick = parser.parse_args().quick
    runs = 500 if quick else 5000
    for entries in (100_000,) if quick else (100_000, 1_000_000):
        world = World(entries)
        print(
            f"decision, {PEER_COUNT} peers, {PROMPT_BLOCKS} blocks, {len(world.index):,} entries, "
            f"policy {POLICY.name}, {runs} runs"
        )
        measure_decision(world, runs)
    measure_preparation(world, runs // 10)


if __name__ == "__main__":
    main()
