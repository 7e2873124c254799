"""Tenants: the boundary inside which cache knowledge is shared.

A TenantId is 32 hex digits that say nothing: they commit to the issuer that keeps the tenant (its
steward) and to a random number, so that members can check that a roster was signed by the one
issuer that may. Names are for people and stand only where members can read them.
"""

from __future__ import annotations

import hashlib
import re
from typing import NewType

from security.certificate import IssuerId
from security.errors import LimitExceeded

TenantId = NewType("TenantId", str)
TenantName = NewType("TenantName", str)

NONCE_BYTES = 16
NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
ID_PATTERN = r"^[0-9a-f]{32}$"


def tenant_id_of(steward: IssuerId, nonce: bytes) -> TenantId:
    """The id of the tenant that ``steward`` made with this random number."""
    material = b"rhizome/tenant/v1\0" + bytes.fromhex(steward) + nonce
    return TenantId(hashlib.sha256(material).digest()[:16].hex())


def tenant_name(text: str) -> TenantName:
    """Checks a name that a person chose.

    Raises:
        LimitExceeded: when it is empty, too long, or has other characters than letters, digits,
            dots, hyphens and underscores.
    """
    if not re.fullmatch(NAME_PATTERN, text):
        raise LimitExceeded(
            "a tenant name has 1 to 64 letters, digits, dots, hyphens and underscores, "
            "and begins with a letter or digit"
        )
    return TenantName(text)
