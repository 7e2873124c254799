"""Looks after a server: waits for it, looks it over, asks how it is, notices when it is gone.

A server that is not there is no error: its owner starts it later, or again. It is looked for with
growing pauses. While it is there it is asked for its health, metrics and models, every second while
it has work, and at once when a request has failed. It is *away* when no connection is to be had,
when it was not well several times in a row, when it turns out to be another process, or when its
models are others than they were; for one that is new alone it is let finish what it has.
Nothing that a server says ends the watch of it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import trio

from inference.errors import InferenceError, UnknownModel
from inference.remote.cards import Card, list_cards, wanted_of
from inference.remote.kinds import KINDS
from inference.remote.load import ServerMetrics
from inference.remote.preflight import Preflight, Secret, ask_metrics, look
from inference.remote.server import Server, ServerError, ServerRefused, ServerUnreachable
from inference.remote.settings import RemoteSettings

RETRY_MIN_S = 0.5
RETRY_MAX_S = 10.0
BUSY_LOOK_S = 1.0
IDLE_LOOK_S = 5.0
OWN_BYTES = 16
FAILURES_MAX = 3
"""Not well so often in a row is away: once may be a pause of the host."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watcher:
    """Who is told. ``busy`` says whether the server has work that is known of.

    ``up`` may raise ``InferenceError``: then the server cannot be used as it is.
    """

    up: Callable[[Preflight], None]
    down: Callable[[str], None]
    seen: Callable[[ServerMetrics], None]
    busy: Callable[[], bool]


class ServerWatch:
    """Watches one server.

    Args:
        server: The server.
        settings: What its owner said of it.
        watcher: Who is told.
        secret: For what a server must not have met before.
    """

    def __init__(
        self, server: Server, settings: RemoteSettings, watcher: Watcher, *, secret: Secret
    ) -> None:
        self._server = server
        self._settings = settings
        self._kind = KINDS[settings.kind]
        self._watcher = watcher
        self._secret = secret
        self._own = secret(OWN_BYTES)
        self._wake = trio.Event()
        self.healthy = False
        self.words = f"waiting for {settings.url}"

    def suspect(self) -> None:
        """Something failed: look at once."""
        self._wake.set()

    async def run(self, looked: trio.Event) -> None:
        """Watches until cancelled. ``looked`` is set after the first look, whatever it saw."""
        pause_s = RETRY_MIN_S
        while True:
            try:
                preflight = await look(
                    self._server, self._settings, secret=self._secret, own=self._own.hex()
                )
                self._watcher.up(preflight)
            except Exception as error:  # noqa: BLE001 - whatever it says, it is looked at again
                self._say(self._reason(error))
                looked.set()
                await trio.sleep(pause_s)
                pause_s = min(2 * pause_s, RETRY_MAX_S)
                continue
            pause_s = RETRY_MIN_S
            self.healthy = True
            self._say(f"{preflight.version} at {self._settings.url}")
            looked.set()
            why = await self._until_away(preflight.cards)
            self.healthy = False
            self._say(f"waiting for {self._settings.url}: {why}")
            self._watcher.down(why)

    async def _until_away(self, cards: tuple[Card, ...]) -> str:
        """Asks how it is, again and again; why it is away when it is."""
        failures = 0
        started_s: float | None = None
        pause_s = 0.0
        while True:
            self._wake = trio.Event()
            with trio.move_on_after(pause_s):
                await self._wake.wait()
            try:
                metrics = await self._ask()
                others = await self._are_others(cards)
            except ServerUnreachable as error:
                if not error.slow:
                    return str(error)
                failures += 1
            except Exception as error:  # noqa: BLE001 - as above
                self._note(error)
                failures += 1
            else:
                failures = 0
                if started_s is not None and metrics.started_s not in (None, started_s):
                    return "it was started anew"
                if others:
                    return "its models have changed"
                started_s = metrics.started_s or started_s
                self._watcher.seen(metrics)
            self.healthy = failures == 0
            if failures >= FAILURES_MAX:
                return "it is not well"
            pause_s = BUSY_LOOK_S if failures or self._watcher.busy() else IDLE_LOOK_S

    async def _ask(self) -> ServerMetrics:
        within_s = self._settings.timeouts.health_s
        await self._server.get_text(self._kind.health_path, within_s=within_s)
        return await ask_metrics(self._server, self._kind)

    async def _are_others(self, cards: tuple[Card, ...]) -> bool:
        """Whether it has other models than these; a new one can wait until it has no work."""
        try:
            listed = wanted_of(await list_cards(self._server, self._kind), self._settings.model)
        except UnknownModel:
            return True
        now, before = set(listed), set(cards)
        return now != before and not (before < now and self._watcher.busy())

    def _note(self, error: Exception) -> None:
        if not isinstance(error, ServerError):
            log.error("looking at the inference server failed: %s", type(error).__name__)

    def _reason(self, error: Exception) -> str:
        url = self._settings.url
        if not isinstance(error, InferenceError):
            self._note(error)
            return f"waiting for {url}: it says what cannot be read"
        if isinstance(error, ServerUnreachable):
            return f"waiting for {url}"
        if isinstance(error, ServerRefused) and error.status in {401, 403}:
            return f"{url} refuses our API key"
        return f"waiting for {url}: {error}"

    def _say(self, words: str) -> None:
        if words != self.words:
            log.info("inference server: %s", words)
        self.words = words
