"""Chain keys that count no more: what their requests still leave in a cache is dropped as well."""

from __future__ import annotations

from collections import OrderedDict

KEPT_MAX = 256
"""Keys that are remembered: far more than a tenant's change while a request is under way."""


class VoidChains:
    """The last chain keys that became void."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, chain_key: bytes) -> bool:
        return chain_key in self._keys

    def add(self, chain_key: bytes) -> None:
        """Requests that come with this key, or came, leave nothing."""
        self._keys[chain_key] = None
        while len(self._keys) > KEPT_MAX:
            self._keys.popitem(last=False)
