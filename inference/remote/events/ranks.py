"""The blocks of one process of a server (a data-parallel rank), under the server's own names.

Rules:

1. A block is held while it was stored more often than removed, in any medium: vLLM may compute a
   prompt twice side by side and then has, and later removes, each of its blocks twice.
2. Of a model with several kinds of layers only the groups of full attention count, and group 0
   where kinds are not told: the others keep a window's worth, which cannot be told from a prompt's
   tokens. A prompt may then find less than is said here, as each kind must have its part.
3. A block whose chain cannot be named yet (its salt or parent is not known) is a *stranger*, and
   so is a foreign one. Strangers are bounded, the oldest are forgotten.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from inference.blocks import BlockChain
from inference.events import BlockHash
from inference.remote.events.frames import EngineHash
from inference.remote.held import HeldTree

COPIES_MAX = 255
TIERS_MAX = 255
FULL_KINDS = {"full_attention", "mla_attention", "sink_full_attention"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Home:
    """Where the blocks of a salt belong, and how they are named."""

    tree: HeldTree
    chain: BlockChain


@dataclass(slots=True, eq=False)
class EngineBlock:
    """One block of a server.

    ``holders`` has one byte for each copy, the number of its tier. ``home`` and ``names`` are set
    when its chain is known: it is ``len(names)`` of our blocks there. Until then it has its
    ``tokens`` and, if it starts a chain, its ``salt``.
    """

    parent: EngineHash | None
    holders: bytes
    tokens: array[int] | None
    salt: str | None
    foreign: bool
    home: Home | None = None
    names: tuple[BlockHash, ...] = ()


class Rank:
    """What one process holds: blocks by its own name, and who waits for which parent."""

    def __init__(self) -> None:
        self.blocks: dict[EngineHash, EngineBlock] = {}
        self._tiers: dict[tuple[str | None, int], int] = {}
        self._waiting: dict[EngineHash, dict[EngineHash, None]] = {}

    def tier(self, medium: str | None, group: int | None) -> bytes | None:
        """The byte that stands for a tier; None where there are too many. No group is group 0."""
        tier = (medium, group or 0)
        number = self._tiers.get(tier)
        if number is None:
            number = len(self._tiers)
            if number >= TIERS_MAX:
                return None
            self._tiers[tier] = number
        return bytes((number,))

    def hold(self, block: EngineBlock, tier: bytes) -> None:
        """One more copy; past a number that no server reaches, they are not counted."""
        if len(block.holders) < COPIES_MAX:
            block.holders += tier

    def release(self, name: EngineHash, tier: bytes) -> EngineBlock | None:
        """One copy less.

        Returns:
            The block when that was the last one: it is not in ``blocks`` any more.
        """
        block = self.blocks.get(name)
        if block is None:
            return None
        block.holders = block.holders.replace(tier, b"", 1)
        if block.holders:
            return None
        del self.blocks[name]
        if block.home is None:
            self.stop_waiting(name, block)
        return block

    def wait(self, name: EngineHash, block: EngineBlock) -> None:
        """A block without a chain waits until its parent has one."""
        if block.parent is not None:
            self._waiting.setdefault(block.parent, {})[name] = None

    def stop_waiting(self, name: EngineHash, block: EngineBlock) -> None:
        """It has a chain now, or is gone."""
        if block.parent is None:
            return
        others = self._waiting.get(block.parent)
        if others is not None:
            others.pop(name, None)
            if not others:
                del self._waiting[block.parent]

    def waiting_for(self, parent: EngineHash) -> list[EngineHash]:
        """The blocks that have no chain as their parent has, or had, none."""
        return list(self._waiting.get(parent, ()))


def counts(group: int | None, kind: str | None) -> bool:
    """Whether blocks of this group are the ones that a picture is made of; see rule 2."""
    return kind in FULL_KINDS if kind not in (None, "unknown") else group in (None, 0)
