"""The toy engine's tokenizer, chat template and "model": pure functions without any state.

A token is a byte, a pair of small letters, a common word (with a space before it or without), or a
mark that no text can contain. Every token sequence decodes to text, and any text can be encoded.
The next token is a hash of all tokens before it (and of the seed, when sampling), so it can be
predicted by nobody but repeated by everybody.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import repeat
from typing import cast

from inference.blocks import token_bytes
from inference.errors import InvalidRequest
from inference.request import ChatPrompt, TextPrompt

_COMMON_WORDS = (
    "a about after again all also an and any are as at back be because been before being but by "
    "can case come could day did do down each end even every few find first for from give go good "
    "great had has have he her here him his home how i if in into is it its just keep know large "
    "last left life light like little long look made make man many may me might more most much "
    "must my never new night no not now number of off old on one only or other our out over own "
    "page part people place point right said same say see set she should show side small so some "
    "state still such take tell than that the their them then there these they thing think this "
    "those three through time to too turn two under up upon us use very was water way we well were "
    "what when where which while who why will with word work world would year you your"
)
_WORDS = tuple(_COMMON_WORDS.split())
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_PAIRS = tuple(first + second for first in " " + _LETTERS for second in _LETTERS)
_MARKS = ("end", "system", "developer", "user", "assistant")

_FIRST_MARK = 256
_FIRST_PIECE = _FIRST_MARK + len(_MARKS)
_PIECES = tuple(dict.fromkeys((*_PAIRS, *_WORDS, *(" " + word for word in _WORDS))))
_IDS = {piece: _FIRST_PIECE + number for number, piece in enumerate(_PIECES)}
_BYTES = (
    *(bytes([number]) for number in range(256)),
    *(b"" for _ in _MARKS),
    *(piece.encode() for piece in _PIECES),
)

VOCABULARY = len(_BYTES)
"""Token ids are below this number."""

END = _FIRST_MARK
"""Ends a message, and an answer."""

TEMPLATE = "<role>content<end>... <assistant>"
"""What :func:`encode` does with messages, as text that names it in the prefix identity."""

TOKENIZER_DIGEST = hashlib.sha256(b"\0".join((b"toy/1", *_BYTES))).hexdigest()
TEMPLATE_DIGEST = hashlib.sha256(TEMPLATE.encode()).hexdigest()

_PARTS = re.compile(r" ?[a-z]+|.", re.DOTALL)
_AFTER_SPACE = {piece[1:]: token_id for piece, token_id in _IDS.items() if piece[0] == " "}
_SPOKEN = tuple(_IDS[" " + word] for word in _WORDS)
_LONG_CHARACTERS = tuple(character.encode() for character in "éß€語😀")
_NEXT_BYTE = {
    tuple(encoded[:length]): encoded[length]
    for encoded in _LONG_CHARACTERS
    for length in range(1, len(encoded))
}
_UNKNOWN = -1

_SHORT_CHARS = 32
_WORDS_KEPT = 4096
"""Words that are no token of their own, and whose tokens are remembered: the short ones."""


def encode(
    prompt: ChatPrompt | TextPrompt, encode_text: Callable[[str], Sequence[int]] | None = None
) -> tuple[int, ...]:
    """The tokens of a prompt; messages are put between marks, ready for the assistant's answer.

    Args:
        prompt: What is asked.
        encode_text: What does the work of :func:`text_tokens`, for who has done some of it before.

    Raises:
        InvalidRequest: For an unknown role, or text with half a surrogate pair.
    """
    encode_text = encode_text or text_tokens
    if not isinstance(prompt, ChatPrompt):
        return tuple(encode_text(prompt.text))
    tokens: list[int] = []
    for message in prompt.messages:
        if message.role not in _MARKS[1:]:
            raise InvalidRequest("unknown role", param="messages")
        tokens.append(_FIRST_MARK + _MARKS.index(message.role))
        tokens.extend(encode_text(message.content))
        tokens.append(END)
    tokens.append(_FIRST_MARK + _MARKS.index("assistant"))
    return tuple(tokens)


def decode(token_ids: Sequence[int]) -> str:
    """The text of tokens; marks are nothing, broken bytes U+FFFD."""
    return b"".join([_BYTES[token_id] for token_id in token_ids]).decode(errors="replace")


class Speaker:
    """Says what comes next after a growing sequence of tokens.

    Args:
        seed: Mixed into every choice; None when greedy.
        end_every: One token in so many ends the answer; 0 is never.
    """

    def __init__(self, *, seed: int | None, end_every: int) -> None:
        self._heard = hashlib.blake2b(b"" if seed is None else seed.to_bytes(8, "little"))
        self._last: tuple[int, ...] = ()
        self._end_every = end_every

    def hear(self, token_ids: Sequence[int]) -> None:
        """Takes the next tokens of the sequence in."""
        self._heard.update(token_bytes(token_ids))
        self._last = (*self._last, *token_ids[-3:])[-3:]

    def say(self) -> int:
        """What follows, which is heard as well."""
        token_id = self.next_token()
        self._heard.update(token_id.to_bytes(4, "little"))
        self._last = (*self._last[-2:], token_id)
        return token_id

    def next_token(self) -> int:
        """What follows the tokens heard so far. A character once begun is completed."""
        if self._last and self._last[-1] < _FIRST_MARK:
            for length in (3, 2, 1):
                following = _NEXT_BYTE.get(self._last[-length:])
                if following is not None:
                    return following
        choice = int.from_bytes(self._heard.digest()[:8], "little")
        choice, remainder = divmod(choice, self._end_every or 1)
        if self._end_every and not remainder:
            return END
        choice, kind = divmod(choice, 24)
        if kind == 0:
            return _LONG_CHARACTERS[choice % len(_LONG_CHARACTERS)][0]
        if kind == 1:
            return b".,;!\n"[choice % 5]
        return _SPOKEN[choice % len(_SPOKEN)]


def text_tokens(text: str) -> list[int]:
    """The tokens of a text, by words: a space begins a token, and is part of one only there.

    So those of a text that is cut before a space are those of its parts.

    Raises:
        InvalidRequest: For half a surrogate pair.
    """
    first, *words = text.split(" ")
    tokens = _encode_word(first)
    known = list(map(_AFTER_SPACE.get, words, repeat(_UNKNOWN)))
    # Most words are known: only the others are looked at one by one.
    done = 0
    for _ in range(known.count(_UNKNOWN)):
        at = known.index(_UNKNOWN, done)
        tokens += known[done:at]
        word = " " + words[at]
        tokens += _encode_short(word) if len(word) <= _SHORT_CHARS else _encode_word(word)
        done = at + 1
    return tokens + known[done:]


def _encode_word(word: str) -> list[int]:
    tokens: list[int] = []
    for part in _PARTS.findall(word):
        token_id = _IDS.get(part)
        if token_id is not None:
            tokens.append(token_id)
        else:
            tokens.extend(_encode_part(part))
    return tokens


@lru_cache(maxsize=_WORDS_KEPT)
def _encode_short(word: str) -> tuple[int, ...]:
    return tuple(_encode_word(word))


def _encode_part(part: str) -> list[int]:
    """An unknown word by pairs of letters, its odd last one and other characters by bytes."""
    pairs = [part[at : at + 2] for at in range(0, len(part), 2)]
    known = list(map(_IDS.get, pairs))
    if None not in known:
        return cast("list[int]", known)
    tokens: list[int] = []
    for pair, token_id in zip(pairs, known, strict=True):
        if token_id is not None:
            tokens.append(token_id)
            continue
        try:
            tokens.extend(pair.encode())
        except UnicodeEncodeError as error:
            raise InvalidRequest("text with half a surrogate pair") from error
    return tokens
