"""Every fault by its name in a scenario."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields

from chaos.errors import ScenarioError
from chaos.faults import client, clock, disk, link, metadata, process, security, topology, worker
from chaos.faults.fault import Family, Fault

FAULTS: tuple[type[Fault], ...] = (
    link.Latency,
    link.Jitter,
    link.Loss,
    link.Duplicate,
    link.Reorder,
    link.Corrupt,
    link.Bandwidth,
    link.Mtu,
    link.Slice,
    link.Jam,
    link.Blackhole,
    link.Reset,
    link.SlowClose,
    link.LimitData,
    topology.Partition,
    topology.OneWay,
    topology.Bridge,
    topology.RingMajorities,
    topology.Isolate,
    topology.Flap,
    topology.Swizzle,
    topology.BootstrapGone,
    topology.NatRebind,
    topology.Eclipse,
    clock.Skew,
    clock.Offset,
    clock.Jump,
    clock.Strobe,
    clock.Freeze,
    process.Crash,
    process.Kill9,
    process.StopCont,
    process.SlowCpu,
    process.RestartSame,
    process.RestartWiped,
    process.RestartRolledBack,
    process.RestartNewIdentity,
    process.FdExhausted,
    process.MemoryCap,
    disk.Full,
    disk.TornWrite,
    disk.LostUnsynced,
    metadata.StaleDigest,
    metadata.Replay,
    metadata.SequenceRollback,
    metadata.OverClaim,
    metadata.UnderClaim,
    metadata.ChurnStorm,
    metadata.EventGap,
    security.RevokedKeepsTalking,
    security.RevokedInPartition,
    security.RevokedTwice,
    security.TokenRevoked,
    security.ForgedSignature,
    security.GarbageBytes,
    security.Slowloris,
    security.Flood,
    security.CrossTenantProbe,
    security.MemberRemoved,
    security.ClonedHost,
    security.RestoredCopy,
    security.TenantRotated,
    security.TenantRotatedHard,
    security.RootRotated,
    worker.SlowGpu,
    worker.Stall,
    worker.EngineCrash,
    worker.EvictionStorm,
    worker.StreamCut,
    worker.LieCached,
    worker.OomAtStep,
    worker.WrongModel,
    worker.KvCorrupt,
    worker.EarlyEos,
    worker.ServerRestart,
    client.DisconnectMidStream,
    client.SlowReader,
    client.DuplicateSubmit,
    client.Cancel,
    client.Burst,
    client.GiantPrompt,
)

BY_KIND: Mapping[str, type[Fault]] = {fault.kind: fault for fault in FAULTS}


def fault_named(kind: str) -> type[Fault]:
    """A fault by name; raises ``ScenarioError`` that names the nearest one."""
    found = BY_KIND.get(kind)
    if found is None:
        raise ScenarioError(
            f"there is no fault {kind!r}{nearest(kind, list(BY_KIND))}; "
            "`rhizome chaos faults` lists them"
        )
    return found


def fault_of(kind: str, settings: Mapping[str, float]) -> Fault:
    """A fault with its quantities; raises ``ScenarioError`` for one that it has not."""
    found = fault_named(kind)
    known = [field.name for field in fields(found)]
    for name in settings:
        if name not in known:
            raise ScenarioError(
                f"fault {kind} has no {name!r}{nearest(name, known)}; "
                f"it has {', '.join(known) or 'nothing to set'}"
            )
    return found(**settings)


def of_family(family: Family) -> tuple[type[Fault], ...]:
    """The faults of a family, in the catalogue's order."""
    return tuple(fault for fault in FAULTS if fault.family is family)


def nearest(word: str, known: list[str]) -> str:
    """``, did you mean 'x'?`` where something known is like the word."""
    found = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f", did you mean {found[0]!r}?" if found else ""
