"""Addresses as others may write them."""

from __future__ import annotations

import pytest

from overlay.address import Address
from overlay.errors import ConfigError


@pytest.mark.parametrize(
    "text", ["192.0.2.1:7401", "[2001:db8::1]:7401", "[fe80::1%eth0.100]:7401", "[fe80::1%3]:1"]
)
def test_an_address_is_read_as_it_was_written(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "scope",
    ["", "a\nb", "eth0\n", "\x1b[2J", "eth0 joined", "eth0]", "%eth0", "\u00e9", "e" * 16],
)
def test_a_scope_is_an_interfaces_name_and_no_other_text(scope: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Address(f"fe80::1%{scope}", 7401)
    assert str(refused.value).isprintable()
    with pytest.raises(ConfigError):
        Address.parse(f"[fe80::1%{scope}]:7401")
