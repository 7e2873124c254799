"""Clients that ask without a pause, and what became of each request.

A client asks one host. Where that host says that it is draining, or does not take the request, the
client asks the next one: nothing of an answer has come then. From its first byte on, an answer is
promised to be whole; one that breaks off is lost.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx2
import trio

from overlay.client import PeerClient
from overlay.errors import OverlayError, RequestError, StreamReset
from overlay.request import Delta, Finished, Started
from overlay.transport.frame import ResetCode
from security.errors import SecurityError
from tests.rolling.hosts import Host

PROMPTS_FIRST = 12
NEW_SHARE = 0.25
"""Of the requests: a prompt that nobody has cached, so that every host has something to publish."""
MAX_TOKENS = 24
ANSWERED_WITHIN_S = 120.0
RETRY_S = 0.1


class TurnedAway(Exception):
    """A host has not taken a request: the next one is asked. Says why."""


class Lost(Exception):
    """An answer that had begun broke off."""


@dataclass(frozen=True)
class Answer:
    """A whole answer. Where it was asked by HTTP, nothing is known of hops."""

    prompt: str
    text: str
    finish_reason: str
    completion_tokens: int
    asked: str
    by_code: str
    served_by: str
    cached_tokens: int = 0


@dataclass
class Load:
    """Clients of some hosts.

    ``prompts`` are all that were asked so far, ``right`` is the first answer to each.
    ``turned_away`` counts why hosts took a request not; ``wrong`` and ``lost`` are findings.
    """

    hosts: list[Host]
    token: str
    ca: Path
    prompts: list[str] = field(default_factory=list)
    right: dict[str, str] = field(default_factory=dict)
    answers: list[Answer] = field(default_factory=list)
    turned_away: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    async def run(self, clients: int) -> None:
        """Asks until cancelled: every second client over HTTP, the others with ``PeerClient``."""
        async with trio.open_nursery() as nursery:
            for number in range(clients):
                nursery.start_soon(self._client, number)

    async def more(self, count: int) -> None:
        """Returns when so many more requests have been answered.

        Raises:
            AssertionError: When they are not in time.
        """
        wanted = len(self.answers) + count
        with trio.move_on_after(ANSWERED_WITHIN_S) as scope:
            while len(self.answers) < wanted:
                await trio.sleep(RETRY_S)
        assert not scope.cancelled_caught, f"{self.turned_away} {self.lost[-3:]}"

    async def first(self) -> None:
        """Returns when some prompts have been answered, which are asked again from then on."""
        while len(self.right) < PROMPTS_FIRST:
            await self.more(1)

    async def once_more(self) -> None:
        """Asks each prompt at two hosts, when nothing else is asked: all give the same answer."""
        for place, prompt in enumerate(self.prompts):
            for ask in (self._ask_http, self._ask_peer):
                await self._until_answered(ask, prompt, place)
                place += 1  # noqa: PLW2901 - the next host

    def _prompt(self, rng: Random) -> str:
        if len(self.prompts) < PROMPTS_FIRST or rng.random() < NEW_SHARE:
            words = "The river Lanner rises on Mount Ashby and flows north. " * 12
            self.prompts.append(f"{len(self.prompts)}. {words} Why?")
            return self.prompts[-1]
        return rng.choice(self.prompts)

    async def _client(self, number: int) -> None:
        rng = Random(number)
        ask = self._ask_http if number % 2 else self._ask_peer
        while True:
            prompt, place = self._prompt(rng), rng.randrange(len(self.hosts))
            with trio.move_on_after(ANSWERED_WITHIN_S) as scope:
                await self._until_answered(ask, prompt, place)
            if scope.cancelled_caught:
                self.lost.append(f"{prompt[:4]}: answered nowhere in {ANSWERED_WITHIN_S:g} s")

    async def _until_answered(self, ask: Any, prompt: str, place: int) -> None:  # ask: one of ours
        while True:
            host = self.hosts[place % len(self.hosts)]
            place += 1
            try:
                if not host.address:
                    raise TurnedAway("down")
                answer = await ask(host, prompt)
            except TurnedAway as why:
                self.turned_away[str(why)] += 1
                await trio.sleep(RETRY_S)
                continue
            except Lost as why:
                self.lost.append(f"{host.name} ({host.code.name}): {why}")
                return
            self._judge(answer)
            return

    def _judge(self, answer: Answer) -> None:
        self.answers.append(answer)
        right = self.right.setdefault(answer.prompt, answer.text)
        whole = answer.finish_reason == "stop" or answer.completion_tokens == MAX_TOKENS
        if answer.text != right or not whole:
            self.wrong.append(f"{answer} in place of {right!r}")

    async def _ask_peer(self, host: Host, prompt: str) -> Answer:
        began, pieces, code = False, [], host.code.name
        finished: Finished | None = None
        try:
            async with PeerClient.connect(host.address, token=self.token, ca=self.ca) as client:
                async for event in client.chat(
                    [{"role": "user", "content": prompt}], max_tokens=MAX_TOKENS, temperature=0
                ):
                    began = True
                    match event:
                        case Delta():
                            pieces.append(event.text)
                        case Finished():
                            finished = event
                        case Started():
                            pass
        except (OverlayError, OSError, SecurityError) as error:
            raise _why(error, began=began) from None
        if finished is None:
            raise Lost("an answer without an end")
        usage = finished.usage
        return Answer(
            prompt=prompt,
            text="".join(pieces),
            finish_reason=finished.reason.value,
            completion_tokens=usage.completion_tokens,
            asked=host.name,
            by_code=code,
            served_by=finished.served_by,
            cached_tokens=usage.cached_tokens,
        )

    async def _ask_http(self, host: Host, prompt: str) -> Answer:
        body = {
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": MAX_TOKENS,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        began, code = False, host.code.name
        lines: list[str] = []
        try:
            async with (
                httpx2.AsyncClient(timeout=ANSWERED_WITHIN_S) as client,
                client.stream(
                    "POST",
                    f"{host.http}/v1/chat/completions",
                    json=body,
                    headers={"Authorization": f"Bearer {self.token}"},
                ) as response,
            ):
                if response.status_code != 200:
                    error = json.loads(await response.aread())["error"]
                    raise _why(_refused(error), began=False)
                began = True
                served_by = response.headers["x-rhizome-served-by"]
                lines = [line async for line in response.aiter_lines() if line]
        except httpx2.TransportError as error:
            raise _why(error, began=began) from None
        return _of_events(lines, prompt, host.name, code, served_by)


def _of_events(lines: list[str], prompt: str, asked: str, code: str, served_by: str) -> Answer:
    """The answer that a stream of server-sent events holds."""
    if not lines or lines[-1] != "data: [DONE]":
        raise Lost(f"a stream of {len(lines)} events without its end")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    for chunk in chunks:
        if "error" in chunk:
            raise Lost(f"an answer that ends with {chunk['error']}")
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    reasons = [choice["finish_reason"] for choice in choices if choice["finish_reason"]]
    (usage,) = (chunk["usage"] for chunk in chunks if chunk.get("usage"))
    return Answer(
        prompt=prompt,
        text="".join(choice["delta"].get("content") or "" for choice in choices),
        finish_reason=reasons[-1],
        completion_tokens=usage["completion_tokens"],
        asked=asked,
        by_code=code,
        served_by=served_by,
        cached_tokens=(usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
    )


def _refused(error: dict[str, Any]) -> RequestError:
    return RequestError(error["message"], code=error["code"])


def _why(error: Exception, *, began: bool) -> Exception:
    """What a failure means: lost where an answer had begun, or where the host refuses for good."""
    if began:
        return Lost(f"it broke off: {type(error).__name__}: {error}")
    match error:
        case RequestError(code="draining"):
            return TurnedAway("draining")
        case StreamReset(code=ResetCode.GOING_AWAY):
            return TurnedAway("going away")
        case RequestError() | StreamReset():
            return Lost(f"refused: {error}")
        case _:
            return TurnedAway("no connection")
