"""Signatures that many simulated peers check, checked once.

Whether a signature is good is a function of key, message and signature alone, so peers in one
process can share the answer: every distinct one is still checked by the real code, and a forged one
is refused each time. Signing is not touched.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from security import certificate, signed

KEPT = 50_000
"""Good answers of one check that are remembered; then it begins anew."""

_UNKNOWN = object()

Check = Callable[..., Any]


def _with_key(public: Ed25519PublicKey, what: Hashable) -> Hashable:
    return public.public_bytes_raw(), what


CHECKS: tuple[tuple[Any, str, Callable[..., Hashable]], ...] = (
    (signed, "_verify_peer", lambda *what: what),
    (signed, "_check", _with_key),
    (certificate, "check_signature", lambda what, public: _with_key(public, what)),
    (certificate, "parse_leaf", lambda der: der),
)
"""Module and name of each check, and what tells its calls apart: its arguments. It is a function of
them and of nothing else, and raises where what it checks is not good."""


@contextmanager
def checked_once() -> Iterator[None]:
    """While the block lasts, what was good is not checked again."""
    real = [getattr(module, name) for module, name, _ in CHECKS]
    for (module, name, key), check in zip(CHECKS, real, strict=True):
        setattr(module, name, _remembering(check, key))
    try:
        yield
    finally:
        for (module, name, _), check in zip(CHECKS, real, strict=True):
            setattr(module, name, check)


def _remembering(check: Check, key: Callable[..., Hashable]) -> Check:
    """The check, which answers from memory where the same was good before."""
    good: dict[Hashable, Any] = {}

    def check_once(*asked: Any) -> Any:
        what = key(*asked)
        answer = good.get(what, _UNKNOWN)
        if answer is _UNKNOWN:
            answer = check(*asked)
            if len(good) >= KEPT:
                good.clear()
            good[what] = answer
        return answer

    return check_once
