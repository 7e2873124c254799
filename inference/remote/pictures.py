"""Which picture of a server's cache a preflight allows: told by its events, or estimated."""

from __future__ import annotations

from functools import partial

from inference.remote.engine import Pictured
from inference.remote.estimate import Estimate
from inference.remote.events.feed import EventFeed, FeedSettings
from inference.remote.events.mirror import Mirror
from inference.remote.preflight import Preflight
from inference.request import BLOCK_TOKENS


def picture_of(preflight: Preflight) -> Pictured:
    """The picture for what was found.

    Events name tokens, so they are of use only where prompts are read as tokens; they are folded
    for the server's first model, as one server computes one. Where they cannot be followed after
    all, there is an estimate instead.
    """
    first = preflight.models[0]
    if not preflight.sources or not preflight.readers[first.name].tokens:
        return Pictured(picture=_estimate(preflight))
    mirror = Mirror(first.prefix, ranks=len(preflight.sources))
    feed = EventFeed(mirror, FeedSettings(sources=preflight.sources))
    return Pictured(picture=mirror, run=feed.run, instead=partial(_estimate, preflight))


def _estimate(preflight: Preflight) -> Estimate:
    """As much as the server tells that its cache holds, or as its slots can hold at first."""
    context = max(model.context_tokens for model in preflight.models)
    return Estimate(
        capacity_blocks=preflight.cache_blocks or preflight.slots * context // BLOCK_TOKENS,
        block_tokens=preflight.block_tokens,
    )
