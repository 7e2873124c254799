"""An overlay, hosts and tenants for the tests of security, all from seeded keys."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from security.authority import Authority
from security.certificate import (
    IssuerKey,
    RootKey,
    dns_name_of,
    issue_leaf,
    make_issuer,
    make_root,
)
from security.epoch import TenantEpoch, open_epoch
from security.keys import HostKeys
from security.revocation import RevocationSet, make_revocation, open_revocation
from security.trust import Trust

NOW_S = 1_800_000_000.0
DAY_S = 86_400
NOTHING = RevocationSet()


def seeded(seed: int) -> Callable[[int], bytes]:
    return random.Random(seed).randbytes


class Overlay:
    """A root and an issuer, with their private keys: an adversary owns another one."""

    def __init__(self, seed: int = 1) -> None:
        self.secret = seeded(seed)
        self.root: RootKey = make_root(self.secret, NOW_S)
        self.issuer: IssuerKey = make_issuer(self.root, self.secret, NOW_S)
        self.trust = Trust.of(self.root.der, [self.issuer.der])
        self.overlay_id = self.root.overlay_id

    def host(self) -> HostKeys:
        return HostKeys.generate(self.secret)

    def leaf(self, keys: HostKeys, now_s: float = NOW_S) -> bytes:
        return issue_leaf(self.issuer, keys.peer_id, self.secret, now_s)

    def revoked(self, *ids: str) -> RevocationSet:
        return RevocationSet.of(
            open_revocation(make_revocation(self.issuer, one, NOW_S), self.trust) for one in ids
        )


@dataclass(frozen=True, kw_only=True)
class Member:
    """A host on the roster of tenant ``alpha``, as it sees itself."""

    authority: Authority
    keys: HostKeys
    leaf: bytes
    epoch_object: bytes
    tenant: TenantEpoch


def member(seed: int = 1) -> Member:
    """An overlay with the tenants alpha and beta, and one host that belongs to alpha alone."""
    secret = seeded(seed)
    authority = Authority.create(secret, NOW_S, ["alpha", "beta"])
    keys = HostKeys.generate(secret)
    authority, grant = authority.enrol(
        keys.peer_id, keys.sealing_public, [authority.tenant_id("alpha")], secret, NOW_S
    )
    opened = open_epoch(grant.epochs[0], authority.trust, keys, NOW_S, NOTHING)
    assert opened is not None
    return Member(
        authority=authority,
        keys=keys,
        leaf=grant.leaf,
        epoch_object=grant.epochs[0],
        tenant=opened.value,
    )


def forged_leaf(
    signer: IssuerKey,
    keys: HostKeys,
    *,
    uri: str = "",
    dns: str = "",
    ca: bool = False,
    uses: tuple[x509.ObjectIdentifier, ...] = (
        ExtendedKeyUsageOID.CLIENT_AUTH,
        ExtendedKeyUsageOID.SERVER_AUTH,
    ),
    authority: str = "",
    more_names: tuple[x509.GeneralName, ...] = (),
    now_s: float = NOW_S,
) -> bytes:
    """A leaf by an adversary that holds ``signer``, wrong in one thing."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    by = f"rhizome issuer {signer.issuer_id}"  # OpenSSL looks issuers up by name
    start = dt.datetime.fromtimestamp(now_s - 60, dt.UTC)
    names = [
        x509.UniformResourceIdentifier(uri or f"spiffe://{signer.overlay_id}/host/{keys.peer_id}"),
        x509.DNSName(dns or dns_name_of(keys.peer_id)),
        *more_names,
    ]
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, by)]))
        .public_key(keys.identity.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + dt.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.ExtendedKeyUsage(list(uses)), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier(bytes.fromhex(authority or signer.issuer_id), None, None),
            critical=False,
        )
    )
    return builder.sign(signer.private, None).public_bytes(Encoding.DER)
