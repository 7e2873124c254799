"""Three hosts on a bridge, as network namespaces; needs root and Linux, touches nothing outside."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

BIN = Path(sys.executable).parent
SUBNET = "10.83.0"
SUBNET6 = "fd83::"


def run(*words: str) -> str:
    """A command's standard output; it must succeed."""
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout


def can_make_namespaces() -> bool:
    """Whether this machine lets us."""
    if os.geteuid() != 0 or shutil.which("ip") is None or shutil.which("bridge") is None:
        return False
    name = f"rz{os.getpid()}probe"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True)
    if made.returncode == 0:
        run("ip", "netns", "del", name)
    return made.returncode == 0


@dataclass
class Host:
    """One namespace with its own state folder."""

    name: str
    namespace: str
    address: str
    home: Path
    running: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        path = f"{BIN}:{os.environ['PATH']}"
        return {**os.environ, "RHIZOME_HOME": str(self.home), "PATH": path}

    def command(self, line: str, *, timeout_s: float = 60) -> str:
        """Runs a line as typed at this host's shell; its standard output."""
        done = subprocess.run(
            ["ip", "netns", "exec", self.namespace, "sh", "-c", line],
            env=self.environment,
            check=False,
            capture_output=True,
            text=True,
            timeout=timeout_s,
        )
        assert done.returncode == 0, f"{self.name}$ {line}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def start(self, line: str) -> None:
        """Starts a line in the background; its log goes into the state folder's neighbour."""
        log = self.home.with_suffix(".log").open("w")
        self.running.append(
            subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *line.split()],
                env=self.environment,
                stdout=log,
                stderr=log,
                text=True,
            )
        )

    def wait_for(self, line: str, wanted: str, *, timeout_s: float = 90) -> str:
        """Repeats a command until its output holds ``wanted``."""
        deadline = time.monotonic() + timeout_s
        output = ""
        while time.monotonic() < deadline:
            done = subprocess.run(
                ["ip", "netns", "exec", self.namespace, "sh", "-c", line],
                env=self.environment,
                check=False,
                capture_output=True,
                text=True,
                timeout=30,
            )
            output = done.stdout + done.stderr
            if wanted in output:
                return output
            assert all(process.poll() is None for process in self.running), self.log()
            time.sleep(0.3)
        raise AssertionError(f"{self.name}$ {line}: no {wanted!r} in\n{output}\n{self.log()}")

    def log(self) -> str:
        path = self.home.with_suffix(".log")
        return path.read_text() if path.exists() else ""

    def stop(self) -> None:
        """Ends what was started, politely first."""
        for process in self.running:
            process.terminate()
        for process in self.running:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def lan(folder: Path) -> Iterator[dict[str, Host]]:
    """Hosts ``first`` and ``dual`` (IPv4 and IPv6) and ``quiet``, behind a wall for multicast."""
    tag = f"rz{os.getpid()}"
    bridge = f"{tag}br"
    hosts: dict[str, Host] = {}
    made: list[str] = []
    try:
        run("ip", "netns", "add", bridge)
        made.append(bridge)
        run("ip", "-n", bridge, "link", "add", "sw0", "type", "bridge", "mcast_snooping", "0")
        run("ip", "-n", bridge, "link", "set", "sw0", "up")
        for number, name in enumerate(("first", "dual", "quiet"), start=1):
            namespace = f"{tag}{name}"
            run("ip", "netns", "add", namespace)
            made.append(namespace)
            join_bridge(bridge, namespace, number, dual=name in {"dual", "first"})
            if name == "quiet":
                block_multicast(bridge, namespace, number)
            address = f"{SUBNET}.{number}"
            hosts[name] = Host(name, namespace, address, folder / name)
        yield hosts
    finally:
        for host in hosts.values():
            host.stop()
        for namespace in reversed(made):
            run("ip", "netns", "del", namespace)


def join_bridge(bridge: str, namespace: str, number: int, *, dual: bool) -> None:
    """A cable from the namespace's ``eth0`` to the bridge."""
    run(
        "ip",
        "-n",
        bridge,
        "link",
        "add",
        f"p{number}",
        "type",
        "veth",
        "peer",
        "name",
        "eth0",
        "netns",
        namespace,
    )
    run("ip", "-n", bridge, "link", "set", f"p{number}", "master", "sw0", "up")
    run("ip", "-n", namespace, "addr", "add", f"{SUBNET}.{number}/24", "dev", "eth0")
    if dual:
        run("ip", "-n", namespace, "addr", "add", f"{SUBNET6}{number}/64", "dev", "eth0", "nodad")
    run("ip", "-n", namespace, "link", "set", "lo", "up")
    run("ip", "-n", namespace, "link", "set", "eth0", "up")


def block_multicast(bridge: str, namespace: str, number: int) -> None:
    """No multicast reaches the host, none leaves it."""
    run("bridge", "-n", bridge, "link", "set", "dev", f"p{number}", "mcast_flood", "off")
    run("ip", "-n", namespace, "route", "add", "unreachable", "224.0.0.0/4")
