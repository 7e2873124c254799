"""What a host that is no member of a tenant can still see: `python -m benchmarks.traffic [--json]`.

Three simulated peers, virtual time. Two are members of tenant `secret`: one is asked a new long
prompt every ten seconds for ten minutes, the other is idle and gets some of them forwarded. The
third is a member of another tenant only, and writes down every gossip message that reaches it. It
opens nothing; what is printed is what is left to be counted: sizes, times, how many streams, and
when EPOCH objects change. A twin without any request shows what an idle overlay looks like to it.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from statistics import mean
from typing import Any

import trio

from chaos.adversary import listen
from chaos.simulation import run_simulation
from chaos.world import World, until, world_of
from inference.toy import ToyConfig
from overlay.gossip.messages import (
    Bundle,
    Heads,
    Repair,
    decode_frame,
    decode_head,
    decode_message,
)
from security.peer_id import PeerId
from security.signed import Kind, verify_peer

SEED = 5
WATCHED_S = 600.0
ASK_EVERY_S = 10.0
ROTATED_AT_S = 300.0
TOY = ToyConfig(slots=4, prefill_tokens_per_s=5000.0, decode_s_per_token=0.02)


@dataclass
class Seen:
    """What the outsider notes of one origin."""

    bundles: Counter[int] = field(default_factory=Counter)
    frames: list[int] = field(default_factory=list)
    names: dict[bytes, None] = field(default_factory=dict)
    most_streams: int = 0
    renamed_s: list[float] = field(default_factory=list)

    def table(self) -> dict[str, Any]:
        return {
            "bundle_bytes": {str(size): count for size, count in sorted(self.bundles.items())},
            "frames": len(self.frames),
            "frame_bytes_mean": round(mean(self.frames)) if self.frames else 0,
            "streams": self.most_streams,
            "stream_names": len(self.names),
            "renamed_at_s": self.renamed_s,
        }


class Outsider:
    """Listens at a node that is no member."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.seen: dict[str, Seen] = {}
        self.epochs: set[tuple[bytes, int, int]] = set()
        self.began_s = trio.current_time()
        node = world.hosts[2].running
        self._overlay_id = node.identity.trust.overlay_id
        listen(node, lambda _, data: self.note(data))

    def of(self, signer: PeerId) -> Seen:
        names = {host.identity.peer_id: host.name for host in self.world.hosts}
        return self.seen.setdefault(names[signer], Seen())

    def note(self, data: bytes) -> None:
        message = decode_message(data)
        match message:
            case Bundle():
                self._head(message.head, len(data))
                self._frames(message.frames)
            case Repair():
                self._frames(message.frames)
            case Heads():
                self.epochs |= {(one.object_id, one.epoch, one.version) for one in message.epochs}

    def _head(self, data: bytes, size: int) -> None:
        signed = verify_peer(data, Kind.HEAD, self._overlay_id)
        seen, head = self.of(PeerId(signed.signer)), decode_head(signed.value)
        seen.bundles[size] += 1
        seen.most_streams = max(seen.most_streams, len(head.streams))
        fresh = [one.stream for one in head.streams if one.stream not in seen.names]
        if fresh and seen.names:
            seen.renamed_s.append(round(trio.current_time() - self.began_s, 1))
        seen.names.update(dict.fromkeys(fresh))

    def _frames(self, frames: list[bytes]) -> None:
        for data in frames:
            signed = verify_peer(data, Kind.FRAME, self._overlay_id)
            self.of(PeerId(signed.signer)).frames.append(len(decode_frame(signed.value).envelope))


async def watched(*, asked: bool) -> dict[str, Any]:
    """Ten minutes of an overlay, as the outsider sees it."""
    outside = {0: ("other",), 1: ("other",), 2: ("secret",)}
    async with world_of(SEED, [TOY] * 3, tenants=("other", "secret"), outside=outside) as world:
        await until(lambda: all(len(host.running.peers.up()) == 2 for host in world.hosts))
        outsider, rotated = Outsider(world), False
        for number in range(int(WATCHED_S / ASK_EVERY_S)):
            if asked:
                text = f"question {number} of the secret tenant, in many words. " * 12
                await world.ask(world.hosts[0], text, tenant="secret", max_tokens=16)
            await trio.sleep_until(outsider.began_s + (number + 1) * ASK_EVERY_S)
            if not rotated and trio.current_time() - outsider.began_s >= ROTATED_AT_S:
                rotated = True
                assert world.authority is not None
                tenant_id = world.authority.tenant_id("secret")
                secret = world.entropy("rotation").secret
                world.authority, data = world.authority.rotate(tenant_id, secret)
                world.hosts[0].running.knowledge.learn_epoch(data)
        return {
            "origins": {name: seen.table() for name, seen in sorted(outsider.seen.items())},
            "epoch_objects": len({object_id for object_id, _, _ in outsider.epochs}),
            "epoch_versions_seen": len(outsider.epochs),
        }


def measured() -> dict[str, Any]:
    """Both runs: with requests in the tenant, and without."""
    return {
        name: run_simulation(SEED, partial(watched, asked=asked))
        for name, asked in (("asked", True), ("idle", False))
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quick", action="store_true", help="the same: it takes seconds")
    found = measured()
    if parser.parse_args().json:
        print(json.dumps(found, indent=2))
        return
    for run, seen in found.items():
        print(f"{run}: {seen['epoch_objects']} EPOCH objects, {seen['epoch_versions_seen']} seen")
        for name, table in seen["origins"].items():
            sizes = ", ".join(
                f"{count} of {size} B" for size, count in table["bundle_bytes"].items()
            )
            print(
                f"  {name}: bundles {sizes}; {table['frames']} frames of "
                f"{table['frame_bytes_mean']} B on average; {table['streams']} streams, "
                f"renamed at {table['renamed_at_s']} s"
            )


if __name__ == "__main__":
    main()
