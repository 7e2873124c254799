"""Secrets that are planted, the forms in which they could leak, and where to look for them."""

from __future__ import annotations

import base64
import json
import stat
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from inference.toy_language import text_tokens
from overlay.home import HomeFile
from security.authority_state import authority_from_bytes
from security.keys import HostKeys

TENANT = "heron-tenant-7f3a9c"
WORD = "zanzib\u00e4r-canary-4c1f0e"
"""In every prompt of that tenant. Not ASCII alone: JSON may write it in another way."""

TOKEN_NAME = "gannet-token-2b8d"

KEPT_SECRET = {HomeFile.AUTHORITY.value, HomeFile.HOST_KEYS.value}
"""Files of a home that have to hold secrets; each of mode 0600."""

OWNERS_LINE = b"overlay    "
"""How the one line begins that a starting peer shows to its owner with tenants' names in it."""


@dataclass
class Planted:
    """What must appear nowhere, by what it is."""

    secrets: dict[str, bytes] = field(default_factory=dict)

    def plant(self, name: str, secret: str | bytes) -> None:
        raw = secret.encode() if isinstance(secret, str) else secret
        assert len(raw) >= 12, "a short one is found by chance"
        self.secrets[name] = raw

    def plant_token(self, name: str, token: str) -> None:
        """A token, and its signature: what is left of it says nothing that is secret."""
        self.plant(name, token)
        self.plant(f"{name}'s signature", token.rpartition(".")[2])

    def plant_keys(self, homes: list[Path]) -> None:
        """Every key that the homes hold."""
        for home in homes:
            keys = HostKeys.from_bytes((home / HomeFile.HOST_KEYS.value).read_bytes())
            self.plant(f"{home.name}'s identity key", keys.identity.private_bytes_raw())
            self.plant(f"{home.name}'s sealing key", keys.sealing.private_bytes_raw())
        state = (homes[0] / HomeFile.AUTHORITY.value).read_bytes()
        authority = authority_from_bytes(state)
        self.plant("the root key", authority.root.private.private_bytes_raw())
        self.plant("the issuer's key", authority.issuer.private.private_bytes_raw())
        for kept in authority.tenants.values():
            name = kept.content.name
            self.plant(f"{name}'s epoch key", kept.content.epoch_key)
            self.plant(f"{name}'s chain secret", kept.content.chain_secret)

    def found_in(self, data: bytes) -> list[str]:
        """Which of them the bytes hold, and in what form."""
        return [
            f"{name} as {form}"
            for name, secret in self.secrets.items()
            for form, spelled in forms_of(secret)
            if spelled in data
        ]


def forms_of(secret: bytes) -> Iterator[tuple[str, bytes]]:
    """The forms in which bytes get into text."""
    yield "itself", secret
    yield "hex", secret.hex().encode()
    yield "HEX", secret.hex().upper().encode()
    for shift in range(3):
        # Of what stands among other bytes the middle is always spelled in one of three ways.
        encoded = base64.b64encode(bytes(shift) + secret)[4:-4]
        yield "base64", encoded
        yield "base64url", encoded.replace(b"+", b"-").replace(b"/", b"_")
    yield "percent", urllib.parse.quote(secret).encode()
    yield "repr", repr(secret)[2:-1].encode()
    try:
        text = secret.decode()
    except UnicodeDecodeError:
        return
    yield "JSON", json.dumps(text)[1:-1].encode()
    yield "UTF-16", text.encode("utf-16-le")


def token_forms(text: str) -> Iterator[tuple[str, bytes]]:
    """A text's tokens as numbers in a list."""
    ids = text_tokens(text)
    assert len(ids) >= 8
    yield "token ids in text", ", ".join(map(str, ids)).encode()
    yield "token ids in JSON", json.dumps(ids, separators=(",", ":"))[1:-1].encode()
    yield "token ids in msgpack", b"".join(map(msgspec.msgpack.encode, ids))


def files_under(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """Every file but those that have to hold secrets, which are checked for their mode."""
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        if path.name in KEPT_SECRET:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
            continue
        data = path.read_bytes()
        if path.suffix == ".log":
            lines = [line for line in data.split(b"\n") if not line.startswith(OWNERS_LINE)]
            data = b"\n".join(lines)
        yield path, data
