"""The demo's checks: each is computed from what was observed, and each can fail."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from inference.request import BLOCK_TOKENS
from overlay.demo.record import RequestRecord

Tokens = tuple[int, ...]


def outputs_equal_cold_run(records: Sequence[RequestRecord], cold: Mapping[int, Tokens]) -> bool:
    """Whether every answer has the token ids of a cache-off run of the same question.

    Args:
        records: All answered requests of all policies.
        cold: Token ids by question number, from an engine that reuses nothing.
    """
    answered = [record for record in records if record.status == "ok"]
    return bool(answered) and all(record.token_ids == cold[record.number] for record in answered)


def all_requests_ended_once(records: Sequence[RequestRecord], expected: Mapping[str, int]) -> bool:
    """Whether every policy has its number of requests, each with one ending and none twice."""
    seen = Counter((record.policy, record.number) for record in records)
    per_policy = Counter(record.policy for record in records)
    return (
        all(record.status == "ok" and record.endings == 1 for record in records)
        and set(seen.values()) == {1}
        and dict(per_policy) == dict(expected)
    )


def no_cross_tenant_hit(
    records: Sequence[RequestRecord], prompts: Mapping[tuple[str, int], Tokens]
) -> bool:
    """Replays the log: each cached token must come from its own tenant's requests at that peer.

    A request may have hit what any request of the same tenant that its peer was given, under way
    before this one's first token, has left there: its prompt, of which each chunk is kept as soon
    as it is computed, in one batch with this one's perhaps; and, since decoded blocks are kept, its
    answer. Caches start empty with each policy.

    Args:
        records: The request log.
        prompts: Prompt token ids by (tenant, question number), tokenised here.
    """
    return all(
        record.cached_tokens <= explained_tokens(record, records, prompts)
        for record in records
        if record.status == "ok"
    )


def explained_tokens(
    record: RequestRecord,
    records: Sequence[RequestRecord],
    prompts: Mapping[tuple[str, int], Tokens],
) -> int:
    """The most prompt tokens that this request can have found cached, in whole blocks."""
    prompt = prompts[record.tenant, record.number]
    longest = 0
    for other in records:
        of_the_same = (other.policy, other.tenant) == (record.policy, record.tenant)
        at_the_same_place = of_the_same and record.served_by in other.tried
        before = other.began_s < record.began_s + record.ttft_s
        if at_the_same_place and before and other.number != record.number:
            left = prompts[other.tenant, other.number] + other.token_ids
            longest = max(longest, shared(prompt, left))
    return longest // BLOCK_TOKENS * BLOCK_TOKENS


def shared(left: Tokens, right: Tokens) -> int:
    """Length of the longest common prefix."""
    for index, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return index
    return min(len(left), len(right))
