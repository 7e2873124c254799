"""A second reader of the wire forms, written from ``docs/protocol.md`` and from nothing else.

It imports nothing of the product: what it cannot read by the document's words, another
implementation could not read either. msgpack is read here by its own specification.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

Value = Any
"""msgpack has values of every type."""

B58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class Unreadable(Exception):
    """Bytes that the document does not describe."""


# -- msgpack


class Pack:
    """The values in a run of bytes, in order."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        part = self.data[self.at : self.at + size]
        if len(part) < size:
            raise Unreadable("cut off")
        self.at += size
        return part

    def number(self, form: str) -> Value:
        return struct.unpack(f">{form}", self.take(struct.calcsize(form)))[0]

    def value(self) -> Value:
        first = self.take(1)[0]
        if first < 0x80:
            return first
        if first >= 0xE0:
            return first - 256
        if first < 0x90:
            return self.map(first & 15)
        if first < 0xA0:
            return self.array(first & 15)
        if first < 0xC0:
            return self.take(first & 31).decode()
        return self.long(first)

    def long(self, first: int) -> Value:
        if first in CONSTANTS:
            return CONSTANTS[first]
        if first in NUMBERS:
            return self.number(NUMBERS[first])
        if first in LENGTHS:
            kind, form = LENGTHS[first]
            size = self.number(form)
            match kind:
                case "bin":
                    return self.take(size)
                case "str":
                    return self.take(size).decode()
                case "array":
                    return self.array(size)
                case _:
                    return self.map(size)
        raise Unreadable(f"msgpack {first:#x}")

    def array(self, size: int) -> list[Value]:
        return [self.value() for _ in range(size)]

    def map(self, size: int) -> dict[str, Value]:
        return {self.value(): self.value() for _ in range(size)}


CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
NUMBERS = {0xCA: "f", 0xCB: "d"} | dict(zip(range(0xCC, 0xD4), "BHIQbhiq", strict=True))
LENGTHS = {0xC4: ("bin", "B"), 0xC5: ("bin", "H"), 0xC6: ("bin", "I")}
LENGTHS |= {0xD9: ("str", "B"), 0xDA: ("str", "H"), 0xDB: ("str", "I")}
LENGTHS |= {0xDC: ("array", "H"), 0xDD: ("array", "I"), 0xDE: ("map", "H"), 0xDF: ("map", "I")}


def whole(data: bytes) -> Value:
    """The one value that the bytes are; bytes after it are malformed."""
    pack = Pack(data)
    value = pack.value()
    if pack.at != len(data):
        raise Unreadable("bytes after the value")
    return value


def tagged(data: bytes, tag: str) -> dict[str, Value]:
    """A map of this type."""
    value = whole(data)
    if not isinstance(value, dict) or value.get("type") != tag:
        raise Unreadable(f"no map of type {tag}")
    return value


def shortest(items: list[Value]) -> bytes:
    """The one spelling of the array around a signed object: shortest forms."""
    out = bytes([0x90 | len(items)])
    for item in items:
        if isinstance(item, int):
            out += bytes([item])
        elif isinstance(item, str):
            out += bytes([0xA0 | len(item.encode())]) + item.encode()
        elif len(item) < 1 << 8:
            out += struct.pack(">BB", 0xC4, len(item)) + item
        elif len(item) < 1 << 16:
            out += struct.pack(">BH", 0xC5, len(item)) + item
        else:
            out += struct.pack(">BI", 0xC6, len(item)) + item
    return out


# -- conventions


def derive(secret: bytes, label: str, context: bytes, size: int = 32) -> bytes:
    """KDF of the conventions."""
    info = f"rhizome/{label}/v1".encode() + b"\0" + context
    return HKDF(SHA256(), size, None, info).derive(secret)


def peer_id(key: bytes) -> str:
    """libp2p's text of an Ed25519 key: base58 of 00 24 08 01 12 20 and the key."""
    raw = bytes.fromhex("002408011220") + key
    number, text = int.from_bytes(raw, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = B58[digit] + text
    return "1" * (len(raw) - len(raw.lstrip(b"\0"))) + text


# -- frames and HELLO


@dataclass(frozen=True)
class Frame:
    kind: int
    flags: int
    stream: int
    payload: bytes


def frames(data: bytes) -> list[Frame]:
    """Header of 10 bytes: length u32, stream u32, kind u8, flags u8."""
    found = []
    while data:
        length, stream, kind, flags = struct.unpack(">IIBB", data[:10])
        found.append(Frame(kind, flags, stream, data[10 : 10 + length]))
        if len(data) < 10 + length:
            raise Unreadable("cut off")
        data = data[10 + length :]
    return found


def opening(payload: bytes) -> tuple[int, str, bytes]:
    """Deadline in ms, protocol id, first part of the opening message."""
    deadline_ms, size = struct.unpack(">IB", payload[:5])
    return deadline_ms, payload[5 : 5 + size].decode("ascii"), payload[5 + size :]


def goaway(payload: bytes) -> tuple[int, int, str]:
    """Code, highest stream id looked at, reason."""
    code, last = struct.unpack(">II", payload[:8])
    return code, last, payload[8:].decode()


def hello(frame: Frame) -> dict[str, Value]:
    if (frame.kind, frame.stream, frame.flags) != (1, 0, 0) or len(frame.payload) > 2048:
        raise Unreadable("no HELLO")
    return {"version_min": 1, "version_max": 1, "features": 0, "zone": None} | tagged(
        frame.payload, "hello"
    )


# -- signed objects


@dataclass(frozen=True)
class Signed:
    overlay: bytes
    kind: str
    signer: bytes
    body: bytes


def signed(data: bytes, issuer_key: bytes | None = None) -> Signed:
    """A signed object, checked with the host's key that it names or with the issuer's."""
    items = whole(data)
    if shortest(items) != data:
        raise Unreadable("another spelling")
    v, overlay, kind, signer, body, signature = items
    if v != 1 or len(overlay) != 16 or len(signer) != (32 if issuer_key is None else 16):
        raise Unreadable("another version or signer")
    told = f"rhizome/{kind}/v1".encode() + b"\0" + overlay + bytes([len(signer)]) + signer + body
    Ed25519PublicKey.from_public_bytes(issuer_key or signer).verify(signature, told)
    return Signed(overlay, kind, signer, body)


# -- tenants


def sealing_key(epoch_key: bytes, context: bytes) -> bytes:
    return derive(epoch_key, "seal", context)


def opened(key: bytes, envelope: bytes, header: bytes) -> tuple[int, int, bytes]:
    """Epoch, counter and plain text of an envelope."""
    version, epoch, counter, commitment = struct.unpack(">BIQ8s", envelope[:21])
    if version != 1 or commitment != hmac.digest(key, b"rhizome/commit/v1\0", "sha256")[:8]:
        raise Unreadable("another version or key")
    nonce = counter.to_bytes(12, "big")
    return (
        epoch,
        counter,
        ChaCha20Poly1305(key).decrypt(nonce, envelope[21:], envelope[:21] + header),
    )


def tag(tag_key: bytes, chain_hash: bytes) -> int:
    """The first 6 bytes of AES-128, little-endian."""
    encryptor = Cipher(algorithms.AES(tag_key), modes.ECB()).encryptor()  # noqa: S305 - one block
    return int.from_bytes(encryptor.update(chain_hash)[:6], "little")


def tags(data: bytes) -> list[int]:
    """On the wire 6 bytes big-endian each, ascending."""
    return [int.from_bytes(data[at : at + 6], "big") for at in range(0, len(data), 6)]


def stream_id(epoch_key: bytes, tenant: bytes, origin: bytes, generation: int) -> bytes:
    key = derive(epoch_key, "stream", tenant)
    return hmac.digest(key, origin + generation.to_bytes(8, "big"), "sha256")[:8]


def ticket(text: str) -> list[Value]:
    """The content of a ticket."""
    letters = "".join(text.split()).upper()
    if not letters.startswith("RHZ1"):
        raise Unreadable("no ticket of this version")
    body = letters[4:]
    framed = base64.b32decode(body + "=" * (-len(body) % 8))
    size = int.from_bytes(framed[:2], "big")
    content, checksum = framed[2 : 2 + size], framed[2 + size :]
    if hashlib.sha256(b"rhizome/ticket-checksum/v1\0" + content).digest()[:5] != checksum:
        raise Unreadable("mistyped")
    return whole(content)
