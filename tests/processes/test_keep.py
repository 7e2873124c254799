"""What a cluster's processes do when the block that made them is over."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import trio

from overlay.demo.cluster import PeerProcess, running_cluster

pytestmark = pytest.mark.processes

TOY = ("--engine", "toy")


def run_one(folder: Path, *, keep: bool, fail: bool = False) -> PeerProcess:
    """Starts one peer, and leaves the block well or with an error."""
    made: list[PeerProcess] = []

    async def main() -> None:
        async with running_cluster(folder, ("anna",), ("default",), keep=keep) as cluster:
            made.extend(cluster.peers)
            await cluster.create()
            await cluster.start(*TOY)
            if fail:
                raise ValueError("on purpose")

    if fail:
        with pytest.raises(ValueError, match="on purpose"):
            trio.run(main)
    else:
        trio.run(main)
    return made[0]


def test_a_kept_peer_answers_after_the_loop_that_started_it_is_over(tmp_path: Path) -> None:
    peer = run_one(tmp_path, keep=True)
    process = peer.process
    assert process is not None
    try:
        assert trio.run(peer.status).peer_id == peer.peer_id
    finally:
        os.kill(peer.pids[-1], signal.SIGKILL)
        os.waitpid(peer.pids[-1], 0)


@pytest.mark.parametrize(("keep", "fail"), [(False, False), (False, True), (True, True)])
def test_other_peers_are_gone_with_the_block(tmp_path: Path, *, keep: bool, fail: bool) -> None:
    peer = run_one(tmp_path, keep=keep, fail=fail)
    assert not Path(f"/proc/{peer.pids[-1]}").exists()
