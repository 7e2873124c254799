"""How much one client may ask of this peer: requests, prompt tokens and requests at once.

Each token and each tenant has an account of its own at each peer; a request counts in both. Rates
are kept as the virtual scheduling time of the generic cell rate algorithm (ITU-T I.371): one number
says how far ahead of its rate an account is, and it may be :data:`BURST_S` ahead.

Rules
1. A request is refused before its body is looked at. Prompt tokens are known only after that: they
   are charged then, and who owes more than the burst is refused until it does not.
2. A tenant that this peer does not serve is refused before anything is kept of it: else such tokens
   would take the places of those that it serves.
3. Memory is bounded whatever ids come. Accounts that say nothing, being neither ahead nor in use,
   make room for others. Where no place is left, the tokens of that tenant (the tenants of this
   peer) that have none share one account: a flood of ids takes room from its own tenant alone.
4. This host's owner, who asks over the Unix socket, is not counted.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from overlay.errors import RequestError
from overlay.gossip.epochs import EPOCHS_MAX
from overlay.ports import Clock
from overlay.principals import OWNER
from overlay.request import Principal
from overlay.work import not_a_member
from security.tenant import TenantId

BURST_S = 10.0
"""How far an account may run ahead of its rate: a page of parallel calls is no flood."""

TOKENS_MAX = 1024
"""Accounts of one tenant's tokens."""

TENANTS_MAX = EPOCHS_MAX
"""Tenants with accounts: as many as a host can be in. One that is full of tokens takes 0.5 MB."""

LOOKED_AT = 8
"""Accounts, of those unused for longest, that are looked at for one that can go."""

BUSY_RETRY_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """What one token, or one tenant, may use. 0 stands for no limit."""

    requests_per_min: float = 0.0
    prompt_tokens_per_min: float = 0.0
    concurrent: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLimits:
    """What every token and every tenant may use at one peer."""

    token: Quota = Quota()
    tenant: Quota = Quota()


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """The limit that is reached, and after how many seconds there is room again."""

    limit: str
    retry_after_s: float


class Meter:
    """One rate. ``ahead_s`` seconds of it are used up already at ``now_s``."""

    __slots__ = ("_per_s", "_until_s")

    def __init__(self, per_min: float) -> None:
        self._per_s = per_min / 60
        self._until_s = -math.inf

    def ahead_s(self, now_s: float) -> float:
        """How long the account has to rest until it is as fresh."""
        return max(0.0, self._until_s - now_s)

    def wait_s(self, now_s: float) -> float:
        """How long until it may be charged again; 0: now."""
        return max(0.0, self.ahead_s(now_s) - BURST_S)

    def charge(self, count: float, now_s: float) -> None:
        """Takes ``count`` off; more than there is becomes a debt."""
        if self._per_s:
            self._until_s = max(self._until_s, now_s) + count / self._per_s


class Account:
    """What one token or tenant uses."""

    __slots__ = ("_concurrent", "prompt_tokens", "requests", "running")

    def __init__(self, quota: Quota) -> None:
        self.requests = Meter(quota.requests_per_min)
        self.prompt_tokens = Meter(quota.prompt_tokens_per_min)
        self._concurrent = quota.concurrent
        self.running = 0

    def is_fresh(self, now_s: float) -> bool:
        """Whether a new account would say the same."""
        ahead_s = self.requests.ahead_s(now_s) + self.prompt_tokens.ahead_s(now_s)
        return self.running == 0 and ahead_s == 0

    def refusal(self, now_s: float) -> Refusal | None:
        """Which limit is reached; None while there is room."""
        if self._concurrent and self.running >= self._concurrent:
            return Refusal(limit="concurrent", retry_after_s=BUSY_RETRY_S)
        for name, meter in (("requests", self.requests), ("prompt_tokens", self.prompt_tokens)):
            if wait_s := meter.wait_s(now_s):
                return Refusal(limit=name, retry_after_s=wait_s)
        return None


class Tenant:
    """A tenant's account, and those of its tokens."""

    __slots__ = ("account", "tokens")

    def __init__(self, limits: QuotaLimits) -> None:
        self.account = Account(limits.tenant)
        self.tokens = Places(lambda: Account(limits.token), TOKENS_MAX)

    def is_fresh(self, now_s: float) -> bool:
        """Whether a new one would say the same."""
        return self.account.is_fresh(now_s) and self.tokens.is_fresh(now_s)


class Kept(Protocol):
    """Something that need not be kept while it is fresh."""

    def is_fresh(self, now_s: float) -> bool: ...


K = TypeVar("K", bound=Kept)


class Places(Generic[K]):
    """A bounded number of things by id, and one for all ids that find no place."""

    def __init__(self, make: Callable[[], K], most: int) -> None:
        self._make = make
        self._most = most
        self._kept: OrderedDict[str, K] = OrderedDict()
        self._crowd = make()

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[K]:
        return iter(self._kept.values())

    def of(self, name: str, now_s: float) -> K:
        """What is kept of an id; what the crowd shares where there is no place for it."""
        found = self._kept.get(name)
        if found is not None:
            self._kept.move_to_end(name)
            return found
        if len(self._kept) >= self._most and not self._made_room(now_s):
            return self._crowd
        made = self._kept[name] = self._make()
        return made

    def is_fresh(self, now_s: float) -> bool:
        """Whether nothing of it need be kept."""
        return self._crowd.is_fresh(now_s) and all(each.is_fresh(now_s) for each in self)

    def _made_room(self, now_s: float) -> bool:
        for name in list(itertools.islice(self._kept, LOOKED_AT)):
            if self._kept[name].is_fresh(now_s):
                del self._kept[name]
                return True
        return False


class Quotas:
    """The accounts of one peer. ``refused`` counts refusals by whose limit it was, and which."""

    def __init__(
        self, limits: QuotaLimits, clock: Clock, *, serves: Callable[[TenantId], bool]
    ) -> None:
        """Begins with no accounts; ``serves`` says whether a tenant is one of this peer's."""
        self._clock = clock
        self._serves = serves
        self._tenants = Places(lambda: Tenant(limits), TENANTS_MAX)
        self.refused: Counter[str] = Counter()

    def __len__(self) -> int:
        """Accounts that are kept."""
        return len(self._tenants) + sum(len(tenant.tokens) for tenant in self._tenants)

    @contextmanager
    def admitted(self, principal: Principal) -> Iterator[None]:
        """Counts a request for as long as the block lasts.

        Raises:
            RequestError: 421 where its tenant is not served here; 429 with ``retry_after_s``, where
                its token or tenant has used all that it may. Nothing is counted then.
        """
        if not self._serves(principal.tenant):
            raise not_a_member()
        now_s = self._clock.now_s()
        accounts = self._accounts_of(principal, now_s)
        for whose, account in accounts.items():
            refusal = account.refusal(now_s)
            if refusal is not None:
                self.refused[f"{whose}_{refusal.limit}"] += 1
                raise too_much(whose, refusal)
        for account in accounts.values():
            account.requests.charge(1, now_s)
            account.running += 1
        try:
            yield
        finally:
            for account in accounts.values():
                account.running -= 1

    def charge(self, principal: Principal, prompt_tokens: int) -> None:
        """Counts what a request that was admitted turned out to hold."""
        now_s = self._clock.now_s()
        for account in self._accounts_of(principal, now_s).values():
            account.prompt_tokens.charge(prompt_tokens, now_s)

    def _accounts_of(self, principal: Principal, now_s: float) -> dict[str, Account]:
        """Where a request counts, by whose account it is."""
        if principal.token_id == OWNER:
            return {}
        tenant = self._tenants.of(principal.tenant, now_s)
        token = tenant.tokens.of(principal.token_id, now_s)
        return {"token": token, "tenant": tenant.account}


WORDS = {
    "concurrent": "has as many requests under way as it may",
    "requests": "has made as many requests as it may",
    "prompt_tokens": "has sent as many prompt tokens as it may",
}


def too_much(whose: str, refusal: Refusal) -> RequestError:
    """A 429 in OpenAI's terms."""
    after_s = math.ceil(refusal.retry_after_s)
    return RequestError(
        f"this {whose} {WORDS[refusal.limit]} at this peer: try again in {after_s} s",
        code="rate_limit_exceeded",
        status=429,
        retry_after_s=after_s,
    )
