"""What the tests of pictures share: a strict fold of our events, and names of made-up prompts."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

from inference.blocks import BlockChain
from inference.events import BlockHash, CacheEvent
from inference.remote.events.frames import EngineHash, Removed, Stored
from inference.request import Namespace, PrefixIdentity
from overlay.gossip.blocktree import BlockForest
from tests.inference.replay import Replay

IDENTITY = PrefixIdentity(served_model="m", tokenizer="t", template="x")
NS_A, NS_B = Namespace("a"), Namespace("b")
KEYS = {NS_A: b"a" * 32, NS_B: b"b" * 32}


class Fold(Replay):
    """Keeps a peer's own forest beside the strict fold."""

    def __init__(self) -> None:
        super().__init__()
        self.forest = BlockForest()

    def fold(self, events: Iterable[CacheEvent]) -> None:
        told = tuple(events)
        self.forest.fold(told)
        super().fold(told)

    def blocks(self, namespace: Namespace) -> set[BlockHash]:
        found = {block for space, block in self.held if space == namespace}
        assert len(self.forest.tree(namespace)) == len(found)
        return found


def names(namespace: Namespace, tokens: Sequence[int]) -> list[BlockHash]:
    """The names of a prompt's full blocks for a tenant."""
    return BlockChain(KEYS[namespace], IDENTITY).hashes(tokens)


def tokens_of(path: Sequence[int], size: int = 16) -> list[int]:
    """A prompt in which block i is ``size`` times the same token."""
    return [token for token in path for _ in range(size)]


def stored(
    block_hashes: Sequence[EngineHash],
    parent: EngineHash | None,
    token_ids: Sequence[int],
    *,
    size: int = 16,
    salt: str | None = None,
    foreign_from: int | None = None,
    medium: str | None = "GPU",
    group: int | None = 0,
    kind: str | None = None,
) -> Stored:
    return Stored(
        block_hashes=tuple(block_hashes),
        parent=parent,
        token_ids=array("I", token_ids),
        block_size=size,
        salt=salt,
        foreign_from=len(block_hashes) if foreign_from is None else foreign_from,
        medium=medium,
        group=group,
        kind=kind,
    )


def removed(
    *block_hashes: EngineHash, medium: str | None = "GPU", group: int | None = 0
) -> Removed:
    return Removed(block_hashes=block_hashes, medium=medium, group=group)
