"""The frames that a server publishes about its cache, and the requests that caused them."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import zmq
from serving import BLOCK_TOKENS, Server, events

SETTLE_S = 0.5
"""How long frames may come after the answer that they belong to."""

END_MARK = b"\xff" * 8


@dataclass(slots=True)
class Recording:
    """Frames and requests on one clock."""

    began: float = field(default_factory=time.monotonic)
    frames: list[dict[str, Any]] = field(default_factory=list)
    sent: list[dict[str, Any]] = field(default_factory=list)

    def now_ms(self) -> float:
        return round((time.monotonic() - self.began) * 1000, 1)


@contextmanager
def subscribed(recording: Recording, *sockets: zmq.Socket[bytes]) -> Iterator[None]:
    """Notes what the sockets receive for as long as the block runs, and a little longer."""
    ended = threading.Event()

    def listen() -> None:
        poller = zmq.Poller()
        for each in sockets:
            poller.register(each, zmq.POLLIN)
        while not ended.is_set():
            for ready, _ in poller.poll(50):
                got = ready.recv_multipart()
                at = {"socket": sockets.index(ready)} if len(sockets) > 1 else {}
                recording.frames.append(at | frame(got) | {"at_ms": recording.now_ms()})

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield
        time.sleep(SETTLE_S)
    finally:
        ended.set()
        thread.join()
        for each in sockets:
            each.close(linger=0)


def frame(parts: list[bytes]) -> dict[str, Any]:
    names = ("topic", "seq", "payload")
    if len(parts) != len(names):
        return {"parts": [part.hex() for part in parts]}
    return {name: part.hex() for name, part in zip(names, parts, strict=True)}


def subscriber(endpoint: str, topic: str = "", *, bind: bool = False) -> zmq.Socket[bytes]:
    made = zmq.Context.instance().socket(zmq.SUB)
    made.setsockopt_string(zmq.SUBSCRIBE, topic)
    (made.bind if bind else made.connect)(endpoint)
    return made


def replay(endpoint: str, start: int) -> dict[str, Any]:
    """What the replay socket answers, whole, up to its end mark."""
    asking = zmq.Context.instance().socket(zmq.DEALER)
    asking.connect(endpoint)
    asked = [b"", start.to_bytes(8, "big")]
    asking.send_multipart(asked)
    answers: list[list[str]] = []
    while asking.poll(2000):
        parts = asking.recv_multipart()
        answers.append([part.hex() for part in parts])
        if END_MARK in parts[1:3]:
            break
    asking.close(linger=0)
    return {"start": start, "asked": [part.hex() for part in asked], "answers": answers}


def record_all(server: Server) -> Recording:
    """Salts, turns, evictions and a cleared cache: everything that makes an event."""
    asker = Asker(server)
    with subscribed(asker.recording, subscriber(server.events, server.topic)):
        time.sleep(SETTLE_S)
        asker.shared_prefixes()
        asker.turns()
        asker.small_and_growing()
        asker.beside_each_other()
        asker.evictions()
        asker.cleared()
    return asker.recording


def record_few(server: Server) -> Recording:
    """One salt and none, one longer prompt, and a cleared cache."""
    asker = Asker(server)
    shared = asker.tokens(2 * BLOCK_TOKENS)
    with subscribed(asker.recording, subscriber(server.events, server.topic)):
        time.sleep(SETTLE_S)
        asker.ask("no salt", [*shared, *asker.tokens(5)])
        asker.ask("tenant-a", [*shared, *asker.tokens(5)], salt="tenant-a")
        asker.ask("longer", [*shared, *asker.tokens(BLOCK_TOKENS + 5)])
        asker.cleared()
    return asker.recording


class Asker:
    """Makes the requests of one recording, with token ids that are the same each time."""

    def __init__(self, server: Server) -> None:
        self.recording = Recording()
        self._server = server
        self._random = random.Random(7)

    def tokens(self, count: int) -> list[int]:
        return [self._random.randrange(1000, 20000) for _ in range(count)]

    def shared_prefixes(self) -> None:
        shared = self.tokens(3 * BLOCK_TOKENS)
        first = [*shared, *self.tokens(9)]
        self.ask("first", first)
        self.ask("again: nothing is stored", first)
        self.ask("tenant-a, the same tokens", first, salt="tenant-a")
        self.ask("tenant-b, the same tokens", first, salt="tenant-b")
        forked = [*shared, *self.tokens(2 * BLOCK_TOKENS)]
        self.ask("tenant-a, forks after three blocks", forked, salt="tenant-a")
        self.ask(
            "tenant-a, forks inside a block", [*shared[:80], *self.tokens(40)], salt="tenant-a"
        )

    def turns(self) -> None:
        said = self.tokens(70)
        for number in (1, 2, 3):
            answer = self.ask(f"turn {number}", said, salt="tenant-a", max_tokens=30)
            said = [*said, *answer, *self.tokens(12)]

    def small_and_growing(self) -> None:
        self.ask("less than a block", self.tokens(10))
        self.ask("less than a block, filled by the answer", self.tokens(10), max_tokens=80)
        two_blocks = self.tokens(2 * BLOCK_TOKENS)
        self.ask("exactly two blocks", two_blocks, max_tokens=1)
        self.ask("exactly two blocks again", two_blocks, max_tokens=1)
        self.ask("exactly two blocks again, reported in full", two_blocks, full_report=True)
        self.ask("left by the client after 40 tokens", self.tokens(40), max_tokens=300, leave=40)
        time.sleep(SETTLE_S)

    def beside_each_other(self) -> None:
        both = [
            threading.Thread(
                target=self.ask,
                args=(f"at the same time {number}", self.tokens(3 * BLOCK_TOKENS + 3)),
                kwargs={"max_tokens": 40},
            )
            for number in (1, 2)
        ]
        for each in both:
            each.start()
        for each in both:
            each.join()

    def evictions(self) -> None:
        large = self.tokens(40 * BLOCK_TOKENS + 1)
        self.ask("large 1", large)
        self.ask("large 2", self.tokens(40 * BLOCK_TOKENS + 1))
        self.ask("large 1 again", large)

    def cleared(self) -> None:
        noted: dict[str, Any] = {"name": "cleared", "path": "/reset_prefix_cache"}
        self.recording.sent.append(noted)
        noted["at_ms"] = self.recording.now_ms()
        connection = self._server.connect()
        connection.request("POST", noted["path"])
        noted["status"] = connection.getresponse().status
        noted["end_ms"] = self.recording.now_ms()
        connection.close()
        time.sleep(SETTLE_S)
        self.ask("after it was cleared", self.tokens(BLOCK_TOKENS + 2))

    def ask(
        self,
        name: str,
        prompt: list[int],
        *,
        salt: str | None = None,
        max_tokens: int = 4,
        leave: int | None = None,
        full_report: bool = False,
    ) -> list[int]:
        """Streams one answer; notes when it began and ended, and gives its tokens."""
        noted: dict[str, Any] = {"name": name, "path": "/v1/completions", "cache_salt": salt}
        noted["at_ms"] = self.recording.now_ms()
        self.recording.sent.append(noted)
        body: dict[str, Any] = {
            "prompt": prompt,
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
        }
        if salt is not None:
            body["cache_salt"] = salt
        if full_report:
            body["vllm_xargs"] = noted["vllm_xargs"] = {"kv_cache_report_mode": "full"}
        connection = self._server.connect()
        given = {"content-type": "application/json"}
        connection.request("POST", noted["path"], json.dumps(body), given)
        answer: list[int] = []
        noted |= {"prompt_token_ids": prompt, "token_ids": answer}
        for event in events(connection.getresponse()):
            data = event.removeprefix("data: ").strip()
            chunk = json.loads(data) if data != "[DONE]" else {"choices": []}
            for choice in chunk["choices"]:
                noted.setdefault("first_ms", self.recording.now_ms())
                answer.extend(choice["token_ids"] or [])
            if usage := chunk.get("usage"):
                noted["cached_tokens"] = usage["prompt_tokens_details"]["cached_tokens"]
            if leave is not None and len(answer) >= leave:
                break
        noted["end_ms"] = self.recording.now_ms()
        connection.close()
        if leave is None:
            time.sleep(0.2)
        return answer
