"""The home folder of a simulated host that is its overlay's issuer."""

from __future__ import annotations

from pathlib import Path

from chaos.world import Host, World
from overlay.home import Home, HomeFile
from overlay.identity import store_identity
from security.authority import Authority
from security.authority_state import authority_to_bytes
from security.hosts import Grant


def issuer_home(
    folder: Path, world: World, host: Host, now_unix_s: float, authority: Authority | None = None
) -> Home:
    """Writes it as ``rhizome init`` does, with the issuer's state of the world or another one."""
    kept = authority or world.authority
    assert kept is not None
    home = Home.create(folder)
    home.write(HomeFile.AUTHORITY, authority_to_bytes(kept))
    own = host.identity
    granted = Grant(
        peer_id=own.peer_id,
        leaf=own.leaf,
        issuer=own.issuer,
        root=own.trust.roots.in_force[0],
        epochs=host.epochs,
    )
    store_identity(home, own.keys, granted, now_unix_s)
    return home
