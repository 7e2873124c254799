"""A server's prefix cache as its own events tell it, in our names and our events.

1. A server's block of n x 16 tokens is n of our blocks. Servers with other block sizes are told to
   their owner, and nothing of theirs is claimed.
2. The salt of a chain's first block says whose it is; ``learn`` says which namespace has which
   salt. A salt belongs to the namespace that named it first, as a server that is not given salts
   does not keep tenants apart and we would tell one of the other's prompts.
3. A block is held while any rank holds it (``ranks.py``), under any of its namespace's salts; what
   of it a prompt can use, and what we tell, is ``inference/remote/held.py``'s business. Where ranks
   hold parts of one prompt more may be told than any of them has.
4. Memory is bounded: past ``blocks_max`` nothing more is taken in, the picture is not exact from
   then on, and both are said.
5. While the picture is not exact, a request that found less than expected proves the rest wrong.
   Only a single rank can be corrected this way: with more, another may have answered.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from inference.blocks import BlockChain
from inference.events import BlockHash, CacheEvent
from inference.remote.cache_picture import Outcome
from inference.remote.events.frames import AllCleared, EngineHash, Event, Removed, Stored
from inference.remote.events.ranks import EngineBlock, Home, Rank, counts
from inference.remote.evidence import Evidence
from inference.remote.held import HeldForest
from inference.request import BLOCK_TOKENS, Namespace, PrefixIdentity

BLOCKS_MAX = 1 << 18
"""Four million tokens, in 16-token blocks over all ranks; about 100 MB."""
STRANGERS_MAX = 1 << 14
"""Blocks of unknown salts or parents, and foreign ones, over all ranks."""
SALTS_MAX = 4096


class Mirror:
    """The picture of a server that tells its events; sans I/O.

    Args:
        identity: What the block names are made with besides the chain key.
        ranks: How many processes tell events.
        blocks_max: See rule 4; also the bound of the server's blocks that are known by name.
        strangers_max: How many blocks without a chain are remembered.
    """

    def __init__(
        self,
        identity: PrefixIdentity,
        *,
        ranks: int = 1,
        blocks_max: int = BLOCKS_MAX,
        strangers_max: int = STRANGERS_MAX,
    ) -> None:
        self.clears = 0
        self._identity = identity
        self._blocks_max = blocks_max
        self._strangers_max = strangers_max
        self._ranks = [Rank() for _ in range(ranks)]
        self._trusted = [False] * ranks
        self._full = False
        self._homes: dict[str | None, Home] = {}
        self._forest = HeldForest(self.__len__)
        self._salted: dict[str | None, dict[tuple[int, EngineHash], None]] = {}
        self._strangers: dict[tuple[int, EngineHash], None] = {}
        self._evidence = Evidence()
        self._counts: dict[str, int] = {}
        self._report: Callable[[], list[tuple[str, str]]] = list

    def __len__(self) -> int:
        return self._forest.reachable_blocks

    @property
    def exact(self) -> bool:
        return all(self._trusted) and not self._full

    def trust(self, rank: int, *, exact: bool) -> None:
        """Says whether nothing that a rank told was missed; before the first call it was."""
        self._trusted[rank] = exact

    def learn(self, namespace: Namespace, chain_key: bytes, salt: str | None) -> None:
        if salt in self._homes:
            if self._homes[salt].tree.namespace != namespace:
                self.note("salts that two namespaces name")
            return
        if len(self._homes) >= SALTS_MAX:
            self.note("salts that are too many")
            return
        tree = self._forest.tree(namespace)
        self._homes[salt] = Home(tree=tree, chain=BlockChain(chain_key, self._identity))
        for rank, name in list(self._salted.pop(salt, ())):
            self._resolve(rank, name)

    def match(self, namespace: Namespace, hashes: Sequence[BlockHash]) -> int:
        return self._forest.match(namespace, hashes)

    def started(
        self,
        request_id: str,
        namespace: Namespace,
        hashes: Sequence[BlockHash],
        now_s: float,  # noqa: ARG002 - events come in their own time
    ) -> int:
        expected = self.match(namespace, hashes)
        self._evidence.started(request_id, namespace, hashes, expected)
        return expected

    def prefilled(self, request_id: str, now_s: float) -> None:
        """Nothing to do: the server tells what it has stored."""

    def finished(
        self,
        request_id: str,
        outcome: Outcome,
        now_s: float,  # noqa: ARG002 - events come in their own time
    ) -> None:
        seen = self._evidence.finished(request_id, outcome)
        if seen is None or seen.found is None:
            return
        if seen.found < seen.expected and not self.exact and len(self._ranks) == 1:
            for name in seen.hashes[seen.found : seen.found + 1]:
                self._disprove(seen.namespace, name)

    def tick(self, now_s: float) -> None:
        """Nothing to do: what a server told stays true until it tells otherwise."""

    def drop(self, namespace: Namespace) -> None:
        """The server keeps its blocks until it needs the memory; nobody can ask for them."""
        for rank, known in enumerate(self._ranks):
            for name, block in list(known.blocks.items()):
                if block.home is not None and block.home.tree.namespace == namespace:
                    del known.blocks[name]
                    self._gone(rank, name, block)
        self._homes = {
            salt: home for salt, home in self._homes.items() if home.tree.namespace != namespace
        }

    def cleared(self) -> None:
        self.clears += 1
        self._evidence.void()
        self._trusted = [False] * len(self._ranks)
        self._empty()

    def clear_rank(self, rank: int) -> None:
        """One process was started anew, or cleared its cache."""
        if len(self._ranks) == 1:
            self._empty()
            return
        for name, block in self._ranks[rank].blocks.items():
            self._gone(rank, name, block)
        self._ranks[rank] = Rank()

    def apply(self, rank: int, event: Event) -> None:
        """Folds one event of a rank."""
        match event:
            case Stored():
                self._store(rank, event)
            case Removed():
                self._remove(rank, event)
            case AllCleared():
                self.note("times that a server cleared its cache")
                self.clear_rank(rank)

    def drain(self) -> tuple[CacheEvent, ...]:
        return self._forest.journal.drain()

    def posture(self) -> list[tuple[str, str]]:
        held = sum(len(rank.blocks) for rank in self._ranks)
        lines = [
            ("cache", f"{len(self)} blocks of 16 tokens, as the server tells"),
            ("server blocks", f"{held} known, {len(self._strangers)} of them not ours or not yet"),
            *self._report(),
            *self._evidence.posture(),
        ]
        if self._full:
            lines.append(("degraded", f"more than {self._blocks_max} blocks; some are not known"))
        if sum(self._trusted) < len(self._ranks):
            lines.append(("degraded", "some events were missed; the picture is not exact"))
        return [*lines, *((name, str(self._counts[name])) for name in sorted(self._counts))]

    def fed_by(self, report: Callable[[], list[tuple[str, str]]]) -> None:
        """Whoever feeds this has lines for the posture as well."""
        self._report = report

    def note(self, name: str) -> None:
        """Counts something for the owner, under a name of the caller's."""
        self._counts[name] = self._counts.get(name, 0) + 1

    def _store(self, rank: int, event: Stored) -> None:
        known, size = self._ranks[rank], event.block_size
        tier = known.tier(event.medium, event.group)
        if tier is None or not counts(event.group, event.kind):
            self.note("events of other layers")
        elif not event.token_ids:
            self._hold_known(known, event.block_hashes, tier)
        elif size % BLOCK_TOKENS or len(event.token_ids) != size * len(event.block_hashes):
            self.note(f"events whose blocks are no multiple of {BLOCK_TOKENS} tokens")
        else:
            self._evidence.block_tokens = size
            self._store_run(rank, event, tier)

    def _hold_known(self, known: Rank, names: Sequence[EngineHash], tier: bytes) -> None:
        for name in names:
            block = known.blocks.get(name)
            if block is None:
                self.note("blocks told without their tokens")
            else:
                known.hold(block, tier)

    def _store_run(self, rank: int, event: Stored, tier: bytes) -> None:
        known, size, parent = self._ranks[rank], event.block_size, event.parent
        room = self._room() // (size // BLOCK_TOKENS)
        for index, name in enumerate(event.block_hashes):
            block = known.blocks.get(name)
            if block is not None:
                known.hold(block, tier)
            elif room <= 0:
                self._full = True
                self.note("blocks beyond the bound")
                return
            else:
                room -= 1
                tokens = event.token_ids[index * size : (index + 1) * size]
                salt = event.salt if parent is None else None
                foreign = index >= event.foreign_from
                known.blocks[name] = EngineBlock(parent, tier, tokens, salt, foreign)
                self._place(rank, name)
            parent = name

    def _remove(self, rank: int, event: Removed) -> None:
        known = self._ranks[rank]
        tier = known.tier(event.medium, event.group)
        if tier is None:
            return
        for name in event.block_hashes:
            block = known.release(name, tier)
            if block is not None:
                self._gone(rank, name, block)

    def _room(self) -> int:
        """How many more of our blocks may be taken in."""
        return self._blocks_max - max(
            len(self._forest), sum(len(rank.blocks) for rank in self._ranks)
        )

    def _gone(self, rank: int, name: EngineHash, block: EngineBlock) -> None:
        """A block that is not known by its server's name any more."""
        if block.home is not None:
            block.home.tree.drop(block.names[::-1])
            return
        self._strangers.pop((rank, name), None)
        waiting = self._salted.get(block.salt)
        if block.parent is None and waiting is not None:
            waiting.pop((rank, name), None)
            if not waiting:
                del self._salted[block.salt]

    def _empty(self) -> None:
        self._ranks = [Rank() for _ in self._ranks]
        self._full = False
        self._salted.clear()
        self._strangers.clear()
        self._forest.clear()

    def _place(self, rank: int, name: EngineHash) -> None:
        """Gives a new block its chain, or remembers it as a stranger."""
        if self._resolve(rank, name):
            return
        known = self._ranks[rank]
        block = known.blocks[name]
        self._strangers[rank, name] = None
        known.wait(name, block)
        if block.parent is None and not block.foreign:
            self._salted.setdefault(block.salt, {})[rank, name] = None
        while len(self._strangers) > self._strangers_max:
            self.note("blocks of unknown salts that were forgotten")
            self._forget(*next(iter(self._strangers)))

    def _forget(self, rank: int, name: EngineHash) -> None:
        known = self._ranks[rank]
        block = known.blocks.pop(name)
        known.stop_waiting(name, block)
        self._gone(rank, name, block)

    def _resolve(self, rank: int, name: EngineHash) -> bool:
        """Gives a block its chain if that can be named now, and then those that wait for it."""
        known = self._ranks[rank]
        if not self._chain(known, name):
            return False
        waiting = [name]
        while waiting:
            each = waiting.pop()
            self._strangers.pop((rank, each), None)
            known.stop_waiting(each, known.blocks[each])
            waiting.extend(n for n in known.waiting_for(each) if self._chain(known, n))
        return True

    def _chain(self, known: Rank, name: EngineHash) -> bool:
        """Names a block's chain, if its salt or its parent's chain is known."""
        block = known.blocks[name]
        above = None if block.parent is None else known.blocks.get(block.parent)
        if above is None:
            home = self._homes.get(block.salt) if block.parent is None else None
        else:
            home = above.home
            block.foreign = block.foreign or above.foreign
        if home is None or block.foreign or block.tokens is None:
            return False
        before = above.names[-1] if above is not None else None
        depth = 0 if before is None else home.tree.depth_of(before) + 1
        names = home.chain.extend(before or home.chain.root, block.tokens)
        block.home, block.names, block.tokens = home, tuple(names), None
        home.tree.add(before, depth, names)
        return True

    def _disprove(self, namespace: Namespace, name: BlockHash) -> None:
        """Forgets the server's blocks that a name, which was not there, is one of."""
        known = self._ranks[0]
        tree = self._forest.tree(namespace)
        if name not in tree:
            return
        self.note("blocks that were not there")
        for engine_name, block in list(known.blocks.items()):
            if block.home is not None and name in block.names:
                del known.blocks[engine_name]
                tree.drop(block.names[::-1])
