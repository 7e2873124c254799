"""Real frames of vLLM and SGLang, folded here and, independently, into sets of token prefixes."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from inference.remote.events.endpoints import EndpointUnusable, of_rank
from inference.remote.events.frames import END_OF_REPLAY, decode, split
from inference.remote.events.mirror import Mirror
from inference.remote.events.sequence import Fold as FoldStep
from inference.remote.events.sequence import RankSequence
from inference.request import Namespace
from tests.inference.remote.folding import IDENTITY, NS_A, Fold

RECORDED = Path(__file__).parent / "recorded"
FILES = sorted(path.name for path in RECORDED.glob("*_events*.json"))
KEY = b"k" * 32

Prefix = tuple[str | None, tuple[int, ...]]


def load(name: str) -> dict[str, Any]:
    return json.loads((RECORDED / name).read_text())  # type: ignore[no-any-return]


def frames_of(name: str) -> Iterator[tuple[int, int, bytes]]:
    for frame in load(name)["frames"]:
        parts = [bytes.fromhex(frame[part]) for part in ("topic", "seq", "payload")]
        yield (frame.get("socket", 0), *split(parts))


def stretched(payload: bytes) -> bytes:
    """The recorded ranks have blocks of 4 tokens, which we do not take: each token 4 times."""
    batch = msgspec.msgpack.decode(payload)
    for event in batch[1]:
        if event.get("block_size") == 4:
            event["token_ids"] = [token for token in event["token_ids"] for _ in range(4)]
            event["block_size"] = 16
    return msgspec.msgpack.encode(batch)


def taken(name: str) -> Iterator[tuple[int, int, bytes]]:
    for rank, seq, payload in frames_of(name):
        yield rank, seq, stretched(payload)


class Independent:
    """What a server holds, as sets of (salt, token prefix); reads the plain msgpack values."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, object], tuple[Prefix, int, bool]] = {}
        self.held: Counter[tuple[int, object, str | None]] = Counter()

    def apply(self, rank: int, payload: bytes) -> None:
        for event in msgspec.msgpack.decode(payload)[1]:
            match event["type"]:
                case "BlockStored":
                    self.store(rank, event)
                case "BlockRemoved":
                    for name in event["block_hashes"]:
                        self.held[rank, name, event.get("medium")] -= 1
                case "AllBlocksCleared":
                    for key in [key for key in self.held if key[0] == rank]:
                        del self.held[key]

    def store(self, rank: int, event: dict[str, Any]) -> None:
        size, parent = event["block_size"], event["parent_block_hash"]
        extras = event.get("extra_keys") or [None] * len(event["block_hashes"])
        for index, name in enumerate(event["block_hashes"]):
            salt, tokens, strange = event.get("cache_salt"), (), False
            if parent is not None:
                (salt, tokens), _, strange = self.known[rank, parent]
            elif extras[0]:
                (salt,) = extras[0]
            elif "cache_salt" in event:
                salt = event["cache_salt"]
            strange = strange or bool(event.get("lora_name")) or bool(parent and extras[index])
            tokens += tuple(event["token_ids"][index * size : (index + 1) * size])
            self.known[rank, name] = ((salt, tokens), size, strange)
            self.held[rank, name, event.get("medium")] += 1
            parent = name

    def prefixes(self) -> dict[Prefix, int]:
        """What a prompt can use, with the block size of its end."""
        held = {
            prefix: size
            for (rank, name, _), copies in self.held.items()
            if copies > 0
            for prefix, size, strange in [self.known[rank, name]]
            if not strange
        }
        return {
            (salt, tokens): size
            for (salt, tokens), size in held.items()
            if all((salt, tokens[:end]) in held for end in range(size, len(tokens), size))
        }


def salts_of(name: str) -> list[str | None]:
    independent = Independent()
    for rank, _, payload in taken(name):
        independent.apply(rank, payload)
    return sorted({prefix[0] for prefix, _, _ in independent.known.values()}, key=str)


def space(salt: str | None) -> Namespace:
    return Namespace(f"tenant of {salt}")


def made(name: str) -> Mirror:
    ranks = 1 + max(rank for rank, _, _ in frames_of(name))
    return Mirror(IDENTITY, ranks=ranks)


def agrees(mirror: Mirror, fold: Fold, independent: Independent, salts: list[str | None]) -> None:
    fold.fold(mirror.drain())
    prefixes = independent.prefixes()
    for salt in salts:
        chain = mirror._homes[salt].chain
        expected = set()
        for (of, tokens), size in prefixes.items():
            if of == salt:
                hashes = chain.hashes(tokens)
                assert mirror.match(space(salt), hashes) == len(hashes)
                expected.update(hashes[len(hashes) - size // 16 :])
        assert fold.blocks(space(salt)) == expected


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("name", FILES)
def test_the_mirror_holds_what_an_independent_fold_holds(name: str, late: bool) -> None:
    """``late``: the salts become known only when all was told."""
    mirror, independent, fold, salts = made(name), Independent(), Fold(), salts_of(name)

    def learn() -> None:
        for salt in salts:
            mirror.learn(space(salt), KEY, salt)

    if not late:
        learn()
    most = 0
    for rank, seq, payload in taken(name):
        for event in decode(seq, payload).events:
            mirror.apply(rank, event)
        independent.apply(rank, payload)
        if not late:
            agrees(mirror, fold, independent, salts)
        most = max(most, len(independent.prefixes()))
    learn()
    agrees(mirror, fold, independent, salts)
    assert most > 3
    assert not any("multiple of 16" in line for line, _ in mirror.posture())


@pytest.mark.parametrize("name", [name for name in FILES if "vllm_events" not in name])
def test_recorded_blocks_of_four_tokens_claim_nothing(name: str) -> None:
    mirror = made(name)
    mirror.learn(NS_A, KEY, None)
    for rank, seq, payload in frames_of(name):
        for event in decode(seq, payload).events:
            mirror.apply(rank, event)
    assert len(mirror) == 0
    assert any("multiple of 16" in line for line, _ in mirror.posture())


@pytest.mark.parametrize("name", FILES)
def test_replay_answers_are_read_to_their_end(name: str) -> None:
    live = {(rank, seq): payload for rank, seq, payload in frames_of(name)}
    for answer in load(name)["replay"]:
        read = [split([bytes.fromhex(part) for part in parts]) for parts in answer["answers"]]
        assert read[-1] == (END_OF_REPLAY, b"")
        for seq, payload in read[:-1]:
            assert seq >= answer["start"]
            assert live.get((answer.get("rank", 0), seq), payload) == payload


@pytest.mark.parametrize("name", FILES)
def test_a_recorded_gap_is_closed_by_the_recorded_replay(name: str) -> None:
    """The first replay from 0, without any live batch: as much as it has is folded in order."""
    answer = next(each for each in load(name)["replay"] if each["start"] == 0)
    read = [split([bytes.fromhex(part) for part in parts]) for parts in answer["answers"]]
    sequence = RankSequence(replays=True)
    sequence.start()
    folded = [step for seq, payload in read[:-1] for step in sequence.on_replayed(seq, payload)]
    sequence.on_replay_end(complete=True)
    assert [step.seq for step in folded if isinstance(step, FoldStep)] == [s for s, _ in read[:-1]]
    assert sequence.exact == (read[0][0] == 0)


def vllm_requests(name: str) -> Iterator[tuple[dict[str, Any], list[bytes]]]:
    """Each request that was answered, with the payloads that had come before it was sent."""
    recorded = load(name)
    for sent in recorded["sent"]:
        if sent.get("cached_tokens") is not None and sent.get("prompt_token_ids"):
            before = [f["payload"] for f in recorded["frames"] if f["at_ms"] < sent["at_ms"]]
            yield sent, [bytes.fromhex(payload) for payload in before]


@pytest.mark.parametrize("name", [name for name in FILES if "ranks" not in name and "vllm" in name])
def test_what_vllm_took_from_its_cache_is_what_the_mirror_expected(name: str) -> None:
    compared = 0
    for sent, before in vllm_requests(name):
        mirror = Mirror(IDENTITY)
        mirror.learn(NS_A, KEY, sent["cache_salt"])
        for number, payload in enumerate(before):
            for event in decode(number, payload).events:
                mirror.apply(0, event)
        prompt = sent["prompt_token_ids"]
        blocks = mirror.match(NS_A, mirror._homes[sent["cache_salt"]].chain.hashes(prompt))
        usable = min(blocks * 16, len(prompt) - 1) // 32 * 32
        assert usable == sent["cached_tokens"], sent["name"]
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("name", [name for name in FILES if "endpoints" in load(name)])
def test_endpoints_of_ranks_are_derived_as_the_servers_do(name: str) -> None:
    for endpoint, derived in load(name)["endpoints"].items():
        for rank, theirs in enumerate(derived):
            if endpoint.endswith(":0") or endpoint == "tcp://127.0.0.1":
                continue  # a port of the system's choice, or none: nobody could connect to it
            refused = "Error" in theirs
            assert attempt(lambda e=endpoint, r=rank: of_rank(e, r)) == (  # type: ignore[misc]
                None if refused else theirs
            )


def attempt(call: Callable[[], str]) -> str | None:
    try:
        return call()
    except EndpointUnusable:
        return None
