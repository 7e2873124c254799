"""Turns an answer's tokens into text piece by piece, and cuts it at stop strings.

Rules:

1. What is given out depends on the token sequence alone, not on how it was cut into calls. So an
   engine that resumes an answer replays the emitted tokens and goes on exactly where the other
   one stood.
2. A piece never ends inside a character: text that ends in U+FFFD waits for its other bytes.
3. Text that may be the beginning of a stop string waits; the stop string that ends first wins, the
   longest of those that end there. Nothing from its beginning on is given out.

The window of a few tokens that is decoded again with each new one is the method of Hugging Face's
text-generation-inference: tokenizers may decode a token differently at the beginning of a text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED_TOKENS_MAX = 16
"""Tokens after which text that still ends in U+FFFD is given out as it is: a character has at most
four bytes, and tokenizers that fall back to bytes may show a few neighbours as U+FFFD too."""

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"

Decode = Callable[[Sequence[int]], str]


class TextStream:
    """The text of one answer.

    Args:
        decode: Token ids to text, undecodable bytes as U+FFFD, special tokens as nothing.
        stop: Strings at which the text ends; empty ones are ignored.
        emitted: Tokens that were given out before (resume); their text is not given out again.

    ``stopped`` says that a stop string was found; what follows is dropped.
    """

    def __init__(
        self, decode: Decode, *, stop: Sequence[str] = (), emitted: Sequence[int] = ()
    ) -> None:
        self._decode = decode
        self._stop = tuple(string for string in stop if string)
        self._context: list[int] = []
        self._context_text = ""
        self._unread: list[int] = []
        self._held = ""
        self.stopped = False
        self.push(emitted)

    def push(self, token_ids: Sequence[int]) -> str:
        """Takes tokens in and gives the text that became certain, maybe none."""
        if len(token_ids) == 1:
            return self._push_one(token_ids[0])
        return "".join([self._push_one(token_id) for token_id in token_ids])

    def flush(self) -> str:
        """Gives the text that was held back, at the end of the answer."""
        text = self._cut(self._read()) if self._unread else ""
        if self.stopped:
            return text
        text += self._held
        self._held = ""
        return text

    def _push_one(self, token_id: int) -> str:
        if self.stopped:
            return ""
        self._unread.append(token_id)
        text = self._window_text()
        unfinished = not text or text.endswith(REPLACEMENT)
        if unfinished and len(self._unread) < UNFINISHED_TOKENS_MAX:
            return ""
        return self._cut(self._read(text))

    def _window_text(self) -> str:
        return self._decode(self._context + self._unread)[len(self._context_text) :]

    def _read(self, text: str | None = None) -> str:
        """Moves the window on; the tokens just read are the next ones' context."""
        if text is None:
            text = self._window_text()
        self._context, self._unread = self._unread, []
        self._context_text = self._decode(self._context)
        return text

    def _cut(self, text: str) -> str:
        """Takes new text in; gives what cannot be part of a stop string any more."""
        if not self._stop:
            return text
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)[1]]
        keep = min((_possible_start(text, stop) for stop in self._stop), default=len(text))
        self._held = text[keep:]
        return text[:keep]


def _possible_start(text: str, stop: str) -> int:
    """Where a stop string that is not complete yet may begin; the text's end if nowhere."""
    at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
    while at >= 0:
        if stop.startswith(text[at:]):
            return at
        at = text.find(stop[0], at + 1)
    return len(text)
