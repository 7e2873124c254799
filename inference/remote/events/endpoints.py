"""Where the ranks of a server publish: as vLLM and SGLang derive it from one endpoint.

Rank r adds r to a TCP port, or ``_dp<r>`` to an ``inproc`` name; nothing is derived for ``ipc``.
Both servers *bind* an endpoint with a wildcard host and connect to one without (``ipc`` is bound),
so an owner may give us either theirs or ours: a wildcard that we connect to is this host.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference.errors import InferenceError

_WILDCARDS = {"*": "127.0.0.1", "0.0.0.0": "127.0.0.1", "[::]": "[::1]", "::": "[::1]"}  # noqa: S104 - replaced by loopback
_PORT_MAX = 65_535


class EndpointUnusable(InferenceError):
    """An endpoint of events cannot be used; the message says why (blame: operator)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSource:
    """The publisher of one rank.

    ``replay`` is where missed batches can be asked for, None where that is not possible; ``topic``
    is what its messages begin with, empty for any. ``binds`` says that we bind ``endpoint``:
    servers connect to one without a wildcard.
    """

    endpoint: str
    replay: str | None = None
    topic: str = ""
    binds: bool = False


def of_rank(endpoint: str, rank: int) -> str:
    """The endpoint of a rank.

    Raises:
        EndpointUnusable: When there is none.
    """
    kind, _, address = endpoint.partition("://")
    if kind not in ("tcp", "ipc", "inproc") or not address:
        raise EndpointUnusable("an endpoint of events is tcp://host:port, ipc://path or inproc://")
    if kind == "tcp":
        host, colon, port = address.rpartition(":")
        if not colon or not host or not port.isdecimal():
            raise EndpointUnusable("a tcp endpoint of events has a host and a port")
        if int(port) + rank > _PORT_MAX:
            raise EndpointUnusable("a rank's port would be above 65535")
        return f"tcp://{host}:{int(port) + rank}"
    if rank == 0:
        return endpoint
    if kind == "ipc":
        raise EndpointUnusable("the events of several ranks need a tcp endpoint")
    return f"{endpoint}_dp{rank}"


def to_connect(endpoint: str) -> str:
    """The same, to connect to: a wildcard host becomes this one."""
    kind, _, address = endpoint.partition("://")
    if kind != "tcp":
        return endpoint
    host, _, port = address.rpartition(":")
    return f"tcp://{_WILDCARDS.get(host, host)}:{port}"
