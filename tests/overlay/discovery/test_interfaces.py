"""Which interfaces are used, on made-up lists; the machine's own are only listed."""

from __future__ import annotations

import pytest

from overlay.address import Address, Endpoint
from overlay.config import PeerConfig
from overlay.discovery.interfaces import (
    Interface,
    addresses_of,
    advertised_addresses,
    beyond_link,
    choose,
    hosts_of,
    list_interfaces,
    listen_addresses,
)
from overlay.discovery.mdns import multicast_hosts
from overlay.errors import ConfigError

LO = Interface(name="lo", hosts=("127.0.0.1", "::1"))
ETH = Interface(name="eth0", hosts=("192.168.1.5", "fd00::5", "fe80::5%eth0"))
WLAN = Interface(name="wlp3s0", hosts=("10.1.2.3",))
PUBLIC = Interface(name="eth1", hosts=("203.0.113.7", "2001:db8::7"))
MIXED = Interface(name="enp5s0", hosts=("2001:db8::8", "fe80::8%enp5s0", "172.20.0.8"))


def names(*interfaces: Interface, named: tuple[str, ...] = ()) -> list[str]:
    return [each.name for each in choose(interfaces, named)]


def test_private_lan_interfaces_are_taken_with_ipv4_and_ipv6() -> None:
    assert choose([LO, ETH, WLAN, PUBLIC], ()) == (ETH, WLAN)


@pytest.mark.parametrize(
    "name",
    [
        *("lo", "lo0", "veth12ab", "br-4f2c", "br0", "docker0", "virbr0", "virbr0-nic"),
        *("tun0", "tap3", "wg0", "utun4", "tailscale0", "zt7nnig", "ppp0", "cni0", "flannel.1"),
        *("cali1234", "lxcbr0", "lxdbr0", "vmnet8", "vboxnet0", "podman1", "bridge100", "awdl0"),
    ],
)
def test_loopback_bridges_virtual_pairs_and_tunnels_are_left_out_unless_named(name: str) -> None:
    virtual = Interface(name=name, hosts=("172.17.0.1",))
    assert names(ETH, virtual) == ["eth0"]
    assert names(ETH, virtual, named=(name,)) == [name]


@pytest.mark.parametrize("name", ["eth0", "enp0s31f6", "wlan0", "en0", "eno1", "bond0", "team0"])
def test_the_lan_of_a_host_container_or_namespace_is_taken(name: str) -> None:
    assert names(LO, Interface(name=name, hosts=("10.77.0.2",))) == [name]


def test_only_private_addresses_of_a_lan_interface_are_taken() -> None:
    (chosen,) = choose([MIXED, PUBLIC], ())
    assert chosen.hosts == ("fe80::8%enp5s0", "172.20.0.8")


def test_a_named_interface_is_taken_with_all_its_addresses() -> None:
    assert choose([LO, ETH, MIXED, PUBLIC], ("eth1", "enp5s0", "eth1")) == (PUBLIC, MIXED)


def test_lo_names_the_loopback_interface_on_every_platform() -> None:
    lo0 = Interface(name="lo0", hosts=("127.0.0.1", "::1", "fe80::1%lo0"))
    assert choose([ETH, lo0], ("lo",)) == (lo0,)


def test_loopback_under_another_name_is_no_lan() -> None:
    odd = Interface(name="loop", hosts=("127.0.0.1",))
    assert names(ETH, odd) == ["eth0"]


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(
        ConfigError, match="no interface 'eht0' with an address; there are: lo, eth0"
    ):
        choose([LO, ETH], ("eht0",))


@pytest.mark.parametrize("found", [(), (LO,), (LO, PUBLIC)])
def test_no_lan_at_all_says_what_to_do(found: tuple[Interface, ...]) -> None:
    with pytest.raises(ConfigError, match="name one with --interface, or use --interface lo"):
        choose(found, ())


def test_addresses_are_in_order_and_once() -> None:
    again = Interface(name="eth0:1", hosts=("192.168.1.5", "192.168.1.6"))
    assert hosts_of([ETH, again]) == ("192.168.1.5", "fd00::5", "fe80::5%eth0", "192.168.1.6")
    assert addresses_of([WLAN], 7401) == (Address("10.1.2.3", 7401),)


def test_this_machine_has_a_loopback_interface() -> None:
    (lo,) = choose(list_interfaces(), ("lo",))
    assert "127.0.0.1" in lo.hosts
    assert lo.is_loopback


def test_multicast_uses_one_address_of_each_family_and_no_ipv6_loopback() -> None:
    two = Interface(name="eth2", hosts=("10.0.0.1", "10.0.0.2", "fd00::1", "fe80::1%eth2"))
    assert multicast_hosts([LO, two]) == ("127.0.0.1", "10.0.0.1", "fe80::1")
    assert multicast_hosts([Interface(name="x", hosts=("fd00::1",))]) == ("fd00::1",)
    assert multicast_hosts([Interface(name="lo", hosts=("::1",))]) == ()


def test_we_listen_on_the_interfaces_unless_told_where() -> None:
    assert listen_addresses(PeerConfig(port=0), [WLAN]) == (Address("10.1.2.3", 0),)
    told = PeerConfig(listen=(Endpoint("10.9.9.9", None), Endpoint("::", 80)))
    assert listen_addresses(told, [WLAN]) == (Address("10.9.9.9", 7401), Address("::", 80))


def test_others_are_told_where_we_listen_unless_told_otherwise() -> None:
    bound = (Address("192.168.1.5", 40001), Address("fd00::5", 40002))
    assert advertised_addresses(PeerConfig(), bound, [ETH]) == bound
    nat = PeerConfig(advertise=(Endpoint("10.0.0.1", None), Endpoint("10.0.0.2", 99)))
    assert advertised_addresses(nat, bound, [ETH]) == (
        Address("10.0.0.1", 40001),
        Address("10.0.0.2", 99),
    )


def test_nobody_is_told_an_address_that_means_all() -> None:
    bound = (Address("::", 1), Address("0.0.0.0", 2))  # noqa: S104 - the case under test
    assert advertised_addresses(PeerConfig(), bound, [ETH]) == (
        Address("fd00::5", 1),
        Address("fe80::5%eth0", 1),
        Address("192.168.1.5", 2),
    )


def test_link_local_addresses_stay_on_their_link() -> None:
    assert beyond_link(addresses_of([ETH], 1)) == (Address("192.168.1.5", 1), Address("fd00::5", 1))
