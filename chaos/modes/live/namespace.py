"""Network namespaces of our own, and TAP devices in them; Linux only (namespaces(7), tuntap.rst).

A namespace has no name: a descriptor of ours holds it, and the processes in it do. When these are
gone, however they ended, so is the namespace with its devices. Nothing is ever changed in the
namespace that the harness runs in: it has no device, address or route to show for it.

The system keeps the namespace by thread. The thread that does this is somewhere else for as long as
a block without any await lasts, and comes back.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from chaos.errors import Unsupported

TUN = Path("/dev/net/tun")
WHERE_WE_ARE = Path("/proc/thread-self/ns/net")
WITHOUT_IPV6 = Path("/proc/sys/net/ipv6/conf/default/disable_ipv6")

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TAP, IFF_NO_PI = 0x400454CA, 0x0002, 0x1000
SIOCSIFFLAGS, SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFHWADDR = 0x8914, 0x8916, 0x891C, 0x8924
UP = 0x1 | 0x2 | 0x40 | 0x1000
"""An interface that is up, runs, and has broadcast and multicast (netdevice(7))."""

LOOPBACK_UP = 0x1 | 0x8 | 0x40
ETHERNET = 1
LOOPBACK = "lo"
NETMASK = "255.255.255.0"
NAME_BYTES_MAX = 15

_FLAGS, _ADDRESS, _HARDWARE = "16sH14x", "16sHH4s8x", "16sH6s8x"

WHAT_TO_DO = (
    "Run it as root, in a container with --cap-add SYS_ADMIN --cap-add NET_ADMIN --device "
    '/dev/net/tun, or under `unshare --map-root-user --net`; or set `network = "loopback"`'
)

_LIBC = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """One network namespace, made with its loopback up; closing lets go of it.

    Raises:
        OSError: Where the system does not let us.
    """

    def __init__(self) -> None:
        self._descriptor = -1
        self._taps: list[int] = []
        here = os.open(WHERE_WE_ARE, os.O_RDONLY)
        try:
            _enter(here)  # fails where we could leave, but never come back
            _call(_LIBC.unshare(CLONE_NEWNET))
            try:
                self._descriptor = os.open(WHERE_WE_ARE, os.O_RDONLY)
                _prepare()
            except BaseException:
                self.close()
                raise
            finally:
                _enter(here)
        finally:
            os.close(here)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """Sockets and processes that are made in the block are in the namespace. No await in it."""
        here = os.open(WHERE_WE_ARE, os.O_RDONLY)
        try:
            _enter(self._descriptor)
            try:
                yield
            finally:
                _enter(here)
        finally:
            os.close(here)

    def add_tap(self, name: str, hardware: bytes, addresses: Sequence[str]) -> int:
        """Adds an interface whose cable is a descriptor: it gives and takes a frame a call.

        Args:
            name: Of the interface.
            hardware: Its Ethernet address.
            addresses: IPv4 ones of it, each of a network of 256.

        Returns:
            The descriptor, which does not block; it is closed with the namespace.

        Raises:
            OSError: Where the system does not let us.
        """
        assert 0 < len(name.encode()) <= NAME_BYTES_MAX, name
        with self.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            tap = os.open(TUN, os.O_RDWR | os.O_NONBLOCK)
            self._taps.append(tap)
            request = struct.pack(_FLAGS, name.encode(), IFF_TAP | IFF_NO_PI)
            fcntl.ioctl(tap, TUNSETIFF, request)
            request = struct.pack(_HARDWARE, name.encode(), ETHERNET, hardware)
            fcntl.ioctl(control, SIOCSIFHWADDR, request)
            for number, address in enumerate(addresses):
                # A name with a colon is one more address of the interface before it.
                alias = f"{name}:{number}" if number else name
                for what, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, NETMASK)):
                    packed = socket.inet_aton(value)
                    request = struct.pack(_ADDRESS, alias.encode(), socket.AF_INET, 0, packed)
                    fcntl.ioctl(control, what, request)
            _bring_up(control, name, UP)
        return tap

    def close(self) -> None:
        """Lets go of it and of its interfaces; doing it again does nothing more."""
        descriptors = [*self._taps, self._descriptor]
        self._taps, self._descriptor = [], -1
        for each in descriptors:
            if each >= 0:
                os.close(each)


def refusal() -> str | None:
    """Why this machine cannot make such namespaces; None where it can. It is really tried."""
    if not WHERE_WE_ARE.exists():
        return "the system has no network namespaces"
    if not TUN.exists():
        return f"there is no {TUN}, which TAP devices are made with"
    try:
        made = Namespace()
    except OSError as error:
        return f"a network namespace cannot be made: {_words(error)}"
    try:
        made.add_tap("probe", bytes([2, 0, 0, 0, 0, 1]), ["192.0.2.1"])
    except OSError as error:
        return f"a TAP device cannot be made in a network namespace: {_words(error)}"
    finally:
        made.close()
    return None


def check_can_make() -> None:
    """Raises ``Unsupported`` that says what is missing, and what to do."""
    why = refusal()
    if why is not None:
        raise Unsupported(f'network = "namespaces" is not to be had here: {why}. {WHAT_TO_DO}')


def _words(error: OSError) -> str:
    missing = error.errno in {errno.EPERM, errno.EACCES}
    return f"{error.strerror}" + (" (CAP_SYS_ADMIN and CAP_NET_ADMIN are needed)" * missing)


def _prepare() -> None:
    """Of the namespace that we are in: loopback up, and of IPv6 nothing but that.

    An interface's own IPv6 address cannot be used for a second or two after it came up.
    """
    if WITHOUT_IPV6.exists():
        WITHOUT_IPV6.write_text("1")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        _bring_up(control, LOOPBACK, LOOPBACK_UP)


def _bring_up(control: socket.socket, name: str, flags: int) -> None:
    fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack(_FLAGS, name.encode(), flags))


def _enter(descriptor: int) -> None:
    _call(_LIBC.setns(descriptor, CLONE_NEWNET))


def _call(result: int) -> None:
    """Raises ``OSError`` for what failed, going by errno."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
