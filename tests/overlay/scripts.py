"""What a serving peer may say to a forward, rightly and wrongly, for ``Misbehaving`` to say."""

from __future__ import annotations

import trio

from overlay.forward import Accept, End, Failed, ForwardRequest, Progress, Refuse, Tokens
from overlay.transport.stream import Stream
from tests.overlay.peers_world import Script, encode

ACCEPT = encode(Accept(cached_tokens=0, expected_start_ms=0))
END = encode(End(finish_reason="stop", prompt_tokens=1, completion_tokens=1, cached_tokens=0))


def tokens(*ids: int) -> bytes:
    return encode(Tokens(token_ids=list(ids), text="x", cached_tokens=0))


def saying(*messages: bytes, then: str = "finish") -> Script:
    """Says these messages, then finishes, resets or falls silent."""

    async def script(stream: Stream, request: ForwardRequest) -> None:
        for message in messages:
            await stream.send(message)
        if then == "finish":
            await stream.finish()
        elif then == "reset":
            await trio.sleep(0.02 if messages else 0)  # a reset overtakes what is not sent yet
            stream.reset()
        else:
            await trio.sleep_forever()

    return script


def refusing(code: str) -> Script:
    return saying(encode(Refuse(code=code)))


def failing(code: str, status: int, *, retryable: bool) -> Script:
    return saying(
        ACCEPT, encode(Failed(code=code, message="why", status=status, retryable=retryable))
    )


REFUSED_OR_BROKEN: dict[str, tuple[Script, float]] = {
    "refused": (refusing("overloaded"), 0.1),
    "refused with a code of the future": (refusing("moon_phase"), 0.1),
    "silent within the budget": (saying(then="silence"), 0.1),
    "silent after ACCEPT": (saying(ACCEPT, then="silence"), 1.6),
    "no answer at all": (saying(), 0.1),
    "ends after ACCEPT": (saying(ACCEPT), 0.1),
    "resets at once": (saying(then="reset"), 0.1),
    "resets after ACCEPT": (saying(ACCEPT, then="reset"), 0.1),
    "garbage first": (saying(b"\xc1garbage"), 0.1),
    "garbage after ACCEPT": (saying(ACCEPT, b"\xff" * 100), 0.1),
    "empty message": (saying(b""), 0.1),
    "tokens before ACCEPT": (saying(tokens(1), END), 0.1),
    "PROGRESS before ACCEPT": (saying(encode(Progress())), 0.1),
    "END before ACCEPT": (saying(END), 0.1),
    "ACCEPT twice": (saying(ACCEPT, ACCEPT), 0.1),
    "more tokens than were asked for": (saying(ACCEPT, tokens(65, 66, 67)), 0.1),
    "REFUSE after ACCEPT": (saying(ACCEPT, encode(Refuse(code="overloaded"))), 0.1),
    "refused a denial of the past": (refusing("bad_request"), 0.1),
    "engine failed": (failing("engine_failed", 502, retryable=True), 0.1),
    "failed, not retryable, its own fault": (failing("engine_failed", 502, retryable=False), 0.1),
    "failed with a code of the future": (failing("moon_phase", 418, retryable=False), 0.1),
}
