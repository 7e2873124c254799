"""JSON from outside, as strictly as RFC 8259 means it: UTF-8, finite numbers, whole characters.

``json.loads`` alone guesses encodings, takes ``NaN`` and ``1e999``, and lets halves of surrogate
pairs through, which can be written to no client.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


class NotJson(ValueError):
    """It is none; the message says why without the content, ``where`` the character if known."""

    def __init__(self, why: str, where: int | None = None) -> None:
        super().__init__(why)
        self.where = where


Pairs = Callable[[list[tuple[str, Any]]], Any]
"""What an object is made of by; values are of every type."""


def read_json(data: bytes, object_pairs: Pairs | None = None) -> Any:  # JSON has every type
    """The value; halves of surrogate pairs may still be in it (:func:`check_characters`).

    Raises:
        NotJson: It is no JSON.
    """
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=object_pairs,
            parse_constant=_constant,
            parse_float=_finite,
        )
    except NotJson:
        raise
    except UnicodeDecodeError:
        raise NotJson("not UTF-8") from None
    except json.JSONDecodeError as error:
        raise NotJson("not valid JSON", error.pos) from None
    except (ValueError, RecursionError):
        raise NotJson("not valid JSON") from None
    return value


def check_characters(value: object, data: bytes) -> None:
    """Refuses a value with half a surrogate pair in it; ``data`` is what it was read from.

    Raises:
        NotJson: There is one.
    """
    if _SURROGATE.search(data):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except (UnicodeEncodeError, RecursionError):
            raise NotJson("it holds half of a surrogate pair, which is no character") from None


def _constant(name: str) -> NoReturn:
    raise NotJson(f"{name} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise NotJson("a number is too large")
    return number
