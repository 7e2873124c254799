"""The certificates in OpenSSL's hands: TLS 1.3, both ends, over memory alone."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

import pytest

from security.certificate import (
    dns_name_of,
    issue_leaf,
    make_issuer,
    make_root,
    parse_leaf,
)
from security.keys import HostKeys
from security.peer_id import PeerId
from tests.security.world import DAY_S, seeded


class Overlay:
    """Valid now by the clock of OpenSSL, which takes no other."""

    def __init__(self, seed: int) -> None:
        self.secret = seeded(seed)
        self.now_s = time.time()
        self.root = make_root(self.secret, self.now_s)
        self.issuer = make_issuer(self.root, self.secret, self.now_s)

    def context(
        self, side: int, keys: HostKeys, folder: Path, *, age_s: float = 0, root: bytes = b""
    ) -> ssl.SSLContext:
        leaf = issue_leaf(self.issuer, keys.peer_id, self.secret, self.now_s - age_s)
        chain = keys.identity_pem().decode() + "".join(
            ssl.DER_cert_to_PEM_cert(der) for der in (leaf, self.issuer.der)
        )
        path = folder / f"{keys.peer_id}.pem"
        path.write_text(chain)
        context = ssl.SSLContext(side)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=root or self.root.der)
        context.load_cert_chain(path)
        return context


def shake(
    client: ssl.SSLContext, server: ssl.SSLContext, dialled: PeerId
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Carries bytes between two memory BIO pairs until both ends are done and have exchanged."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=dns_name_of(dialled)),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    pending = list(ends)
    for _ in range(10):
        for end in list(pending):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            pending.remove(end)
        if not pending:
            break
    for end in ends:
        end.write(b"up")
    for end in ends:
        assert end.read(2) == b"up"
    return ends


def test_two_hosts_of_an_overlay_prove_themselves_to_each_other(tmp_path: Path) -> None:
    overlay = Overlay(1)
    dialler, listener = HostKeys.generate(overlay.secret), HostKeys.generate(overlay.secret)
    ours, theirs = shake(
        overlay.context(ssl.PROTOCOL_TLS_CLIENT, dialler, tmp_path),
        overlay.context(ssl.PROTOCOL_TLS_SERVER, listener, tmp_path),
        listener.peer_id,
    )
    assert ours.version() == theirs.version() == "TLSv1.3"
    for end, far in ((ours, listener), (theirs, dialler)):
        der = end.getpeercert(binary_form=True)
        assert der is not None
        assert parse_leaf(der).peer_id == far.peer_id


def test_a_member_that_was_not_dialled_fails_in_the_handshake(tmp_path: Path) -> None:
    overlay = Overlay(1)
    dialler, listener, other = (HostKeys.generate(overlay.secret) for _ in range(3))
    with pytest.raises(ssl.SSLCertVerificationError, match=r"[Hh]ostname mismatch"):
        shake(
            overlay.context(ssl.PROTOCOL_TLS_CLIENT, dialler, tmp_path),
            overlay.context(ssl.PROTOCOL_TLS_SERVER, listener, tmp_path),
            other.peer_id,
        )


def test_a_host_of_another_overlay_fails_in_the_handshake(tmp_path: Path) -> None:
    overlay, foreign = Overlay(1), Overlay(2)
    dialler, listener = HostKeys.generate(overlay.secret), HostKeys.generate(foreign.secret)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(
            overlay.context(ssl.PROTOCOL_TLS_CLIENT, dialler, tmp_path),
            foreign.context(ssl.PROTOCOL_TLS_SERVER, listener, tmp_path),
            listener.peer_id,
        )
    # And the other way round: we listen, and a stranger that trusts us dials.
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(
            foreign.context(ssl.PROTOCOL_TLS_CLIENT, listener, tmp_path, root=overlay.root.der),
            overlay.context(ssl.PROTOCOL_TLS_SERVER, dialler, tmp_path),
            dialler.peer_id,
        )


def test_an_expired_host_fails_in_the_handshake(tmp_path: Path) -> None:
    overlay = Overlay(1)
    dialler, listener = HostKeys.generate(overlay.secret), HostKeys.generate(overlay.secret)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        shake(
            overlay.context(ssl.PROTOCOL_TLS_CLIENT, dialler, tmp_path),
            overlay.context(ssl.PROTOCOL_TLS_SERVER, listener, tmp_path, age_s=91 * DAY_S),
            listener.peer_id,
        )


def test_a_leaf_that_signs_another_fails_in_the_handshake(tmp_path: Path) -> None:
    overlay = Overlay(1)
    thief, dialler = HostKeys.generate(overlay.secret), HostKeys.generate(overlay.secret)
    leaf = issue_leaf(overlay.issuer, thief.peer_id, overlay.secret, overlay.now_s)
    issuer = type(overlay.issuer)(
        private=thief.identity,
        der=leaf,
        issuer_id=overlay.issuer.issuer_id,
        overlay_id=overlay.root.overlay_id,
    )
    pretending = Overlay(3)
    pretending.issuer = issuer
    victim = HostKeys.generate(overlay.secret)
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(
            overlay.context(ssl.PROTOCOL_TLS_CLIENT, dialler, tmp_path),
            pretending.context(ssl.PROTOCOL_TLS_SERVER, victim, tmp_path),
            victim.peer_id,
        )
