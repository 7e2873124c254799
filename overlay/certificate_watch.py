"""On which certificates the open connections of a peer stand, and when that is looked at again."""

from __future__ import annotations

import functools
from collections.abc import Callable

import trio

from overlay.peers import Peers
from overlay.ports import Clock
from overlay.renewer import Renewer
from security.certificate import parse_leaf
from security.errors import Expired
from security.peer_id import PeerId

LOOK_AGAIN_S = 60.0
"""Wall clocks can be set, and issuers be revoked, at any time."""

END_SLACK_S = 0.05
"""Past a certificate's last second, when the connections that stand on it are judged."""


class CertificateWatch:
    """Judges open connections again: at the end of a certificate, and every minute.

    In place of a certificate that has ended while the connection was open, the peer may have shown
    a newer one, in its record: for the same key, which the handshake has proved. So a host that
    renews in time keeps its connections.
    """

    def __init__(
        self,
        *,
        peers: Peers,
        clock: Clock,
        renewer: Renewer,
        judge: Callable[[bytes], PeerId],
        leaf_of: Callable[[PeerId], bytes | None],
        last_words: Callable[[bytes], tuple[str, bytes] | None],
    ) -> None:
        self._peers = peers
        self._clock = clock
        self._renewer = renewer
        self._judge = judge
        self._leaf_of = leaf_of
        self._last_words = last_words
        self._changed = trio.Event()

    def changed(self) -> None:
        """A connection is up, which may end sooner than the others."""
        self._changed.set()

    def judge_all(self) -> None:
        """Ends the connections that are to be believed no more."""
        self._peers.judge_again(self.judge, self._last_words)
        if self._renewer.ended:
            self._peers.drop_all("this host's certificate has ended")

    def judge(self, der: bytes) -> PeerId:
        """Decides about an open connection's leaf; raises a SecurityError that says why not."""
        try:
            return self._judge(der)
        except Expired:
            newer = self._leaf_of(parse_leaf(der).peer_id)
            if newer is None:
                raise
            return self._judge(newer)

    async def run(self) -> None:
        """Judges until cancelled."""
        due_s = trio.current_time() + LOOK_AGAIN_S
        while True:
            with trio.move_on_at(min(due_s, trio.current_time() + self._next_end_s())) as waiting:
                await self._changed.wait()
            if waiting.cancelled_caught:
                due_s = trio.current_time() + LOOK_AGAIN_S
                self.judge_all()
            else:
                self._changed = trio.Event()

    def _next_end_s(self) -> float:
        """Seconds until a certificate ends that an open connection stands on, at most 60."""
        now_unix_s = self._clock.unix_s()
        ends_s = [self._renewer.left_s()]
        for peer_id in self._peers.up():
            connection = self._peers.connection(peer_id)
            shown = None if connection is None else connection.remote.leaf
            leaves = (shown, self._leaf_of(peer_id))
            ends_s.append(max(end_of(der) for der in leaves if der) - now_unix_s)
        return min([LOOK_AGAIN_S, *(end_s + END_SLACK_S for end_s in ends_s if end_s >= 0)])


@functools.lru_cache(1024)
def end_of(der: bytes) -> int:
    """When a certificate ends, in Unix seconds."""
    return parse_leaf(der).not_after_unix_s
