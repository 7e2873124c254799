"""Commands about the names that certificates of hosts' HTTP faces may have, and the reply."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Name = Annotated[str, Meta(max_length=256)]


class ChangeHttpNames(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    tag="http-names-change",
):
    """A host may have these names from now on; ``remove``: not any more."""

    peer: Name
    names: Annotated[list[Name], Meta(min_length=1, max_length=64)]
    remove: bool = False


class ListHttpNames(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="http-names"
):
    """Which hosts may have which names? ``peer``: that one alone; empty: all that may have some."""

    peer: Name = ""


HttpNameCommand = ChangeHttpNames | ListHttpNames


class HttpNamesOfHost(msgspec.Struct, frozen=True, kw_only=True):
    """One host's names."""

    peer_id: str
    names: list[str]


class HttpNamesReply(msgspec.Struct, frozen=True, kw_only=True, tag="http-names"):
    """Hosts by PeerId."""

    hosts: list[HttpNamesOfHost]
