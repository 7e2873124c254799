"""An overlay whose root was changed, and everything that its bundles are made of."""

from __future__ import annotations

from security.certificate import RootKey, make_next_root
from security.root_bundle import Roots, next_bundle, number_after
from tests.security.world import NOW_S, Overlay


class Rotated(Overlay):
    """``keys`` are all its roots, ``told`` every bundle, ``roots`` what follows from them."""

    def __init__(self, seed: int = 1, *, rotations: int = 0) -> None:
        super().__init__(seed)
        self.keys: list[RootKey] = [self.root]
        self.told: list[bytes] = []
        self.roots = Roots.of(self.root.der)
        for _ in range(rotations):
            self.overlap()
            self.drop()

    def next_root(self) -> RootKey:
        """A root that the next bundle may bring."""
        return make_next_root(self.overlay_id, number_after(self.roots), self.secret, NOW_S)

    def overlap(self) -> bytes:
        """Begins a rotation."""
        self.keys.append(self.next_root())
        return self._tell(drop=False)

    def drop(self) -> bytes:
        """Ends it."""
        return self._tell(drop=True)

    def _tell(self, *, drop: bool) -> bytes:
        data = next_bundle(self.roots, *self.keys[-2:], drop=drop)
        self.told.append(data)
        self.roots = self.roots.learn([data])
        return data
