"""What is signed of an object: never its body alone."""

from __future__ import annotations


def message_of(overlay: bytes, kind: str, signer: bytes, body: bytes) -> bytes:
    """What a signature covers, of raw ids and bytes.

    So it holds for one kind of object, one overlay and one signer. Every part before the body has a
    fixed length or an end of its own.
    """
    return b"rhizome/" + kind.encode() + b"/v1\0" + overlay + bytes([len(signer)]) + signer + body
