"""Signatures that many simulated peers check, checked once.

Whether a signature is good is a function of key, message and signature alone, so peers in one
process can share the answer: every distinct one is still checked by the real code, and a forged one
is refused each time. Signing is not touched.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from security import signed as objects

KEPT = 50_000
"""Good signatures that are remembered; then it begins anew."""


@contextmanager
def checked_once() -> Iterator[None]:
    """While the block lasts, a signature that was good is not checked again."""
    check = objects._check
    good: set[tuple[bytes, bytes, bytes, str, bytes, bytes]] = set()

    def check_once(public: Ed25519PublicKey, signed: objects.SignedObject) -> None:
        key = (
            public.public_bytes_raw(),
            signed.signature,
            signed.overlay,
            signed.kind,
            signed.signer,
            signed.body,
        )
        if key in good:
            return
        check(public, signed)
        if len(good) >= KEPT:
            good.clear()
        good.add(key)

    objects._check = check_once
    try:
        yield
    finally:
        objects._check = check
