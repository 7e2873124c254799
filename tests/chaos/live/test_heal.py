"""What a harness that was killed leaves behind, and what ends its processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from chaos.errors import ChaosError
from chaos.modes.live.heal import Leftover, heal, is_over, processes_of
from chaos.modes.live.tag import (
    PREFIX,
    VARIABLE,
    RunTag,
    check_target,
    free_block,
    new_tag,
    started_ticks,
)
from overlay.home import Home
from tests.chaos.live.namespaces import needs_namespaces

SLEEPER = "import sys; print('up', flush=True); sys.stdin.read()"

LIVE = """
schema = 1
name = "doomed"
mode = "live"
warm_up_s = 60
duration_s = 60

[cluster]
nodes = 2
"""


@pytest.fixture
def dead_pid() -> int:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    return ended.pid


@pytest.fixture
def sleeper(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, VARIABLE: request.param},
    )
    assert process.stdout is not None
    process.stdout.readline()
    yield process
    process.kill()
    process.communicate()


def test_a_tag_names_its_harness() -> None:
    tag = new_tag()
    assert not is_over(tag.text)
    assert tag.folder.name == f"{PREFIX}{tag.text}"


def test_a_block_has_an_address_for_everybody() -> None:
    block = free_block()
    assert block.address(1).startswith("127.")
    addresses = [block.address(n) for n in (1, 64)] + [block.relay(n) for n in (1, 64)]
    assert len({*addresses, *(block.stranger(n) for n in range(32))}) == 36


def test_a_run_is_over_when_its_harness_is_dead_or_another_has_its_id(dead_pid: int) -> None:
    me = os.getpid()
    assert is_over(f"{dead_pid}-1-x")
    assert is_over(f"{me}-{started_ticks(me) + 1}-x")
    assert is_over("nonsense")
    assert not is_over(f"{me}-{started_ticks(me)}-x")


def test_a_folder_of_a_dead_run_goes_and_of_a_living_one_stays(
    temporary: Path, dead_pid: int
) -> None:
    dead, living = RunTag(f"{dead_pid}-1-0a"), new_tag()
    for tag in (dead, living):
        tag.folder.mkdir()
        (tag.folder / "n1").mkdir()
    other = temporary / "somebody-elses"
    other.mkdir()
    assert heal() == [Leftover("folder", dead.text, str(dead.folder))]
    assert heal() == []
    assert sorted(temporary.iterdir()) == sorted([living.folder, other])


@pytest.mark.parametrize("sleeper", ["1073741824-1-0a"], indirect=True)
@pytest.mark.usefixtures("temporary")
def test_a_process_of_a_dead_run_is_ended(sleeper: subprocess.Popen[bytes]) -> None:
    assert Leftover("process", "1073741824-1-0a", str(sleeper.pid)) in heal()
    assert sleeper.wait(timeout=10) == -signal.SIGKILL
    assert heal() == []


@pytest.mark.parametrize(
    "sleeper",
    [f"{os.getpid()}-{started_ticks(os.getpid())}-0a"],
    ids=["of this process"],
    indirect=True,
)
@pytest.mark.usefixtures("temporary")
def test_a_process_of_a_living_run_is_left(sleeper: subprocess.Popen[bytes]) -> None:
    assert heal() == []
    assert sleeper.poll() is None


@pytest.mark.parametrize("address", ["192.0.2.1", "10.0.0.1", "8.8.8.8", "::2"])
def test_nothing_but_loopback_is_a_target(address: str) -> None:
    check_target("127.1.2.3")
    with pytest.raises(ChaosError, match="no loopback"):
        check_target(address)


# -- whole harnesses


def heed_interrupts() -> None:
    """In the background of a shell the tests ignore SIGINT, and so would whatever they start."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Doomed:
    """A harness with two nodes, in its warm-up."""

    def __init__(self, folder: Path, cluster: str = "") -> None:
        self._folder = folder
        scenario = folder / "doomed.toml"
        scenario.write_text(f"{LIVE}{cluster}\n")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "overlay", "chaos", "run", str(scenario), "--out", folder / "o"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": str(folder)},
            preexec_fn=heed_interrupts,  # noqa: PLW1509 - it takes no lock
        )

    def nodes(self) -> list[int]:
        prefix = f"{self.process.pid}-"
        return [pid for pid, run in processes_of() if run.startswith(prefix)]

    def sockets(self) -> list[Path]:
        """Of both nodes, once their folders are there."""
        homes = [path for folder in self.folders() for path in folder.glob("n?") if path.is_dir()]
        return [Home(home).control_path() for home in homes]

    def folders(self) -> list[Path]:
        return list(self._folder.glob(f"{PREFIX}{self.process.pid}-*"))

    async def comes_up(self) -> list[int]:
        """Waits for the control sockets of both nodes."""
        with trio.fail_after(90):
            while len([path for path in self.sockets() if path.exists()]) < 2:
                assert self.process.poll() is None
                await trio.sleep(0.1)
        nodes = self.nodes()
        assert len(nodes) == 2
        return nodes

    async def loses_its_nodes(self) -> None:
        with trio.fail_after(20):
            while self.nodes():
                await trio.sleep(0.05)


@pytest.mark.processes
@pytest.mark.parametrize("cluster", ["", "plain_peers = true"])
async def test_nodes_end_when_their_harness_is_killed(temporary: Path, cluster: str) -> None:
    doomed = Doomed(temporary, cluster)
    try:
        nodes = await doomed.comes_up()
        sockets = doomed.sockets()
        os.kill(nodes[0], signal.SIGSTOP)
        doomed.process.kill()
        doomed.process.wait()
        await doomed.loses_its_nodes()
        (folder,) = doomed.folders()
        removed = heal()
        assert [(each.kind, each.name) for each in removed] == [("folder", str(folder))]
        assert not doomed.folders()
        assert not any(path.exists() for path in sockets)
        assert heal() == []
    finally:
        doomed.process.kill()


def interfaces(namespace: int) -> list[str]:
    """Of a network namespace that is held open by a descriptor."""
    entering = ["nsenter", f"--net=/proc/self/fd/{namespace}", "cat", "/proc/self/net/dev"]
    shown = subprocess.run(
        entering, pass_fds=[namespace], check=True, capture_output=True, text=True
    ).stdout
    return sorted(line.partition(":")[0].strip() for line in shown.splitlines()[2:])


@pytest.mark.processes
@needs_namespaces
async def test_namespaces_end_with_their_harness_and_its_nodes(temporary: Path) -> None:
    here = socket.if_nameindex()
    doomed = Doomed(temporary, 'network = "namespaces"')
    held: list[int] = []
    try:
        nodes = await doomed.comes_up()
        held += [os.open(f"/proc/{pid}/ns/net", os.O_RDONLY) for pid in nodes]
        assert sorted(map(interfaces, held)) == [["lo", "rhz-n1"], ["lo", "rhz-n2"]]
        os.kill(nodes[0], signal.SIGSTOP)
        doomed.process.kill()
        doomed.process.wait()
        await doomed.loses_its_nodes()
        assert list(map(interfaces, held)) == [["lo"], ["lo"]], "what holds them is this test alone"
        (folder,) = doomed.folders()
        assert [(each.kind, each.name) for each in heal()] == [("folder", str(folder))]
        assert heal() == []
        assert socket.if_nameindex() == here
    finally:
        doomed.process.kill()
        for each in held:
            os.close(each)


@pytest.mark.processes
@pytest.mark.parametrize("interrupt", [signal.SIGINT, signal.SIGTERM])
async def test_an_interrupted_harness_leaves_nothing(
    temporary: Path, interrupt: signal.Signals
) -> None:
    doomed = Doomed(temporary)
    try:
        nodes = await doomed.comes_up()
        sockets = doomed.sockets()
        os.kill(nodes[0], signal.SIGSTOP)
        doomed.process.send_signal(interrupt)
        with trio.fail_after(30):
            code = await trio.to_thread.run_sync(doomed.process.wait, abandon_on_cancel=True)
        assert code == 130
        assert not doomed.nodes()
        assert not doomed.folders()
        assert not any(path.exists() for path in sockets)
    finally:
        doomed.process.kill()
