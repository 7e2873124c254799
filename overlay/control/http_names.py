"""Answers the commands about HTTP names: what the issuer has granted to which host."""

from __future__ import annotations

from dataclasses import replace

from overlay.control.http_name_messages import (
    ChangeHttpNames,
    HttpNameCommand,
    HttpNamesOfHost,
    HttpNamesReply,
)
from overlay.issuer import IssuerDesk
from overlay.steward import peer_of
from security.errors import UnknownHost
from security.hosts import with_http_names


def http_names(command: HttpNameCommand, desk: IssuerDesk) -> HttpNamesReply:
    """Does what a command says; a change is stored before it is told.

    Raises:
        ConfigError: When that is no PeerId.
        SecurityError: When no such host is enrolled, one that is revoked is to be granted more, or
            a name cannot be its own.
        StorageError: When it cannot be stored; then nothing has changed.
    """
    if isinstance(command, ChangeHttpNames):
        change(desk, command)
    hosts = desk.authority.hosts
    if command.peer:
        shown = [peer_of(command.peer)]
        if shown[0] not in hosts:
            raise UnknownHost("this issuer has enrolled no such host")
    else:
        shown = sorted(peer_id for peer_id, host in hosts.items() if host.http_names)
    return HttpNamesReply(
        hosts=[HttpNamesOfHost(peer_id=each, names=list(hosts[each].http_names)) for each in shown]
    )


def change(desk: IssuerDesk, command: ChangeHttpNames) -> None:
    """Grants a host names, or takes them back. Raises as ``http_names``."""
    authority, peer_id = desk.authority, peer_of(command.peer)
    if not command.remove:
        authority.host(peer_id)
    hosts = with_http_names(authority.hosts, peer_id, command.names, remove=command.remove)
    desk.store(replace(authority, hosts=hosts), [])
