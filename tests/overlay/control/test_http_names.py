"""What the issuer's desk says and does about HTTP names, without a peer."""

from __future__ import annotations

from pathlib import Path

import pytest

from overlay.control.http_name_messages import ChangeHttpNames, HttpNamesOfHost, ListHttpNames
from overlay.control.http_names import http_names
from overlay.founding import found_overlay
from overlay.home import Home
from overlay.identity import load_identity
from overlay.issuer import IssuerDesk
from overlay.system import SystemClock, SystemEntropy
from security.errors import Revoked, UnknownHost

STRANGER = "12D3KooWGC6TvWhfapngX6wvJHMYvKpDMXPb3ZnCZ6dMoaMtimQ5"


def test_names_of_a_revoked_host_are_shown_and_taken_back_and_no_more_are_granted(
    tmp_path: Path,
) -> None:
    home, clock, entropy = Home.create(tmp_path / "home"), SystemClock(), SystemEntropy()
    found_overlay(home, ["default"], clock, entropy)
    identity = load_identity(home)
    desk, peer = IssuerDesk(home, identity, clock, entropy, lambda _: None), identity.peer_id
    http_names(ChangeHttpNames(peer=peer, names=["a.example", "b.example"]), desk)
    desk.revoke(peer, "")
    with pytest.raises(Revoked):
        http_names(ChangeHttpNames(peer=peer, names=["c.example"]), desk)
    http_names(ChangeHttpNames(peer=peer, names=["a.example"], remove=True), desk)
    for command in (ListHttpNames(peer=peer), ListHttpNames()):
        assert http_names(command, desk).hosts == [
            HttpNamesOfHost(peer_id=peer, names=["b.example"])
        ]
    with pytest.raises(UnknownHost):
        http_names(ListHttpNames(peer=STRANGER), desk)
