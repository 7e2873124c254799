"""Every invariant: its wording, its checker, the bug that is planted for it, and its scenario."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from chaos.invariants import (
    account,
    authority,
    available,
    bounded,
    clean,
    converge,
    live,
    monotone,
    no_worse,
    output,
    phantom,
    tenant,
)
from chaos.invariants.invariant import Finding, Id
from chaos.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One invariant. ``scenario`` is a path from the repository root."""

    id: Id
    statement: str
    check: Callable[[Run], Finding]
    plant: str
    scenario: str


def _check(invariant: Id, check: Callable[[Run], Finding], plant: str, statement: str) -> Check:
    name = invariant.value.lower()
    return Check(
        id=invariant,
        statement=statement,
        check=check,
        plant=plant,
        scenario=f"chaos/scenarios/promise-{name}.toml",
    )


CHECKS: tuple[Check, ...] = (
    _check(
        Id.OUTPUT,
        output.check,
        "wrong-token-after-hit",
        "The tokens of a request equal those of a cold, cache-off, single-node run of the same "
        "request, resumed requests included.",
    ),
    _check(
        Id.TENANT,
        tenant.check,
        "cache-without-tenant",
        "B never uses or reads A's blocks, digests, prompts or names, and no block of A ever gives "
        "B a hit.",
    ),
    _check(
        Id.AUTHORITY,
        authority.check,
        "unsigned-records",
        "Only admitted, unrevoked peers change anything, and only for tenants whose roster names "
        "them. A forged, replayed or revoked message changes nothing.",
    ),
    _check(
        Id.MONOTONE,
        monotone.check,
        "old-heads",
        "For one origin and generation, accepted sequence numbers never fall. No (key, nonce) pair "
        "repeats, whatever is restored or cloned.",
    ),
    _check(
        Id.PHANTOM,
        phantom.check,
        "late-evictions",
        "A false or stale claim costs at most one extra hop and never a wrong or failed answer; a "
        "claim that is believed was true within its age.",
    ),
    _check(
        Id.CONVERGE,
        converge.check,
        "no-repairs",
        "With writes stopped, within a stated bound of healing: every live member's replica equals "
        "the origin's published set; every published prefix is held; unless truncated, every "
        "cached run end is published.",
    ),
    _check(
        Id.ACCOUNT,
        account.check,
        "token-twice-on-resume",
        "Each request ends exactly once: done, typed error, or cancelled. No token is lost, "
        "doubled or reordered.",
    ),
    _check(
        Id.AVAILABLE,
        available.check,
        "no-second-try",
        "A request that this peer could answer alone never fails because of other peers; in "
        "mid-stream too.",
    ),
    _check(
        Id.NO_WORSE,
        no_worse.check,
        "dearest-first",
        "With the overlay hurt, p99 time to first token is at most ttft_ratio_p99_max times that "
        "of the overlay-off twin, plus the forward budget (plus 1.5 s when the chosen peer falls "
        "silent).",
    ),
    _check(
        Id.BOUNDED,
        bounded.check,
        "bookings-kept",
        "Queues, sockets, memory, gossip bytes, digest size and index size have caps, and return "
        "to baseline.",
    ),
    _check(
        Id.LIVE,
        live.check,
        "endless-cancel",
        "No deadlock: progress in each window, shutdown within the grace time, cancelled scopes "
        "exit.",
    ),
    _check(
        Id.CLEAN,
        clean.check,
        "socket-left",
        "The harness leaves no process, socket, rule, namespace or file.",
    ),
)
"""In the order of the design's promises."""


def check_of(invariant: Id) -> Check:
    """The check of one invariant."""
    return next(check for check in CHECKS if check.id is invariant)


def check_all(run: Run) -> tuple[Finding, ...]:
    """Every invariant that the schedule expects, checked."""
    expected = run.schedule.expect.invariants
    return tuple(check.check(run) for check in CHECKS if check.id in expected)
