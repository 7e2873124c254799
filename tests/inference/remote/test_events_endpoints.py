"""Where ranks publish, as it is derived from one endpoint."""

from __future__ import annotations

import pytest

from inference.remote.events.endpoints import EndpointUnusable, of_rank, to_connect


@pytest.mark.parametrize(
    "bad",
    ["", "5557", "tcp://", "tcp://host", "tcp://:5", "tcp://host:x", "udp://h:5", "tcp://h:65536"],
)
def test_what_is_no_endpoint(bad: str) -> None:
    with pytest.raises(EndpointUnusable):
        of_rank(bad, 0)


@pytest.mark.parametrize(
    ("endpoint", "connected"),
    [
        ("tcp://*:5557", "tcp://127.0.0.1:5557"),
        ("tcp://0.0.0.0:5557", "tcp://127.0.0.1:5557"),
        ("tcp://[::]:5557", "tcp://[::1]:5557"),
        ("tcp://192.0.2.1:5557", "tcp://192.0.2.1:5557"),
        ("ipc:///a:b", "ipc:///a:b"),
    ],
)
def test_a_wildcard_is_this_host_to_who_connects(endpoint: str, connected: str) -> None:
    assert to_connect(endpoint) == connected
