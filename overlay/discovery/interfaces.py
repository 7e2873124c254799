"""Which network interfaces and addresses a peer uses.

Rules: private LAN ones unless named, IPv4 and IPv6. An interface is told by its name, because a
container's or namespace's ``eth0`` is a virtual device too and still its LAN: loopback, bridges,
virtual pairs, tunnels and VPNs are left out by name. Of the others only private and link-local
addresses are taken. An interface that the operator names is taken with all its addresses.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import ifaddr

from overlay.address import Address
from overlay.config import PeerConfig
from overlay.errors import ConfigError

LOOPBACK = "lo"
"""Names the loopback interface on every platform, whatever it is called there."""

NOT_LAN = (
    "lo",
    "lo[0-9]*",
    # bridges and virtual pairs of containers and virtual machines
    *("veth*", "br-*", "br[0-9]*", "bridge*", "docker*", "podman*", "virbr*", "vnet*", "vmnet*"),
    *("vboxnet*", "lxc*", "lxd*", "incus*", "cni*", "cali*", "flannel*", "cilium*", "kube*"),
    *("dummy*", "ifb*", "nodelocaldns*", "hvc*", "vEthernet*"),
    # tunnels and VPNs
    *("tun*", "tap*", "wg*", "utun*", "ppp*", "ipsec*", "sit*", "gre*", "ip6*", "vxlan*"),
    *("tailscale*", "zt*", "nebula*", "gif*", "stf*", "vti*", "teql*", "erspan*"),
    # device-to-device radio links of phones and laptops
    *("awdl*", "llw*", "p2p*", "ap[0-9]*", "anpi*"),
)

_PRIVATE = tuple(
    ipaddress.ip_network(network)
    for network in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "169.254.0.0/16",
        "fc00::/7",
        "fe80::/10",
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A network interface: its name and its addresses, IPv6 link-local ones with ``%name``."""

    name: str
    hosts: tuple[str, ...]

    @property
    def is_loopback(self) -> bool:
        return any(ipaddress.ip_address(host).is_loopback for host in self.hosts)


def choose(found: Sequence[Interface], names: Sequence[str]) -> tuple[Interface, ...]:
    """The interfaces to use, each with the addresses to use of it.

    Args:
        found: what this host has.
        names: what the operator named; empty means the private LAN ones.

    Raises:
        ConfigError: when a named one does not exist or has no address, or nothing is left.
    """
    if names:
        return tuple(_named(found, name) for name in dict.fromkeys(names))
    chosen = []
    for interface in found:
        hosts = tuple(host for host in interface.hosts if _is_private(host))
        if hosts and _is_lan(interface):
            chosen.append(Interface(name=interface.name, hosts=hosts))
    if not chosen:
        raise ConfigError(
            f"no private LAN interface found (there are: {_listed(found)}): "
            "name one with --interface, or use --interface lo for this host alone"
        )
    return tuple(chosen)


def hosts_of(interfaces: Iterable[Interface]) -> tuple[str, ...]:
    """Every address of the interfaces, in their order, once."""
    return tuple(dict.fromkeys(host for each in interfaces for host in each.hosts))


def addresses_of(interfaces: Iterable[Interface], port: int) -> tuple[Address, ...]:
    """Every address of the interfaces with one port."""
    return tuple(Address(host, port) for host in hosts_of(interfaces))


def listen_addresses(config: PeerConfig, interfaces: Iterable[Interface]) -> tuple[Address, ...]:
    """Where to listen for peers: what ``listen`` says, else every address of the interfaces."""
    if config.listen:
        return tuple(dict.fromkeys(each.at(config.port) for each in config.listen))
    return addresses_of(interfaces, config.port)


def advertised_addresses(
    config: PeerConfig, bound: Sequence[Address], interfaces: Sequence[Interface]
) -> tuple[Address, ...]:
    """What to tell other peers: what ``advertise`` says, else what we listen on.

    Args:
        config: the peer's settings.
        bound: the addresses listened on, with the ports that were got; not empty.
        interfaces: stand in for an address that means all of them (``0.0.0.0``, ``::``).
    """
    if config.advertise:
        return tuple(dict.fromkeys(each.at(bound[0].port) for each in config.advertise))
    told = [each for address in bound for each in spelled_out(address, interfaces)]
    return tuple(dict.fromkeys(told))


def beyond_link(addresses: Iterable[Address]) -> tuple[Address, ...]:
    """Those that mean the same on another host, to be put in records and tickets.

    A link-local address does not: its scope is a name of this host's own. Multicast DNS carries
    those, because a receiver knows by which interface it heard them.
    """
    return tuple(each for each in addresses if not ipaddress.ip_address(each.host).is_link_local)


def spelled_out(address: Address, interfaces: Sequence[Interface]) -> tuple[Address, ...]:
    """The address, or those of the interfaces where it means all of its family."""
    host = ipaddress.ip_address(address.host)
    if not host.is_unspecified:
        return (address,)
    every = addresses_of(interfaces, address.port)
    return tuple(each for each in every if ipaddress.ip_address(each.host).version == host.version)


def list_interfaces() -> tuple[Interface, ...]:
    """The interfaces of this host that have addresses, sorted by name."""
    found = []
    for adapter in ifaddr.get_adapters():
        hosts = []
        for each in adapter.ips:
            if isinstance(each.ip, str):
                hosts.append(each.ip)
                continue
            host, _, scope = each.ip
            is_scoped = ipaddress.ip_address(host).is_link_local and scope
            hosts.append(f"{host}%{adapter.name}" if is_scoped else host)
        if hosts:
            found.append(Interface(name=adapter.name, hosts=tuple(hosts)))
    return tuple(sorted(found, key=lambda interface: interface.name))


def _named(found: Sequence[Interface], name: str) -> Interface:
    for interface in found:
        if interface.name == name or (name == LOOPBACK and interface.is_loopback):
            if not interface.hosts:
                raise ConfigError(f"interface {name} has no address")
            return interface
    raise ConfigError(f"no interface {name[:40]!r} with an address; there are: {_listed(found)}")


def _is_lan(interface: Interface) -> bool:
    if interface.is_loopback:
        return False
    return not any(fnmatch.fnmatchcase(interface.name, pattern) for pattern in NOT_LAN)


def _is_private(host: str) -> bool:
    address = ipaddress.ip_address(host.partition("%")[0])
    return any(address.version == each.version and address in each for each in _PRIVATE)


def _listed(found: Sequence[Interface]) -> str:
    return ", ".join(interface.name for interface in found) or "none"
